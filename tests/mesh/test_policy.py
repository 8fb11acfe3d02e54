from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostproxy.mesh import policy
from hostproxy.mesh.document import Invalid
from hostproxy.mesh.policy import AllowRule, Policy, ServicePolicy

WHOLE = """
[defaults]
access = "deny"

[service.payments]
protocol = "http"
permissive = true
timeout = "2s"
balance = "round-robin"

[[service.payments.allow]]
from = ["cart", "web"]
methods = ["POST"]
paths = ["/make-payment", "/v2/*"]

[[service.payments.allow]]
from = ["*"]

[service.cart]
timeout = "250ms"
"""


def write(directory: Path, **files: str) -> str:
    for name, text in files.items():
        (directory / f"{name}.toml").write_text(text)
    return str(directory)


def problems_of(text: str, directory: Path) -> list[str]:
    file = Path(write(directory, policy=text)) / "policy.toml"
    with pytest.raises(Invalid) as caught:
        policy.load(str(file))
    return [str(problem).removeprefix(f"{file}:") for problem in caught.value.problems]


def test_a_policy_file(tmp_path: Path) -> None:
    file = os.path.join(write(tmp_path, policy=WHOLE), "policy.toml")
    assert policy.load(file) == Policy(
        default_access="deny",
        default_source="policy.toml:3",
        services={
            "payments": ServicePolicy(
                protocol="http",
                permissive=True,
                timeout=2.0,
                balance="round-robin",
                allow=(
                    AllowRule(("cart", "web"), ("POST",), ("/make-payment", "/v2/*"), "policy.toml:11"),
                    AllowRule(("*",), (), (), "policy.toml:16"),
                ),
            ),
            "cart": ServicePolicy(timeout=0.25),
        },
    )


def test_a_policy_that_says_nothing_says_so(tmp_path: Path) -> None:
    file = os.path.join(write(tmp_path, policy="# everybody may call\n"), "policy.toml")
    assert policy.load(file) == Policy(default_access=None, default_source="", services={})


def test_an_empty_file_is_refused_because_it_would_allow_everything(tmp_path: Path) -> None:
    assert problems_of("", tmp_path)[0].endswith("is empty; if that is meant, say so in a comment")


def test_a_directory_is_one_policy(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        a='[service.payments]\ntimeout = "2s"\n',
        b='[defaults]\naccess = "allow"\n[[service.payments.allow]]\nfrom = ["cart"]\n',
    )
    (tmp_path / "notes.txt").write_text("not policy")
    (tmp_path / ".hidden.toml").write_text("not policy")
    assert policy.load(path) == Policy(
        default_access="allow",
        default_source="b.toml:2",
        services={"payments": ServicePolicy(timeout=2.0, allow=(AllowRule(("cart",), (), (), "b.toml:3"),))},
    )


def test_a_key_in_two_files_is_refused_with_both_places(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        a='[defaults]\naccess = "deny"\n[service.payments]\ntimeout = "2s"\n[[service.payments.allow]]\nfrom = ["a"]',
        b='[service.payments]\ntimeout = "3s"\n[[service.payments.allow]]\nfrom = ["b"]\n[defaults]\naccess = "deny"',
    )
    with pytest.raises(Invalid) as caught:
        policy.load(path)
    assert [str(problem).removeprefix(f"{path}/") for problem in caught.value.problems] == [
        "b.toml:2: service.payments.timeout: is given at a.toml:4 as well; keep one of the two",
        "b.toml:3: service.payments.allow: is given at a.toml:5 as well; keep one of the two",
        "b.toml:6: defaults.access: is given at a.toml:2 as well; keep one of the two",
    ]


def test_the_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, a="a = 1", b="b = ", c="")
    with pytest.raises(Invalid) as caught:
        policy.load(path)
    assert [os.path.basename(problem.file) for problem in caught.value.problems] == [
        "a.toml",
        "b.toml",
        "c.toml",
    ]


def test_a_directory_without_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"has no \*.toml file"):
        policy.load(str(tmp_path))


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="No such file"):
        policy.load(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[default]", '1: default: unknown key; did you mean "defaults"?'),
        ("[defaults]\nacess = 'deny'", '2: defaults.acess: unknown key; did you mean "access"?'),
        ("[defaults]\naccess = 'none'", '2: defaults.access: expected one of "allow", "deny", found "none"'),
        ("[service.payments.retry]", "1: service.payments.retry: unknown key; known here: "),
        (
            "[service.payments]\ntimout = '2s'",
            '2: service.payments.timout: unknown key; did you mean "timeout"?',
        ),
        (
            "[service.payments]\ntimeout = 2",
            '2: service.payments.timeout: expected a duration like "250ms", found',
        ),
        ("[service.payments]\nbalance = 'maglev'", "2: service.payments.balance: expected one of"),
        ("[service.payments]\nprotocol = 'http3'", "2: service.payments.protocol: expected one of"),
        ("[service.payments]\npermissive = 'no'", "2: service.payments.permissive: expected true or false"),
        ("[service.host]", '1: service.host: "host" is not the name of a service'),
        (
            "[service.payments]\nallow = []",
            "2: service.payments.allow: is empty; leave it out, and [defaults]",
        ),
        ("[[service.a.allow]]", "1: service.a.allow[0].from: is missing; it is the services that may call"),
        ("[[service.a.allow]]\nfrom = []", '2: service.a.allow[0].from: is empty; write "*" to allow every'),
        (
            "[[service.a.allow]]\nfrom = 'cart'",
            '2: service.a.allow[0].from: expected an array, found "cart"; put',
        ),
        (
            "[[service.a.allow]]\nfrom = ['Cart']",
            '2: service.a.allow[0].from[0]: "Cart" is not the name of a',
        ),
        (
            "[[service.a.allow]]\nfrom = ['*']\nmethods = []",
            "3: service.a.allow[0].methods: is empty; leave the key",
        ),
        (
            "[[service.a.allow]]\nfrom = ['*']\npaths = []",
            "3: service.a.allow[0].paths: is empty; leave the key",
        ),
        (
            "[service.a]\nprotocol = 'tcp'\n[[service.a.allow]]\nfrom = ['*']\nmethods = ['GET']",
            '5: service.a.allow[0].methods: means nothing with protocol = "tcp"; leave it out',
        ),
    ],
)
def test_a_wrong_policy_says_where_and_why(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems_of(text, tmp_path)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("post", 'did you mean "POST"'),
        ("Get", 'did you mean "GET"'),
        ("GET ", "is not an HTTP method"),
        ("G T", "is not an"),
    ],
)
def test_methods_are_case_sensitive(tmp_path: Path, method: str, message: str) -> None:
    (found,) = problems_of(f"[[service.a.allow]]\nfrom = ['*']\nmethods = ['{method}']", tmp_path)
    assert message in found


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("orders", "is not a path"),
        ("*", "is not a path"),
        ("/a b", "is not a path"),
        ("/é", "is not a path"),
        ("/a?b=c", "has more than a path"),
        ("/a#b", "has more than a path"),
        ("/a/*/b", "before its end"),
        ("/a/../b", "segments"),
        ("/./a", "segments"),
    ],
)
def test_paths_are_exact_or_a_prefix(tmp_path: Path, path: str, message: str) -> None:
    (found,) = problems_of(f"[[service.a.allow]]\nfrom = ['*']\npaths = ['{path}']", tmp_path)
    assert message in found


def test_paths_that_are_taken() -> None:
    for text in ("/", "/*", "/a/b*", "/a%20b/..c", "/~a;b=c,d"):
        assert policy.path_pattern(text) == text
