"""What commands say of a policy without a controller, or with the little that they need of one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.__main__ import main
from controller.cli import client
from tests.controller.operator_api import FakeApi, serving

Captured = pytest.CaptureFixture[str]

MESH = '[defaults]\naccess = "deny"\n'
PAYMENTS = """\
[service.payments]
protocol = "http"

[[service.payments.allow]]
from = ["cart"]
methods = ["POST"]
paths = ["/make-payment"]

[[service.payments.deny]]
from = ["*"]
paths = ["/admin*"]

[[service.payments.deny]]
from = ["*"]
headers = { x-old = "*" }
audit = true

[service.payments.subset.v2]
version = "2"

[service.ledger]
protocol = "tcp"
allow = [{ from = ["payments"] }]
"""
EXPECTED = """\
[[expect]]
from = "cart"
to = "payments"
method = "POST"
path = "/make-payment"
decision = "allow"
rule = "payments.toml:4"

[[expect]]
from = "ledger"
to = "payments"
decision = "deny"
"""


@pytest.fixture(autouse=True)
def _no_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs on this machine, it is not asked."""
    monkeypatch.setattr(client, "DEFAULT_PATH", str(tmp_path / "none.toml"))
    monkeypatch.setattr(client, "DEFAULT_SOCKET", str(tmp_path / "none.sock"))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    directory = tmp_path / "policy"
    (directory / "tests").mkdir(parents=True)
    (directory / "mesh.toml").write_text(MESH)
    (directory / "payments.toml").write_text(PAYMENTS)
    (directory / "tests" / "payments.toml").write_text(EXPECTED)
    return directory


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    with serving(tmp_path / "s") as server:
        yield server


def services(*names: str) -> tuple[int, object]:
    return 200, {"services": [{"name": name, "hosts": [], "denied": name == "barred"} for name in names]}


# check


def test_check_without_a_controller(policy: Path, capsys: Captured) -> None:
    assert main(["policy", "check", str(policy)]) == 0
    found = capsys.readouterr()
    assert found.out == f"{policy} can be applied, 1 warnings\n"
    assert found.err == "warning: payments.toml:4: nobody knows a service cart\n"


def test_check_with_one_knows_its_services(policy: Path, api: FakeApi, capsys: Captured) -> None:
    api.answers["GET /v1/services"] = services("payments", "ledger", "carts")
    assert main(["policy", "check", str(policy), "--controller", api.address]) == 0
    assert 'did you mean "carts"?' in capsys.readouterr().err


def test_check_with_one_that_is_named_and_away(policy: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["policy", "check", str(policy), "--controller", f"unix:{tmp_path}/no"]) == 4
    assert "the controller's services are not known" in capsys.readouterr().err


def test_check_says_everything_that_is_wrong(policy: Path, capsys: Captured) -> None:
    (policy / "mesh.toml").write_text('[defaults]\nacess = "deny"\n')
    (policy / "b.toml").write_text('[service.b]\ntimeout = 3\nprotocol = "htp"\n')
    assert main(["policy", "check", str(policy)]) == 1
    found = capsys.readouterr()
    assert found.out == ""
    assert [line.partition(": ")[0] for line in found.err.splitlines()] == [
        f"{policy}/b.toml:2",
        f"{policy}/b.toml:3",
        f"{policy}/mesh.toml:2",
    ]
    assert 'did you mean "access"?' in found.err
    assert main(["policy", "check", str(policy), "-o", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["valid"], document["problems"][0]["line"]) == (False, 2)


@pytest.mark.parametrize("action", ["check", "test", "diff", "apply"])
def test_a_directory_that_is_none(action: str, tmp_path: Path, capsys: Captured) -> None:
    assert main(["policy", action, str(tmp_path / "none")]) == 1
    assert "cannot be read" in capsys.readouterr().err


# test


def test_expectations_that_are_met(policy: Path, capsys: Captured) -> None:
    assert main(["policy", "test", str(policy)]) == 0
    assert capsys.readouterr().out == "2 of 2 expectations are met\n"


def test_expectations_that_are_not(policy: Path, capsys: Captured) -> None:
    (policy / "payments.toml").write_text(PAYMENTS.replace("/make-payment", "/make-payments"))
    assert main(["policy", "test", str(policy)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "tests/payments.toml:1: cart POST payments/make-payment: is to be allowed, and is denied: "
        "mesh.toml:2: [defaults] access",
        "1 of 2 expectations are met",
    ]
    assert main(["policy", "test", str(policy), "-o", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["passed"], document["failed"][0]["decision"]) == (1, "deny")


def test_expectations_that_cannot_be_read(policy: Path, capsys: Captured) -> None:
    (policy / "tests" / "payments.toml").write_text(EXPECTED.replace("decision", "desicion", 1))
    assert main(["policy", "test", str(policy)]) == 1
    assert 'tests/payments.toml:6: expect[0].desicion: unknown key; did you mean "decision"?' in capsys.readouterr().err


# why


def why(policy: Path, *arguments: str) -> int:
    return main(["why", *arguments, "--policy", str(policy)])


def test_why_it_is_allowed(policy: Path, capsys: Captured) -> None:
    assert why(policy, "--from", "cart", "POST", "http://payments/make-payment?x=1", "-H", "X-Old: 1") == 0
    assert capsys.readouterr().out.splitlines() == [
        "ALLOWED  allowed by payments.toml:4",
        "",
        f"policy    {policy}",
        "from      cart",
        "to        payments: service payments, http",
        "route     none",
        "rules     deny   payments.toml:9  passed over: paths: /make-payment is not among them",
        "          deny   payments.toml:13  would deny it: audit = true",
        "          allow  payments.toml:4  allows it",
        "timeout   none",
        "retries   up to 4 instances are tried until one can be connected to; POST is never sent twice",
    ]


ROUTED = """
[service.orders]
access = "deny"
timeout = "2s"
default_subset = "v1"
subset = { v1 = { version = "1" }, v2 = { version = "2" } }
retry = { attempts = 2 }

[[service.orders.route]]
name = "canary"
match = { path_prefix = "/v2/", headers = { x-canary = "yes" } }
split = [{ subset = "v2", weight = 10 }, { subset = "v1", weight = 90 }]
timeout = "5s"

[[service.orders.route]]
match = { methods = ["GET"] }
split = [{ subset = "v2" }]
retry = { attempts = 3, on = ["gateway-error"], backoff = "50ms" }
"""


@pytest.fixture
def routed(policy: Path) -> Path:
    (policy / "orders.toml").write_text(ROUTED.lstrip())
    return policy


def test_why_shows_the_routes(routed: Path, capsys: Captured) -> None:
    assert why(routed, "--from", "cart", "http://orders/v2/x", "-H", "X-Canary: no") == 1
    assert capsys.readouterr().out.splitlines()[4:] == [
        "to        orders: service orders, subset v2, http",
        "route     canary  orders.toml:8  passed over: headers: the request has others",
        "          orders.toml:14  takes it: to subset v2",
        "rules     none; orders.toml:2: [service.orders] access",
        "timeout   2s for the whole call, by service orders",
        "retries   3 at most, by route orders.toml:14: after status 502-504",
        "          each after a random wait of at most 50ms, 150ms, 250ms",
        "          no more at once than 20% of the requests under way, and 3 in any case",
        "          up to 4 instances are tried until one can be connected to; "
        "GET is repeated if a used connection breaks before the answer",
        "note      policy leaves the protocol of orders to its hosts; here it is taken to be http",
    ]
    assert why(routed, "--from", "cart", "http://orders/v2/x", "-H", "X-Canary: yes", "-o", "json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["route"]["matched"] == "canary"
    assert document["parts"] == [{"subset": "v2", "share": 0.1}, {"subset": "v1", "share": 0.9}]
    assert (document["timeout_seconds"], document["timeout_from"]) == (5.0, "route canary")
    assert document["retries"]["policy"]["budget"] == 20
    assert why(routed, "--from", "cart", "http://v2.orders/v2/x", "-H", "X-Canary: yes") == 1
    assert "route     none: the call names subset v2 itself\n" in capsys.readouterr().out


def test_expectations_about_routes(routed: Path, capsys: Captured) -> None:
    (routed / "tests" / "orders.toml").write_text(
        """[[expect]]
from = "cart"
to = "orders"
path = "/v2/x"
headers = { x-canary = "yes" }
decision = "deny"
route = "canary"
subsets = ["v1", "v2"]
timeout = "5s"

[[expect]]
from = "cart"
to = "orders"
decision = "deny"
route = "canry"
"""
    )
    assert main(["policy", "test", str(routed)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "tests/orders.toml:11: cart GET orders/: is to take route canry, and takes orders.toml:14; "
        'there is no route canry, did you mean "canary"?',
        "3 of 4 expectations are met",
    ]
    assert main(["policy", "test", str(routed), "-o", "json"]) == 1
    (failed,) = json.loads(capsys.readouterr().out)["failed"]
    assert (failed["route"], failed["subsets"], failed["timeout_seconds"]) == ("orders.toml:14", ["v2"], 2.0)


@pytest.mark.parametrize(
    ("arguments", "status", "parts"),
    [
        (["--from", "cart", "http://payments/admin"], 1, ["denied by payments.toml:9", "denies it"]),
        (["--from", "cart", "http://payments:80//x"], 1, ["in different ways"]),
        (["--from", "cart", "PUT", "payments"], 1, ["methods: PUT is not among them"]),
        (["--from", "shop", "http://payments/"], 1, ["from: shop is not among them"]),
        (["--from", "host", "http://payments/"], 1, ["from: host is not among them"]),
        (["--from", "cart", "POST", "http://v2.payments/make-payment"], 0, ["service payments, subset v2, http"]),
        (["--from", "cart", "POST", "http://Payments./make-payment"], 0, ["service payments, http"]),
        (["--from", "payments", "tcp://ledger"], 0, ["carried as bytes"]),
        (["--from", "cart", "http://unheard-of/"], 1, ["does not speak of unheard-of", "mesh.toml:2"]),
        (["--from", "cart", "http://v3.payments/"], 1, ["v3.payments is not the name of a service"]),
    ],
)
def test_why(policy: Path, arguments: list[str], status: int, parts: list[str], capsys: Captured) -> None:
    assert why(policy, *arguments) == status
    text = capsys.readouterr().out
    assert [part for part in parts if part not in text] == []


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--from", "Cart", "http://payments/"], 'did you mean "cart"?'),
        (["--from", "cart", "https://payments/"], "is not a URL"),
        (["--from", "cart", "post", "http://payments/"], 'did you mean "POST"?'),
        (["--from", "cart", "http://payments/%zz"], "is not the path of a request"),
        (["--from", "cart", "http://payments/", "-H", "x"], "is not a header field"),
        (["--from", "cart", "http://payments/", "-H", "x-a: \x1b"], "is not the value"),
        (["--from", "cart", "http://payments/", "-H", "Host: x"], "neither rules nor routes see"),
    ],
)
def test_why_is_wrongly_asked(policy: Path, arguments: list[str], part: str, capsys: Captured) -> None:
    assert why(policy, *arguments) == 2
    assert part in capsys.readouterr().err


def test_why_by_the_newest_policy(policy: Path, api: FakeApi, capsys: Captured) -> None:
    files = {"mesh.toml": MESH, "payments.toml": PAYMENTS.replace('"cart"', '"cart", "barred"')}
    api.answers["GET /v1/policy/0"] = 200, {"generation": 7, "files": files}
    api.answers["GET /v1/services"] = services("cart", "barred")
    call = ["POST", "http://payments/make-payment", "--controller", api.address]
    assert main(["why", "--from", "cart", *call]) == 0
    assert "policy    generation 7\n" in capsys.readouterr().out
    assert main(["why", "--from", "barred", *call, "-o", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["reason"], document["rule"]) == ("the controller has barred barred", "payments.toml:4")
    assert document["rules"][1]["audit"] is True


# diff and show


def test_diff(policy: Path, api: FakeApi, capsys: Captured) -> None:
    answer = {"generation": 3, "difference": ["--- a", "+++ b", "@@ -1 +1 @@", "-x", "+\ty\x1b"]}
    api.answers["POST /v1/policy/diff"] = 200, answer
    api.answers["POST /v1/policy/diff?generation=2"] = 200, {"generation": 2, "difference": []}
    assert main(["policy", "diff", str(policy), "--controller", api.address]) == 1
    assert capsys.readouterr().out == "--- a\n+++ b\n@@ -1 +1 @@\n-x\n+    y?\n"
    assert main(["policy", "diff", str(policy), "2", "--controller", api.address]) == 0
    assert capsys.readouterr().err == ""
    api.answers["POST /v1/policy/diff?generation=1"] = 200, {**answer, "generation": 1, "cut": True}
    assert main(["policy", "diff", str(policy), "1", "--controller", api.address]) == 1
    assert "only the first 5 lines are shown: there are more" in capsys.readouterr().err
    assert api.bodies("POST /v1/policy/diff") == [{"files": {"mesh.toml": MESH, "payments.toml": PAYMENTS}}]


def test_what_is_invalid_is_not_sent(policy: Path, api: FakeApi, capsys: Captured) -> None:
    (policy / "mesh.toml").write_text("x = 1\n")
    assert main(["policy", "apply", str(policy), "--controller", api.address]) == 1
    assert "mesh.toml:1: x: unknown key" in capsys.readouterr().err
    assert api.asked == []


def test_a_file_as_it_is(api: FakeApi, capsys: Captured) -> None:
    answer = {"generation": 3, "epoch": 1, "files": {"mesh.toml": MESH}}
    api.answers["GET /v1/policy/3"] = 200, answer
    assert main(["policy", "show", "3", "mesh.toml", "--controller", api.address]) == 0
    assert capsys.readouterr().out == MESH
    assert main(["policy", "show", "3", "other.toml", "--controller", api.address]) == 1
    assert "generation 3 has no file other.toml\n  mesh.toml\n" in capsys.readouterr().err
