"""The structs that workers decide with."""

from __future__ import annotations

import gc

import msgspec

from hostproxy.snapshot import Identity, Place

IDENTITY = Identity("cart", "spiffe://example.test/service/cart", b"certificate", b"PRIVATE KEY")


def test_no_key_is_ever_shown() -> None:
    for shown in (repr(IDENTITY), str(IDENTITY), f"{[IDENTITY]}", repr({"cart": IDENTITY})):
        assert "PRIVATE" not in shown
        assert "service/cart" in shown


def test_the_key_travels_all_the_same() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(IDENTITY), type=Identity) == IDENTITY


def test_the_collector_does_not_look_at_places() -> None:
    assert not gc.is_tracked(Place("10.0.0.1:15443", True, "dc1", 3))
