"""Rules of access in a policy file."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostproxy.codec.http1.fields import REQUEST_KINDS
from hostproxy.mesh import policy, rules
from hostproxy.mesh.document import Invalid
from hostproxy.mesh.policy import Policy, ServicePolicy
from hostproxy.mesh.rules import Rule

RULES = b"""
[service.payments]
access = "allow"

[[service.payments.allow]]
from = ["cart", "*"]
methods = ["POST"]
paths = ["/make-payment", "/orders/{id}/items", "/v2/*"]
headers = { X-Role = "admin", x-canary = "*" }

[[service.payments.deny]]
from = ["*"]
audit = true
"""


def read(text: str) -> Policy:
    return policy.parse_files({"p.toml": text.encode()})


def problems_of(text: str) -> list[str]:
    with pytest.raises(Invalid) as caught:
        read(text)
    return [str(problem).removeprefix("p.toml:") for problem in caught.value.problems]


def one(**keys: str) -> str:
    """A file with one rule."""
    return "[[service.a.deny]]\nfrom = ['*']\n" + "\n".join(f"{key} = {value}" for key, value in keys.items())


def test_rules() -> None:
    assert policy.parse_files({"p.toml": RULES}).services == {
        "payments": ServicePolicy(
            access="allow",
            access_source="p.toml:3",
            allow=(
                Rule(
                    ("cart", "*"),
                    ("POST",),
                    ("/make-payment", "/orders/{id}/items", "/v2/*"),
                    "p.toml:5",
                    (("x-canary", "*"), ("x-role", "admin")),
                ),
            ),
            deny=(Rule(("*",), source="p.toml:11", audit=True),),
        )
    }


def test_files_in_memory_become_the_policy_that_files_on_disk_do(tmp_path: Path) -> None:
    files = {"b.toml": RULES, "a.toml": b"[defaults]\naccess = 'deny'\n[service.cart]\ntimeout = '2s'\n"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert policy.parse_files(files) == policy.load(str(tmp_path))
    assert policy.parse_files({}) == Policy()


def test_problems_of_files_in_memory_are_told_by_their_names() -> None:
    with pytest.raises(Invalid) as caught:
        deny = b"[defaults]\naccess = 'deny'\n"
        policy.parse_files({"b.toml": deny, "a.toml": b"\n" + deny, "c.toml": b""})
    assert [str(problem) for problem in caught.value.problems] == [
        "b.toml:2: defaults.access: is given at a.toml:3 as well; keep one of the two",
        "c.toml: is empty; if that is meant, say so in a comment",
    ]
    with pytest.raises(Invalid, match="has 1001 files"):
        policy.parse_files({f"{number}.toml": b"# \n" for number in range(1001)})


@pytest.mark.parametrize("key", ["access", "allow", "deny"])
def test_a_key_in_two_files_is_refused(key: str) -> None:
    text = b"[service.a]\naccess = 'deny'\n" if key == "access" else f"[[service.a.{key}]]\nfrom = ['*']\n".encode()
    with pytest.raises(Invalid) as caught:
        policy.parse_files({"a.toml": text, "b.toml": text})
    assert [problem.key for problem in caught.value.problems] == [f"service.a.{key}"]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("post", 'did you mean "POST"'),
        ("Get", 'did you mean "GET"'),
        ("GET ", "is not an HTTP method"),
        ("G T", "is not an"),
    ],
)
def test_methods_are_case_sensitive(method: str, message: str) -> None:
    (found,) = problems_of(one(methods=f"['{method}']"))
    assert message in found


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("orders", "is not a path"),
        ("*", "is not a path"),
        ("/a b", "is not a path"),
        ("/é", "is not a path"),
        ("/" + "a" * 1024, "is not a path"),
        ("/a?b=c", "has more than a path"),
        ("/a#b", "has more than a path"),
        ("/a/*/b", 'before its end; write "{name}"'),
        ("/a/../b", "segments"),
        ("/./a", "segments"),
        ("/{}", "a brace that is not part of"),
        ("/a{id}", "a brace that is not part of"),
        ("/{id", "a brace that is not part of"),
        ("/{a b}", "is not a path"),
        ("/{1}", "a brace that is not part of"),
        ("/{id}/a*", 'end it with "/*"'),
        ("/{id}*", "a brace that is not part of"),
    ],
)
def test_paths_are_exact_a_prefix_or_a_template(path: str, message: str) -> None:
    (found,) = problems_of(one(paths=f"['{path}']"))
    assert message in found


def test_paths_that_are_taken() -> None:
    for text in ("/", "/*", "/a/b*", "/a%20b/..c", "/~a;b=c,d", "/{id}", "/a/{order-id}/", "/{a}/{_b}/*"):
        assert rules.path(text) == text


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ("{}", ""),
        ("{ 'x role' = 'a' }", "is not the name of a header field"),
        ("{ x_role = 'a' }", "is not the name of a header field"),
        ("{ Host = 'a' }", "is a field that neither rules nor routes see"),
        ("{ X-Forwarded-For = 'a' }", "is a field that neither rules nor routes see"),
        ("{ X-Hostproxy-Caller = 'a' }", "is a field that neither rules nor routes see"),
        ("{ x = '' }", "is empty"),
        ("{ x = ' a' }", "is not a value to compare with"),
        ("{ x = 'é' }", "is not a value to compare with"),
        ('{ x = "a\\nb" }', "is not a value to compare with"),
        ("{ x = '" + "a" * 257 + "' }", "is not a value to compare with"),
        ("{ x = 'a*b' }", 'has "*" before its end'),
        ("{ x = 1 }", "expected a string"),
        ("{ " + ", ".join(f"x{number} = 'a'" for number in range(17)) + " }", "the most is 16"),
    ],
)
def test_header_fields(headers: str, message: str) -> None:
    if message:
        (found,) = problems_of(one(headers=headers))
        assert message in found
    else:
        assert read(one(headers=headers)).services["a"].deny[0].headers == ()


def test_a_header_field_twice_is_no_condition_less() -> None:
    (found,) = problems_of(one(headers="{ x-a = '1', X-A = '2' }"))
    assert found.startswith("3:")
    assert "says x-a twice" in found


def test_no_rule_is_about_a_field_that_the_proxy_acts_on() -> None:
    assert {name.decode() for name in REQUEST_KINDS} == rules.UNSEEN


@pytest.mark.parametrize("kind", ["allow", "deny"])
@pytest.mark.parametrize("key", ["methods = ['GET']", "paths = ['/']", "headers = { x = 'y' }"])
def test_connections_are_allowed_and_denied_by_who_calls_alone(kind: str, key: str) -> None:
    (found,) = problems_of(f"[service.a]\nprotocol = 'tcp'\n[[service.a.{kind}]]\nfrom = ['*']\n{key}")
    assert found == (
        f'5: service.a.{kind}[0].{key.split()[0]}: means nothing with protocol = "tcp"; leave it out'
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[service.a]\naccess = 'denied'", '2: service.a.access: expected one of "allow", "deny", found "denied"; did'),
        ("[service.a]\ndeny = []", "2: service.a.deny: is empty; leave it out, and access decides"),
        (one(audit="'yes'"), "3: service.a.deny[0].audit: expected true or false"),
        (one(form="'cart'"), '3: service.a.deny[0].form: unknown key; did you mean "from"?'),
        (one(methods="[]"), "3: service.a.deny[0].methods: is empty; leave the key out, and it means all of them"),
    ],
)
def test_a_wrong_rule_says_where_and_why(text: str, problem: str) -> None:
    (found,) = problems_of(text)
    assert found.startswith(problem)


def test_callers_times_paths_are_bounded() -> None:
    callers = ", ".join(f"'c{number}'" for number in range(400))
    paths = ", ".join(f"'/{number}'" for number in range(250))
    text = f"[[service.a.allow]]\nfrom = [{callers}]\npaths = [{paths}]\n"
    assert len(read(text).services["a"].allow[0].paths) == 250
    (found,) = problems_of(text + "[[service.a.allow]]\nfrom = ['*']\n")
    assert found == "4: service.a.allow[1]: brings the callers times paths of this service to more than 100000"
