"""The table of metrics keeps the naming practices of Prometheus."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import hostproxy
from hostproxy.telemetry import families

TABLES = (families.REQUESTS, families.TCP, families.EVENTS, families.LEVELS, families.HOST, families.CONSUL)
ALL = [(name, family) for table in TABLES for name, family in table.items()]


def test_no_name_is_given_twice():
    assert len({name for name, _ in ALL}) == len(ALL)


@pytest.mark.parametrize(("name", "family"), ALL)
def test_names_labels_and_help(name, family):
    assert re.fullmatch(r"[a-z][a-z_]*[a-z]", name)
    assert name.endswith("_total") == (family.kind == "counter")
    assert family.help.endswith(".")
    # The last two are what Prometheus itself says of a target.
    forbidden = {"path", "peer", "client", "request_id", "le", "address", "instance", "job"}
    # Of clocks "peer" is one of two words.
    assert not forbidden & set(family.labels) - ({"peer"} if name == "clock_skew_seconds" else set())
    assert len(set(family.labels)) == len(family.labels)


def test_events_are_counters_and_levels_gauges():
    assert {family.kind for family in families.EVENTS.values()} == {"counter"}
    assert {family.kind for family in families.LEVELS.values()} == {"gauge"}


@pytest.mark.parametrize("bounds", [families.REQUEST_BOUNDS, families.TCP_BOUNDS])
def test_histogram_bounds_rise(bounds):
    assert list(bounds) == sorted(set(bounds))


def test_request_histograms_have_fourteen_buckets_from_half_a_millisecond_to_ten_seconds():
    assert (len(families.REQUEST_BOUNDS), families.REQUEST_BOUNDS[0], families.REQUEST_BOUNDS[-1]) == (
        14,
        0.0005,
        10,
    )


def calls():
    """Every ``something.count("name", (label, ...))`` and ``.gauge`` of the sources."""
    for source in Path(hostproxy.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("count", "gauge")
                and len(node.args) >= 2
                and isinstance(node.args[0], ast.Constant)
                and isinstance(node.args[1], ast.Tuple)
            ):
                yield (
                    node.func.attr,
                    node.args[0].value,
                    len(node.args[1].elts),
                    f"{source.name}:{node.lineno}",
                )


def test_the_sources_use_names_and_labels_of_the_table():
    """On the data path a wrong one would be a KeyError in the midst of a request."""
    found = list(calls())
    assert found
    for method, name, labels, place in found:
        table = families.EVENTS if method == "count" else families.LEVELS
        assert name in table, place
        assert labels == len(table[name].labels), place
