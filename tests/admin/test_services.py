"""The documents about services: where they run, how that is known, what is decided about each instance."""

from __future__ import annotations

import json

import pytest

from hostproxy.admin import services
from hostproxy.admin.encode import encode
from hostproxy.admin.moment import HIDDEN, take
from hostproxy.control.state import SourceState
from tests.admin.states import NOW, make_consul_state, make_state


def written(make, *arguments, state=None):
    """A document as a client reads it."""
    state = state or make_consul_state()
    return json.loads(encode(make(take(state, state.totals, NOW), *arguments)))


def payments(*arguments, state=None):
    return written(services.catalog, "payments", *arguments, state=state)["services"]["payments"]


def test_a_catalog_file():
    document = written(services.catalog, state=make_state())
    assert (document["path"], document["loaded"]) == ("/etc/hostproxy/catalog.toml", NOW - 30.0)
    assert list(document["services"]) == ["payments"]
    entry = document["services"]["payments"]
    assert (entry["known"], entry["listed"], entry["protocol"], entry["obstacle"]) == (True, True, "http", "")
    assert [(row["source"], row["age_seconds"]) for row in entry["knowledge"]] == [("file", 30.0)]
    assert [(one["used"], one["share"]) for one in entry["instances"]] == [(True, 0.5), (True, 0.5)]


def test_a_catalog_file_that_was_kept():
    state = make_state()
    state.catalog_source = SourceState(path="/c.toml", loaded=NOW - 30.0, kept=True)
    assert payments(state=state)["knowledge"][0]["source"] == "kept"


def test_an_instance_in_full():
    assert payments()["instances"][0] == {
        "address": "10.0.0.1:9001",
        "host": "db-1",
        "mesh": "10.0.0.1:15443",
        "datacenter": "dc1",
        "zone": "rack-3",
        "version": "2",
        "tags": ["blue"],
        "meta": {"api_token": HIDDEN, "owner": "money"},
        "weight": 1,
        "health": "passing",
        "reason": "",
        "used": True,
        "level": 0,
        "share": 0.5,
        "why": "",
    }


def test_what_is_decided_about_each_instance():
    rows = {one["host"]: one for one in payments()["instances"]}
    assert [host for host, one in rows.items() if one["used"]] == ["db-1", "db-3"]
    assert "serfHealth" in rows["db-2"]["why"]
    assert "disk" in rows["db-3"]["why"]
    assert "dc2" in rows["db-9"]["why"]
    assert sum(one["share"] for one in rows.values()) == pytest.approx(1.0)


def test_a_subset():
    entry = payments("v2")
    assert (entry["subset"], entry["subsets"]) == ("v2", ["v2"])
    assert [one["host"] for one in entry["instances"] if one["used"]] == ["db-1"]
    assert "not in subset v2" in entry["instances"][1]["why"]


def test_a_subset_that_policy_has_not():
    entry = payments("v3")
    assert "v3" in entry["obstacle"]
    assert not any(one["used"] for one in entry["instances"])


def test_how_a_service_is_known_the_own_datacenter_first():
    own, other = payments()["knowledge"]
    assert own == {
        "datacenter": "dc1",
        "source": "watch",
        "wanted_by": "upstream",
        "changed": NOW - 3600.0,
        "confirmed": NOW - 4.0,
        "unchanged_seconds": 3600.0,
        "age_seconds": 4.0,
        "index": 1234,
        "behind_seconds": 0.25,
        "problem": "",
        "held": False,
    }
    assert (other["datacenter"], other["source"]) == ("dc2", "poll")


def test_all_services_that_are_known():
    assert list(written(services.catalog)["services"]) == ["payments", "stock"]


def test_a_service_that_consul_has_and_that_is_not_watched():
    entry = written(services.catalog, "consul")["services"]["consul"]
    assert (entry["known"], entry["listed"], entry["instances"]) == (False, True, [])


def test_a_service_that_nobody_has():
    entry = written(services.catalog, "nobody")["services"]["nobody"]
    assert (entry["known"], entry["listed"]) == (False, False)


def test_discovery_has_a_row_for_each_service_and_datacenter():
    document = written(services.discovery)
    assert (document["backend"], document["source"]) == ("consul", "http://127.0.0.1:8500")
    assert document["names"] == ["consul", "payments", "stock"]
    rows = [(row["service"], row["datacenter"], row["instances"]) for row in document["services"]]
    nothing = {"passing": 0, "warning": 0, "critical": 0, "maintenance": 0}
    assert rows == [
        ("payments", "dc1", {**nothing, "passing": 1, "warning": 1, "critical": 1}),
        ("payments", "dc2", {**nothing, "passing": 1}),
        ("stock", "dc1", nothing),
    ]
    stock = document["services"][2]
    assert (stock["wanted_by"], stock["age_seconds"], stock["confirmed"]) == ("traffic", None, 0.0)


def test_instances_without_a_datacenter_are_of_the_own():
    state = make_state()
    document = written(services.discovery, state=state)
    assert document["names"] == ["payments"]
    (row,) = document["services"]
    assert (row["source"], row["instances"]["passing"]) == ("file", 2)


def test_a_clock_that_was_set_back_gives_no_negative_age():
    state = make_consul_state()
    document = json.loads(encode(services.discovery(take(state, state.totals, NOW - 1000.0))))
    assert document["services"][0]["age_seconds"] == 0.0
