"""The JSON documents, as functions of a moment."""

from __future__ import annotations

import json

import msgspec
import pytest

from hostproxy.admin import documents, services
from hostproxy.admin.encode import encode
from hostproxy.admin.moment import HIDDEN, plain, take
from hostproxy.control.state import WorkerState
from tests.admin.states import CERTIFICATE, NOW, PRIVATE_KEY, make_consul_state, make_state

ALL = [
    documents.status,
    documents.workers,
    documents.config,
    documents.snapshot,
    services.catalog,
    services.discovery,
]


def moment(state=None):
    state = state or make_state()
    return take(state, state.totals, NOW)


def written(document):
    """As a client reads it."""
    return json.loads(encode(document))


@pytest.mark.parametrize("document", ALL)
@pytest.mark.parametrize("make", [make_state, make_consul_state])
def test_everything_is_json_and_nothing_is_secret(document, make):
    text = encode(document(moment(make())))
    assert json.loads(text)
    for secret in (PRIVATE_KEY, b"c2VjcmV0", b"PRIVATE KEY", b"label-secret"):
        assert secret not in text


@pytest.mark.parametrize("document", ALL)
def test_a_host_that_has_just_started_can_be_shown(document):
    state = make_state()
    state.snapshot = None
    state.policy = None
    state.workers = ()
    state.listeners = ()
    state.identities = ()
    state.catalog = {}
    assert written(document(moment(state)))


@pytest.mark.parametrize(
    "name", ["token", "api_token", "password", "db_password", "secret", "private_key", "passphrase"]
)
def test_secrets_are_hidden_by_their_name(name):
    assert plain({name: "xyz"}) == {name: HIDDEN}
    assert plain({"deep": [{name: "xyz"}]}) == {"deep": [{name: HIDDEN}]}


@pytest.mark.parametrize("name", ["token_file", "key", "secretary", "keys", "monkey"])
def test_names_that_only_sound_secret_are_shown(name):
    assert plain({name: "xyz"}) == {name: "xyz"}


def test_an_unset_secret_is_shown_as_unset():
    assert plain({"token": ""}) == {"token": ""}


def test_bytes_never_come_through():
    assert plain({"anything": PRIVATE_KEY}) == {"anything": f"({len(PRIVATE_KEY)} bytes)"}


def test_config_names_its_tables():
    document = documents.config(moment())
    assert document["host"]["name"] == "web-1"
    assert document["host"]["labels"] == {"api_token": HIDDEN}
    assert document["admin"]["listen"] == "127.0.0.1:0"
    assert document["limits"]["idle"] == 60.0


def test_snapshot_shows_who_but_no_key():
    document = written(documents.snapshot(moment()))["snapshot"]
    assert document["version"] == 7
    assert document["identities"]["cart"] == {
        "name": "cart",
        "uri": "spiffe://example.org/service/cart",
        "certificate": f"({len(CERTIFICATE)} bytes)",
        "key": f"({len(PRIVATE_KEY)} bytes)",
    }


def test_workers():
    first, second = documents.workers(moment())["workers"]
    assert first["description"] == {"connections": 5, "tunnels": 1, "pools": {"payments": 3}}
    del first["description"]
    assert first == {
        "place": 0,
        "id": 11,
        "pid": 4712,
        "phase": "serving",
        "restarts": 1,
        "snapshot": 7,
        "uptime_seconds": 100.0,
        "lag_seconds": 0.0004,
        "problem": "",
        "connections": 6,
        "requests": 410,
        "requests_in_flight": 2,
        "requests_per_second": 4.1,
    }
    assert (second["connections"], second["requests"], second["requests_per_second"]) == (0, 0, 0.0)


def test_a_worker_that_waits_has_no_rate():
    state = make_state()
    state.workers = (WorkerState(place=0, id=13, phase="waiting", since=NOW - 5.0),)
    (worker,) = documents.workers(moment(state))["workers"]
    assert (worker["pid"], worker["uptime_seconds"], worker["requests_per_second"]) == (0, 0.0, 0.0)


def test_status_at_a_glance():
    document = documents.status(moment())
    assert document["host"] == {
        "name": "web-1",
        "address": "10.0.0.11",
        "datacenter": "dc1",
        "zone": "rack-3",
        "trust_domain": "example.org",
    }
    assert (document["version"], document["pid"], document["uptime_seconds"]) == ("0.1.0", 4711, 200.0)
    assert (document["ready"], document["reasons"], document["degraded"]) == (True, [], [])
    assert document["listeners"][0]["address"] == "127.0.0.1:15001"
    assert document["policy"]["default_access"] == "deny"
    assert document["reloads"]["refused"] == 1


def test_status_counts_services_both_ways():
    rows = {row["name"]: row for row in documents.status(moment())["services"]}
    assert rows["payments"] == {
        "name": "payments",
        "instances": 2,
        "instances_here": 0,
        "outbound": {"requests": 400, "errors": 3, "connections": 1},
        "inbound": {"requests": 0, "errors": 0, "connections": 0},
    }
    assert rows["cart"]["instances_here"] == 1
    assert rows["cart"]["inbound"]["requests"] == 10


def test_status_names_the_certificate_that_ends_first():
    certificates = documents.status(moment())["certificates"]
    assert certificates["next_expiry"]["name"] == "cart"
    assert certificates["next_expiry"]["expires_in_seconds"] == 3600.0
    assert [identity["name"] for identity in certificates["identities"]] == ["cart", "host"]


def test_ready():
    assert documents.ready(make_state()) == {"ready": True, "reasons": [], "degraded": []}


def test_status_tells_of_consul_in_short():
    state = make_consul_state()
    state.registration = "the ACL token lacks service write"
    assert documents.status(moment(state))["discovery"] == {
        "backend": "consul",
        "source": "http://127.0.0.1:8500",
        "problem": "",
        "since": 0.0,
        "watches": 2,
        "services": 2,
        "names": 3,
        "oldest_confirmed": NOW - 10.0,
        "unconfirmed": 1,
        "held": [],
        "registered": ("hostproxy", "hostproxy-cart-9000"),
        "registration_problem": "the ACL token lacks service write",
    }


def test_status_tells_of_a_catalog_file_in_short():
    document = documents.status(moment())["discovery"]
    assert (document["backend"], document["source"]) == ("file", "/etc/hostproxy/catalog.toml")
    assert (document["services"], document["oldest_confirmed"]) == (1, None)


def test_status_has_the_health_of_local_instances():
    assert documents.status(moment(make_consul_state()))["health"] == [
        {"service": "cart", "address": "127.0.0.1:9000", "healthy": True, "reason": "", "since": NOW - 100.0}
    ]


def test_a_subset_is_no_service_of_its_own():
    state = make_consul_state()
    whole = state.snapshot.services["payments"]
    state.snapshot.services["v2.payments"] = msgspec.structs.replace(whole, subset="v2")
    assert [row["name"] for row in documents.status(moment(state))["services"]] == ["cart", "payments"]
