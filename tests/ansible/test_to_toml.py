"""The filter ``to_toml``: tomllib reads what it writes as what was given."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from datetime import date
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ansible.conftest import COLLECTION, ROOT


class FilterError(Exception):
    """Stands for Ansible's, so that the filter is tested without it."""


@pytest.fixture(scope="module")
def to_toml():
    errors = ModuleType("ansible.errors")
    errors.AnsibleFilterError = FilterError
    before = {name: sys.modules.get(name) for name in ("ansible", "ansible.errors")}
    sys.modules |= {"ansible": ModuleType("ansible"), "ansible.errors": errors}
    try:
        spec = importlib.util.spec_from_file_location("to_toml", COLLECTION / "plugins" / "filter" / "to_toml.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name, found in before.items():
            if found is None:
                del sys.modules[name]
            else:
                sys.modules[name] = found
    return module.FilterModule().filters()["to_toml"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT | st.dates(date(1, 1, 1)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_what_is_written_is_read_back(to_toml, document):
    assert tomllib.loads(to_toml(document)) == document


def test_every_key_of_the_example_can_be_written(to_toml):
    document = tomllib.loads((ROOT / "conf.example.toml").read_text())
    assert tomllib.loads(to_toml(document)) == document


def test_keys_keep_their_order_and_values_come_before_tables(to_toml):
    document = {"z": {"b": 1, "t": {"x": 1}, "a": [{"n": 2}, {"n": 1}], "c": "é\n"}, "y": True}
    assert to_toml(document) == (
        'y = true\n\n[z]\nb = 1\nc = "é\\n"\n\n[z.t]\nx = 1\n\n[[z.a]]\nn = 2\n\n[[z.a]]\nn = 1\n'
    )


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"host": {"name": None}}, "host.name: null has no form in TOML"),
        ({"host": {None: 1}}, "host: the key None is not a string"),
        (["host"], "takes a mapping, not list"),
        ({"a": b"bytes"}, "a: a bytes has no form"),
        ({"a": "\ud800"}, "surrogate"),
    ],
)
def test_what_has_no_form_is_said(to_toml, document, said):
    with pytest.raises(FilterError, match=said):
        to_toml(document)


def test_depth_is_bounded(to_toml):
    document: dict = {}
    for _ in range(40):
        document = {"a": document}
    with pytest.raises(FilterError, match="more than 16 deep"):
        to_toml(document)
