from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostproxy.exchange.replies import REASONS, Refusal, reply


def read(data: bytes, method: bytes = b"GET") -> tuple[h11.Response, bytes]:
    """What another parser makes of it, and whether it is all."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += bytes(event.data)
    assert client.trailing_data[0] == b""
    return response, body


def test_a_refusal_says_what_and_why() -> None:
    refusal = Refusal(403, "UAEX", "http_request_denied", "cart may not POST here: policy.toml:3")
    response, body = read(reply(refusal, b"id-1", False, False))
    headers = dict(response.headers)
    assert response.status_code == 403
    assert response.reason == b"Forbidden"
    assert body == b"hostproxy: cart may not POST here: policy.toml:3 (UAEX)\n"
    assert headers[b"x-request-id"] == b"id-1"
    assert headers[b"x-hostproxy-reason"] == b"cart may not POST here: policy.toml:3"
    assert headers[b"proxy-status"].startswith(b"hostproxy; error=http_request_denied; details=")
    assert b"connection" not in headers


def test_it_says_that_the_connection_closes() -> None:
    response, _ = read(reply(Refusal(400, "DPE", "http_request_error", "bad"), b"", True, False))
    assert (b"connection", b"close") in list(response.headers)
    assert b"x-request-id" not in dict(response.headers)


def test_the_answer_to_head_has_the_length_but_no_body() -> None:
    refusal = Refusal(404, "NR", "destination_not_found", "none")
    response, body = read(reply(refusal, b"", False, True), b"HEAD")
    assert body == b""
    assert int(dict(response.headers)[b"content-length"]) > 0


@pytest.mark.parametrize("status", sorted(REASONS))
def test_every_status_has_its_reason(status: int) -> None:
    response, _ = read(reply(Refusal(status, "-", "x", "why"), b"", False, False))
    assert (response.status_code, bytes(response.reason)) == (status, REASONS[status])


@given(st.text())
def test_no_text_breaks_out_of_its_line(text: str) -> None:
    """Details name hosts and paths that clients have chosen."""
    response, body = read(reply(Refusal(404, "NR", "x", text), b"", False, False))
    details = dict(response.headers)[b"proxy-status"].split(b"details=", 1)[1]
    assert details.count(b'"') == 2
    assert details.endswith(b'"')
    assert all(32 <= byte < 127 for byte in body[:-1])
    assert len(body) < 1100
