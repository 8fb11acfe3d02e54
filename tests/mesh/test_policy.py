from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostproxy.mesh import policy
from hostproxy.mesh.document import Invalid
from hostproxy.mesh.policy import Policy, ServicePolicy
from hostproxy.mesh.rules import Rule
from hostproxy.mesh.subsets import SUBSETS, Subset

WHOLE = """
[defaults]
access = "deny"

[service.payments]
protocol = "http"
permissive = true
timeout = "2s"
balance = "round-robin"
prefer = "zone"
failover = ["dc2", "dc3"]
panic_threshold = 30
default_subset = "v1"

[[service.payments.allow]]
from = ["cart", "web"]
methods = ["POST"]
paths = ["/make-payment", "/v2/*"]

[[service.payments.allow]]
from = ["*"]

[service.payments.subset.v1]
version = "1.4.2-3~deb12u1"

[service.payments.subset.canary]
version = "2"
tags = ["blue", "urlprefix-/pay strip"]
meta = { region = "eu", owner = "" }

[service.cart]
timeout = "250ms"
failover = []
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
                    Rule(("cart", "web"), ("POST",), ("/make-payment", "/v2/*"), "policy.toml:15"),
                    Rule(("*",), (), (), "policy.toml:20"),
                ),
                prefer="zone",
                failover=("dc2", "dc3"),
                panic_threshold=30,
                default_subset="v1",
                subsets={
                    "v1": Subset(version="1.4.2-3~deb12u1"),
                    "canary": Subset(
                        version="2",
                        tags=("blue", "urlprefix-/pay strip"),
                        meta=(("owner", ""), ("region", "eu")),
                    ),
                },
            ),
            "cart": ServicePolicy(timeout=0.25, failover=()),
        },
    )


def test_a_policy_that_says_nothing_says_so(tmp_path: Path) -> None:
    file = os.path.join(write(tmp_path, policy="# nobody may call\n"), "policy.toml")
    assert policy.load(file) == Policy(default_access=None, default_source="", services={})


def test_an_empty_file_is_refused_because_it_would_deny_everything(tmp_path: Path) -> None:
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
        services={"payments": ServicePolicy(timeout=2.0, allow=(Rule(("cart",), (), (), "b.toml:3"),))},
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


def test_subsets_of_a_service_may_be_in_several_files(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        a='[service.payments]\ndefault_subset = "v2"\n[service.payments.subset.v1]\nversion = "1"\n',
        b='[service.payments.subset.v2]\nversion = "2"\n',
    )
    assert policy.load(path).services == {
        "payments": ServicePolicy(
            default_subset="v2", subsets={"v1": Subset(version="1"), "v2": Subset(version="2")}
        )
    }


def test_a_subset_in_two_files_is_refused_even_with_other_keys(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        a='[service.payments.subset.v1]\nversion = "1"\n',
        b='# \n[service.payments.subset.v1]\ntags = ["blue"]\n',
    )
    with pytest.raises(Invalid) as caught:
        policy.load(path)
    assert [str(problem).removeprefix(f"{path}/") for problem in caught.value.problems] == [
        "b.toml:2: service.payments.subset.v1: is given at a.toml:1 as well; keep one of the two"
    ]


def test_no_more_subsets_than_bounded_in_one_file_or_several(tmp_path: Path) -> None:
    text = [f'[service.payments.subset.v{number}]\nversion = "{number}"\n' for number in range(SUBSETS + 1)]
    (found,) = problems_of("".join(text), tmp_path)
    assert found == f"1: service.payments.subset: there are {SUBSETS + 1}, the most is {SUBSETS}"
    path = write(tmp_path, policy="".join(text[:40]), rest="".join(text[40:]))
    with pytest.raises(Invalid) as caught:
        policy.load(path)
    assert [str(problem).removeprefix(f"{path}/") for problem in caught.value.problems] == [
        f"rest.toml:{2 * (SUBSETS - 40) + 1}: service.payments.subset.v64: is one of 65 subsets, the most is 64"
    ]


def test_a_default_subset_is_looked_for_only_when_all_files_are_understood(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        a='[service.payments]\ndefault_subset = "v2"\n',
        b='[service.payments.subset.v2]\nverison = "2"\n',
    )
    with pytest.raises(Invalid) as caught:
        policy.load(path)
    assert [problem.message for problem in caught.value.problems] == ["unknown key"]


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
        ("[service.payments.breaker]", "1: service.payments.breaker: unknown key; did you mean "),
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
            "2: service.payments.allow: is empty; leave it out, and access decides",
        ),
        ("[[service.a.allow]]", "1: service.a.allow[0].from: is missing; it is the services that call"),
        ("[[service.a.allow]]\nfrom = []", '2: service.a.allow[0].from: is empty; write "*" to mean every'),
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
        (
            "[service.a]\nprefer = 'zones'",
            '2: service.a.prefer: expected one of "none", "zone", "round-trip", found "zones"; did you mean "zone"?',
        ),
        ("[service.a]\nfailover = 'dc2'", '2: service.a.failover: expected an array, found "dc2"; put it into'),
        ("[service.a]\nfailover = ['dc2', 'dc2']", '2: service.a.failover[1]: "dc2" is there twice'),
        ("[service.a]\nfailover = ['DC2']", '2: service.a.failover[0]: "DC2" is not the name of a datacenter'),
        ("[service.a]\npanic_threshold = 101", "2: service.a.panic_threshold: 101 is too high; the most is 100"),
        ("[service.a]\npanic_threshold = 0.5", "2: service.a.panic_threshold: expected a whole number, found"),
        (
            "[service.a]\ndefault_subset = 'v2'",
            '2: service.a.default_subset: "v2" is no subset of this service; it has none',
        ),
        (
            "[service.a]\ndefault_subset = 'canery'\n[service.a.subset.canary]\nversion = '2'",
            '2: service.a.default_subset: "canery" is no subset of this service; did you mean "canary"?',
        ),
        (
            "[service.a]\ndefault_subset = 'x'\nsubset = { v1 = { version = '1' }, v2 = { version = '2' } }",
            '2: service.a.default_subset: "x" is no subset of this service; known here: v1, v2',
        ),
        ("[service.a.subset.v1]", "1: service.a.subset.v1: says nothing of its instances; give version, tags or"),
        ("[service.a.subset.v1]\nmeta = {}", "1: service.a.subset.v1: says nothing of its instances"),
        ("[service.a.subset.v1]\nversion = ''", "2: service.a.subset.v1.version: is empty"),
        ("[service.a.subset.v1]\nversion = 2", "2: service.a.subset.v1.version: expected a string, found the"),
        ("[service.a.subset.v1]\ntags = []", "2: service.a.subset.v1.tags: is empty; leave it out"),
        ('[service.a.subset.v1]\ntags = ["\\u0007"]', '2: service.a.subset.v1.tags[0]: "\\u0007" has control'),
        (
            "[service.a.subset.v1]\nmeta = { 'a b' = 'c' }",
            '2: service.a.subset.v1.meta."a b": is not a key of metadata; it has at most 128 ASCII letters',
        ),
        (
            f"[service.a.subset.v1]\nmeta = {{ a = '{'é' * 257}' }}",
            '2: service.a.subset.v1.meta.a: "' + "\\u00e9" * 60 + '..." is more than 512 bytes',
        ),
        ("[service.a.subset.V1]\nversion = '1'", '1: service.a.subset.V1: "V1" is not the name of a subset; did'),
        ("[service.a.subset.v1]\nverison = '1'", '2: service.a.subset.v1.verison: unknown key; did you mean "vers'),
    ],
)
def test_a_wrong_policy_says_where_and_why(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems_of(text, tmp_path)
    assert found.startswith(problem)
