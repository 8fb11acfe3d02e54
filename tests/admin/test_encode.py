"""JSON that is written piece by piece is the same as all at once."""

from __future__ import annotations

import json

import msgspec
import pytest

from hostproxy.admin import encode as room
from hostproxy.admin.encode import Entries, encode

TREE = {
    "empty": [{}, [], ""],
    "line\nfeed": "a\nb",
    "number": 1.5,
    "nothing": None,
    "rows": [{"name": "a", "tags": ["x", "y"]}, {"name": "b", "tags": []}],
    "deep": {"b": {"c": {"d": {"e": {"f": ["g\nh"]}}}}},
}


@pytest.mark.parametrize("document", [TREE, {}, {"a": {}}, {"a": []}, [], {"ü": '"\\'}])
def test_it_is_what_the_encoder_makes_of_it(document):
    assert encode(document) == msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def test_entries_are_an_object():
    assert encode({"all": Entries([("a", [1]), ("b", {})])}) == encode({"all": {"a": [1], "b": {}}})
    assert encode({"all": Entries(())}) == encode({"all": {}})


def test_entries_are_made_when_they_are_written_and_one_at_a_time():
    alive = set()

    class Value(dict):
        def __init__(self, number):
            super().__init__(number=number)
            assert len(alive) <= 1  # the one before is let go when this one has been made
            alive.add(number)
            self.number = number

        def __del__(self):
            alive.discard(self.number)

    page = encode({"services": Entries((str(number), Value(number)) for number in range(50))})
    assert len(json.loads(page)["services"]) == 50


def test_no_piece_is_large():
    instance = {"address": "10.0.0.1:9001", "tags": ["a"] * 10}
    document = {"services": Entries((f"s{n}", {"instances": [instance] * 50}) for n in range(20))}
    assert max(map(len, room._pieces(document, 0))) < 500
