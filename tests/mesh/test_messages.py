"""Bodies of the controller's interface: strict, and bounded."""

from __future__ import annotations

import pytest

from hostproxy.mesh.messages import BODY_SIZE, EnrolRequest, Figures, HostReport, Malformed, decode, encode

REPORT = HostReport(software="1", epoch=1, generation=2, state="applied", figures=Figures(requests=5, p99=0.1))


def test_what_is_encoded_is_decoded() -> None:
    assert decode(encode(REPORT), HostReport) == REPORT


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"software": "1", "extra": 1}',
        b'{"software": "1", "generation": -1}',
        b'{"software": "1", "state": "wonderful"}',
        b'{"software": "1", "generation": "2"}',
        b'{"software": "1", "figures": {"p99": -1.0}}',
        b'{"software": "1", "figures": {"p99": 1e10}}',
        b'{"software": "1", "figures": {"p99": 1e999}}',
        b'{"software": "1", "figures": {"requests": 100, "failures": ' + b"9" * 400 + b"}}",
        b'{"software": "1", "generation": 9007199254740993}',
        b'{"software": "1", "refused": [1, ' + b"9" * 30 + b"]}",
        b'{"software": "1", "certificates": {"host": -1.0}}',
        b'{"software": "1", "certificates": {"host": 1e12}}',
        b'{"software": "' + b"x" * 129 + b'"}',
        b'{"software": "1", "problems": ["' + b"x" * 1001 + b'"]}',
        b'{"software": "1", "problems": [' + b",".join([b'""'] * 101) + b"]}",
        b"[" * 10_000,
        b" " * (BODY_SIZE + 1),
    ],
)
def test_anything_else_is_refused_with_a_reason(body: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        decode(body, HostReport)
    assert str(caught.value)


def test_a_token_is_never_short() -> None:
    with pytest.raises(Malformed):
        decode(b'{"host": "web-1", "token": "x", "csr": "y"}', EnrolRequest)
