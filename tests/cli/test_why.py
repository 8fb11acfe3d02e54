"""``hostproxy why`` against a real admin address."""

from __future__ import annotations

import http.client
import json

import msgspec
import pytest

from hostproxy.__main__ import main
from hostproxy.mesh.policy import Policy, ServicePolicy
from hostproxy.mesh.rules import Rule
from tests.admin.states import make_state


def state(**changes):
    whole = make_state()
    rules = ServicePolicy(
        timeout=2.0,
        allow=(
            Rule(("cart",), ("POST",), ("/make-payment",), "payments.toml:4"),
            Rule(("cart",), ("POST",), (), "payments.toml:9", (("x-canary", "yes"),)),
        ),
        deny=(Rule(("*",), (), ("/make*",), "payments.toml:14", (), True),),
    )
    whole.policy = Policy(default_access="deny", default_source="mesh.toml:2", services={"payments": rules})
    whole.snapshot = msgspec.structs.replace(whole.snapshot, **changes)
    return whole


CALL = ["why", "--from", "cart", "POST", "http://payments/make-payment"]


def test_an_allowed_call(daemon, capsys):
    assert main([*CALL, "--admin", daemon(state())]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ALLOWED  allowed by payments.toml:4",
        "",
        "from      spiffe://example.org/service/cart",
        "to        payments: service payments, http",
        "route     the whole service",
        "rules     deny   payments.toml:14  would deny it: audit = true",
        "          allow  payments.toml:4  allows it",
        "          allow  payments.toml:9  passed over: headers: the request has others",
        "timeout   2 s for the whole call",
        "retries   up to 4 instances are tried until one can be connected to; POST is never sent twice",
        "",
        "ADDRESS        HOST  ZONE  DC  HEALTH   SHARE  USED  WHY",
        "10.0.0.1:9001  db-1  -     -   passing  50.0%  yes",
        "10.0.0.2:9001  db-2  -     -   passing  50.0%  yes",
        "",
    ]


def test_a_denied_call(daemon, capsys):
    assert main(["why", "--from", "shop", "http://payments/", "--admin", daemon(state())]) == 1
    text = capsys.readouterr().out
    assert text.startswith("DENIED  denied, as no rule speaks of it: ")
    assert "passed over: from: shop is not among them" in text
    assert "GET is repeated if a used connection breaks" in text


def test_header_fields(daemon, capsys):
    address = daemon(state())
    call = ["why", "--from", "cart", "POST", "http://payments/other", "--admin", address]
    assert main(call) == 1
    assert main([*call, "-H", "X-Other: 1", "-H", "X-Canary: yes"]) == 0
    assert "allow  payments.toml:9  allows it" in capsys.readouterr().out


def test_a_name_that_nobody_has(daemon, capsys):
    assert main(["why", "--from", "cart", "http://nobody/", "--admin", daemon(state())]) == 1
    assert capsys.readouterr().out.splitlines()[0] == "DENIED  no service is known here as nobody"


def test_no_rule_and_no_instance(daemon, capsys):
    empty = state()
    empty.policy, empty.catalog = Policy(default_access="allow", default_source="mesh.toml:2"), {}
    assert main([*CALL, "--admin", daemon(empty)]) == 0
    text = capsys.readouterr().out
    assert "rules     none; " in text
    assert "no instance of payments is known" in text


def test_json(daemon, capsys):
    assert main([*CALL, "-o", "json", "--admin", daemon(state())]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["allowed"], document["rule"], document["path"]) == (True, "payments.toml:4", "/make-payment")
    assert document["audited"] == [{"decision": "deny", "rule": "payments.toml:14"}]
    assert [one["used"] for one in document["instances"]] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--from", "Cart", "http://payments/"], 'did you mean "cart"?'),
        (["--from", "cart", "https://payments/"], "is not a URL"),
        (["--from", "cart", "G T", "http://payments/"], "no request"),
        (["--from", "cart", "http://payments/", "-H", "nothing"], "no request"),
    ],
)
def test_wrong_usage(arguments, part, capsys):
    assert main(["why", *arguments, "--admin", "127.0.0.1:1"]) == 2
    assert part in capsys.readouterr().err


def test_out_of_reach(capsys):
    assert main([*CALL, "--admin", "127.0.0.1:1"]) == 3


def get(address, path):
    connection = http.client.HTTPConnection(*address.split(":"), timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ("", "from and url are needed"),
        ("?from=cart", "from and url are needed"),
        ("?from=Cart&url=payments", "did you mean"),
        ("?from=cart&url=payments&from=shop", "from is given twice"),
        ("?from=cart&url=payments&to=x", "no such parameter"),
        ("?from=cart&url=payments&method=%0d%0aX", "printable ASCII"),
        ("?from=cart&url=payments" + "&header=A:b" * 33, "the most is 32"),
    ],
)
def test_the_admin_page_checks_what_it_is_asked(daemon, query, part):
    status, document = get(daemon(state()), f"/why{query}")
    assert status == 400
    assert part in document["error"]


def test_it_takes_several_header_fields(daemon):
    query = "?from=cart&method=POST&url=http://payments/other&header=A:b&header=x-canary:+yes"
    status, document = get(daemon(state()), f"/why{query}")
    assert (status, document["allowed"]) == (200, True)


def test_while_nothing_is_decided_yet(daemon, capsys):
    starting = state()
    starting.snapshot = None
    assert main([*CALL, "--admin", daemon(starting)]) == 3
    assert "hostproxy is starting" in capsys.readouterr().err
