"""Fields that a proxy adds, and those that nobody outside may set."""

from __future__ import annotations

import re

from tests.fakes.cases import head
from tests.fakes.client import exchange
from tests.fakes.origin import Answer, reply
from tests.fakes.reader import elements
from tests.integration.conftest import fresh
from tests.integration.host import TRUST_DOMAIN, eventually, fetch
from tests.integration.mesh import CALLER, Mesh, Service

FORGED = b"URI=spiffe://" + TRUST_DOMAIN.encode() + b"/service/admin"


def test_forwarded_for_and_proto(mesh: Mesh, http: Service, topology: str) -> None:
    fetch(http.address)
    request = http.origin.requests[0]
    addresses = elements(request.fields, b"x-forwarded-for")
    assert addresses[0].startswith(b"127.0.")
    assert len(addresses) == (1 if topology == "plain" else 2)
    assert request.values(b"x-forwarded-proto") == [b"http"]  # as the client spoke it, not as the mesh did


def test_forwarded_for_is_appended_to(http: Service) -> None:
    fetch(http.address, "/", b"X-Forwarded-For: 192.0.2.7", b"X-Forwarded-For: 192.0.2.8")
    addresses = elements(http.origin.requests[0].fields, b"x-forwarded-for")
    assert addresses[:2] == [b"192.0.2.7", b"192.0.2.8"]
    assert len(addresses) > 2


def test_via_both_ways(http: Service, topology: str) -> None:
    http.origin.respond = lambda request, connection: Answer(reply(b"ok", b"200 OK", b"Via: 1.0 cache"))
    outcome = fetch(http.address, "/", b"Via: 1.0 before")
    hops = 1 if topology == "plain" else 2
    assert elements(http.origin.requests[0].fields, b"via") == [b"1.0 before", *[b"1.1 hostproxy"] * hops]
    assert elements(outcome.responses[0].fields, b"via") == [b"1.0 cache", *[b"1.1 hostproxy"] * hops]


def test_via_names_the_version_that_was_received(http: Service) -> None:
    exchange(http.address, head(b"GET / HTTP/1.0", b"Host: a"))
    assert elements(http.origin.requests[0].fields, b"via")[0] == b"1.0 hostproxy"


def test_request_id_is_made_and_kept(http: Service) -> None:
    fetch(http.address)
    fetch(http.address)
    fetch(http.address, "/", b"X-Request-Id: given-by-the-client")
    made, other, given = (request.values(b"x-request-id") for request in http.origin.requests)
    assert len(made) == 1
    assert re.fullmatch(rb"[0-9a-zA-Z-]{16,64}", made[0])
    assert made != other
    assert given == [b"given-by-the-client"]


def test_request_id_links_the_access_logs(mesh: Mesh) -> None:
    service = mesh.services["mutual-http"]
    fresh(service.origin)
    fetch(service.address, "/linked", b"X-Request-Id: link-1234")
    for host in (mesh.alpha, mesh.beta):
        record = eventually(
            lambda host=host: [r for r in host.access_log() if r.get("request_id") == "link-1234"],
            message=host.name,
        )[0]
        assert record["method"] == "GET"
        assert record["path"] == "/linked"
        assert record["status"] == 200


def test_identity_field_is_stripped_from_outside(http: Service) -> None:
    for name in (b"X-Forwarded-Client-Cert", b"x-forwarded-client-cert", b"X-FORWARDED-CLIENT-CERT"):
        fetch(http.address, "/", name + b": " + FORGED)
    for request in http.origin.requests:
        for value in request.values(b"x-forwarded-client-cert"):
            assert b"admin" not in value


def test_identity_field_in_trailers_is_stripped(http: Service) -> None:
    body = b"2\r\nhi\r\n0\r\nX-Forwarded-Client-Cert: " + FORGED + b"\r\n\r\n"
    outcome = exchange(http.address, head(b"POST / HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked") + body)
    for request in http.origin.requests:
        assert FORGED not in [value for _, value in request.trailers]
    assert outcome.statuses[0] in (200, 400)


def test_identity_field_is_set_from_the_verified_peer(http: Service, topology: str) -> None:
    fetch(http.address, "/", b"X-Forwarded-Client-Cert: " + FORGED)
    values = http.origin.requests[0].values(b"x-forwarded-client-cert")
    if topology == "plain":
        assert values == []
    else:
        assert len(values) == 1
        assert f"URI=spiffe://{TRUST_DOMAIN}/service/{CALLER}".encode() in values[0]


def test_connection_cannot_remove_what_the_proxy_says(http: Service, topology: str) -> None:
    nominated = b"Connection: X-Forwarded-For, X-Forwarded-Client-Cert, Via, X-Request-Id, X-Forwarded-Proto"
    outcome = fetch(http.address, "/", nominated)
    if outcome.statuses == [400]:
        return
    assert outcome.statuses == [200]
    request = http.origin.requests[0]
    for name in (b"x-forwarded-for", b"via", b"x-request-id", b"x-forwarded-proto"):
        assert request.values(name), name
    if topology == "mutual":
        assert CALLER.encode() in request.values(b"x-forwarded-client-cert")[0]


def test_underscores_do_not_forge_the_identity(http: Service) -> None:
    """CGI and WSGI read X_Forwarded_Client_Cert and X-Forwarded-Client-Cert as one variable."""
    fetch(http.address, "/", b"X_Forwarded_Client_Cert: " + FORGED)
    for request in http.origin.requests:
        assert FORGED not in [value for _, value in request.fields]
