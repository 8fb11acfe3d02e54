"""What travels from worker to supervisor."""

from __future__ import annotations

import msgspec
import pytest

from hostproxy.telemetry.export import Export, RequestTotals, TcpTotals, decode


def test_comes_out_as_it_went_in():
    export = Export(
        requests={
            ("inbound", "cart", "payments", "default", True): RequestTotals(
                {(b"GET", 200, "-"): 3}, [3, 0], 0.5, [2, 1], 0.25, 10, 20, 1
            )
        },
        tcp={("outbound", "cart", "db", False): TcpTotals(2, {"client-closed": 1}, 5, 6, [1, 0], 1.5, 1)},
        events={"retries_total": {("connect", "ok"): 4}},
        levels={"upstream_connections": {("idle",): 7.0}},
    )
    assert decode(msgspec.msgpack.encode(export)) == export


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x80"])
def test_garbage_is_refused(garbage):
    with pytest.raises(msgspec.DecodeError):
        decode(garbage)
