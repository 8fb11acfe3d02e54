"""What travels from worker to supervisor."""

from __future__ import annotations

import msgspec
import pytest

from hostproxy.telemetry.export import Export, RequestKey, RequestTotals, TcpTotals, decode


def test_comes_out_as_it_went_in():
    export = Export(
        requests={
            RequestKey("outbound", "cart", "payments", "canary", True, "v2"): RequestTotals(
                {(b"GET", 200, "-"): 3}, [3, 0], 0.5, [2, 1], 0.25, 10, 20, 1
            )
        },
        tcp={("outbound", "cart", "db", False): TcpTotals(2, {"client-closed": 1}, 5, 6, [1, 0], 1.5, 1)},
        events={"retries_total": {("connect", "ok"): 4}},
        levels={"upstream_connections": {("idle",): 7.0}},
    )
    assert decode(msgspec.msgpack.encode(export)) == export


def test_an_earlier_release_knows_no_subsets():
    """Its workers live on through an upgrade, and their counts with them."""
    told = {("inbound", "cart", "payments", "", True): ({}, [], 0.0, [], 0.0, 10, 20, 1)}
    (key,) = decode(msgspec.msgpack.encode((told, {}, {}, {}))).requests
    assert key == RequestKey("inbound", "cart", "payments", "", True, "")


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x80"])
def test_garbage_is_refused(garbage):
    with pytest.raises(msgspec.DecodeError):
        decode(garbage)
