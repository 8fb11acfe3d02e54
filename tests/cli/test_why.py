"""``hostproxy why`` against a real admin address."""

from __future__ import annotations

import http.client
import json

import msgspec
import pytest

from hostproxy.__main__ import main
from hostproxy.discovery.catalog import Instance
from hostproxy.mesh.policy import Policy, ServicePolicy
from hostproxy.mesh.retries import Retry
from hostproxy.mesh.routes import Match, Route, Share
from hostproxy.mesh.rules import Rule
from hostproxy.mesh.subsets import Subset
from hostproxy.snapshot import Service
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
        "route     none",
        "rules     deny   payments.toml:14  would deny it: audit = true",
        "          allow  payments.toml:4  allows it",
        "          allow  payments.toml:9  passed over: headers: the request has others",
        "timeout   2s for the whole call, by service payments",
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


CANARY = Route(
    Match(headers=(("x-canary", "yes"),)),
    (Share("v2", 10), Share("v1", 90)),
    0.0,
    Retry(attempts=5, on=("reset", "5xx"), statuses=(429,), methods=("POST",), try_timeout=0.5, budget=30),
    "canary",
    "payments.toml:20",
)
REPORTS = Route(Match(path_prefix="/reports/"), source="payments.toml:30")
REST = Route(source="payments.toml:40")


def routed(*routes, **more):
    whole = state()
    whole.catalog = {
        "payments": (
            Instance("payments", "db-1", "10.0.0.1:9001", "10.0.0.1:15443", version="1"),
            Instance("payments", "db-2", "10.0.0.2:9001", "10.0.0.2:15443"),
        )
    }
    subsets = {"v1": Subset(version="1"), "v2": Subset(version="2")}
    rules = ServicePolicy(access="allow", access_source="mesh.toml:2", subsets=subsets, routes=routes, **more)
    whole.policy = Policy(services={"payments": rules})
    services = {**whole.snapshot.services, "v1.payments": Service("payments", "v1")}
    whole.snapshot = msgspec.structs.replace(whole.snapshot, services=services)
    return whole


def test_routes_and_a_split_with_a_part_that_goes_nowhere(daemon, capsys):
    call = ["why", "--from", "cart", "POST", "http://payments/", "-H", "X-Canary: yes"]
    assert main([*call, "--admin", daemon(routed(REPORTS, CANARY, REST, timeout=2.0))]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "from      spiffe://example.org/service/cart",
        "to        payments: service payments, http",
        "route     payments.toml:30  passed over: path_prefix: / begins otherwise",
        "          canary  payments.toml:20  takes it: 10% to subset v2, 90% to subset v1",
        "          payments.toml:40  matches as well",
        "rules     none; mesh.toml:2: [service.payments] access",
        "timeout   none, by route canary",
        "retries   5 at most, by route canary: after a connection that is lost, status 429, 500-599, "
        "500ms without an answer",
        "          each after a random wait of at most 25ms, 75ms, 175ms, 250ms",
        "          no more at once than 30% of the requests under way, and 3 in any case",
        "          up to 4 instances are tried until one can be connected to",
        "",
        '10% of such requests get a 503: no instance of payments is in subset "v2"',
        "SUBSET  ADDRESS        HOST  ZONE  DC  HEALTH   SHARE  USED  WHY",
        "v1      10.0.0.1:9001  db-1  -     -   passing  90.0%  yes",
        "-       10.0.0.2:9001  db-2  -     -   passing  -      no    in none of the subsets v2, v1",
        "",
    ]


def test_no_route_matches(daemon, capsys):
    address = daemon(routed(REPORTS, default_subset="v1", retry=Retry()))
    assert main(["why", "--from", "cart", "POST", "http://payments/", "--admin", address]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "to        payments: service payments, subset v1, http"
    assert lines[5] == "          none of them: to subset v1"
    assert lines[8:10] == [
        "retries   none for POST: service payments retries GET, HEAD, OPTIONS, TRACE, PUT, DELETE",
        "          up to 4 instances are tried until one can be connected to; POST is never sent twice",
    ]


def test_a_subset_that_the_call_names(daemon, capsys):
    address = daemon(routed(CANARY))
    assert main(["why", "--from", "cart", "http://v1.payments.mesh/", "--admin", address]) == 0
    assert "route     none: the call names subset v1 itself\n" in capsys.readouterr().out


def test_json_of_routes(daemon, capsys):
    call = ["why", "--from", "cart", "POST", "http://payments/", "-H", "X-Canary: yes", "-o", "json"]
    assert main([*call, "--admin", daemon(routed(REPORTS, CANARY, REST))]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["route"] == {"matched": "canary", "source": "payments.toml:20", "passed_over": ""}
    assert [(one["name"], one["matches"], one["decides"]) for one in document["routes"]] == [
        ("payments.toml:30", False, False),
        ("canary", True, True),
        ("payments.toml:40", True, False),
    ]
    assert document["parts"] == [
        {"subset": "v2", "share": 0.1, "obstacle": 'no instance of payments is in subset "v2"'},
        {"subset": "v1", "share": 0.9, "obstacle": ""},
    ]
    assert [(one["subset"], one["share"]) for one in document["instances"]] == [("v1", 0.9), ("", 0.0)]
    assert (document["timeout_seconds"], document["timeout_from"]) == (None, "route canary")
    retries = document["retries"]
    assert (retries["policy_from"], retries["method"], retries["reused"]) == ("route canary", True, False)
    assert retries["policy"] == {
        "attempts": 5,
        "on": ["reset", "5xx"],
        "statuses": [429],
        "methods": ["POST"],
        "try_timeout": 0.5,
        "backoff": 0.025,
        "backoff_limit": 0.25,
        "budget": 30,
    }
    assert retries["waits"] == [0.025, 0.075, 0.175, 0.25, 0.25]


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
