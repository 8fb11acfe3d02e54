from __future__ import annotations

import ssl

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from hostproxy.identity.contexts import client_context, server_context
from hostproxy.identity.peer import (
    REMEDIES,
    PeerRefused,
    handshake_failure_reason,
    peer_identity,
    peer_protocol,
)
from tests.identity.crafting import (
    CART,
    CLIENT,
    DAY,
    PAYMENTS,
    SERVER,
    TRUST_DOMAIN,
    Handshake,
    Usage,
    authority,
    craft,
    der,
    good,
    lenient_client,
    lenient_server,
)

HTTP = ("http/1.1",)


def test_a_peer_of_the_mesh_is_who_its_certificate_says():
    assert peer_identity(der(good(CART)), TRUST_DOMAIN).uri == CART
    host = f"spiffe://{TRUST_DOMAIN}/host/db-1"
    assert peer_identity(der(good(host)), TRUST_DOMAIN).uri == host
    assert peer_identity(der(good(PAYMENTS)), TRUST_DOMAIN, expected=PAYMENTS).uri == PAYMENTS


def test_other_kinds_of_names_and_strong_keys_do_not_matter():
    assert peer_identity(der(craft(CART, dns=("cart.example",))), TRUST_DOMAIN).uri == CART
    assert peer_identity(der(craft(CART, ca=None)), TRUST_DOMAIN).uri == CART
    for key in (
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
    ):
        assert peer_identity(der(craft(CART, key=key)), TRUST_DOMAIN).uri == CART


REFUSED = {
    "wrong trust domain": (lambda: craft("spiffe://other.test/service/cart"), "wrong-trust-domain"),
    "trust domain as a prefix": (
        lambda: craft(f"spiffe://{TRUST_DOMAIN}.evil/service/cart"),
        "wrong-trust-domain",
    ),
    "no URI SAN, but a DNS one": (lambda: craft(dns=("cart.mesh.test",)), "no-uri-san"),
    "no SAN": (lambda: craft(), "no-uri-san"),
    "two URI SANs": (lambda: craft(CART, PAYMENTS), "several-uri-sans"),
    "the same URI SAN twice": (lambda: craft(CART, CART), "several-uri-sans"),
    "not a SPIFFE ID": (lambda: craft("https://mesh.test/service/cart"), "bad-spiffe-id"),
    "another path": (lambda: craft("spiffe://mesh.test/ns/default/sa/cart"), "bad-spiffe-id"),
    "no path": (lambda: craft("spiffe://mesh.test"), "bad-spiffe-id"),
    "forged line": (lambda: craft("spiffe://mesh.test/service/cart\nx"), "bad-spiffe-id"),
    "NUL": (lambda: craft("spiffe://mesh.test/service/cart\0.evil"), "bad-spiffe-id"),
    "authority bit": (lambda: craft(CART, ca=True), "authority-bit"),
    "may sign certificates": (lambda: craft(CART, usage=Usage(key_cert_sign=True)), "key-usage"),
    "may not sign at all": (lambda: craft(CART, usage=Usage(digital_signature=False)), "key-usage"),
    "no key usage": (lambda: craft(CART, no_usage=True), "key-usage"),
    "no clientAuth": (lambda: craft(CART, purposes=(SERVER,)), "wrong-purpose"),
    "no extended key usage": (lambda: craft(CART, purposes=()), "wrong-purpose"),
    "RSA-1024": (lambda: craft(CART, key=rsa.generate_private_key(65537, 1024)), "weak-key"),
    "P-224": (lambda: craft(CART, key=ec.generate_private_key(ec.SECP224R1())), "weak-key"),
    "too large": (lambda: craft(CART, padding=20_000), "unreadable"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_certificate_that_the_mesh_would_not_issue_is_refused(case):
    make, reason = REFUSED[case]
    certificate = der(make())
    for _ in range(2):  # a refusal is the same the second time
        with pytest.raises(PeerRefused) as caught:
            peer_identity(certificate, TRUST_DOMAIN)
        assert caught.value.reason == reason
        assert caught.value.detail.isprintable()


def test_no_certificate_and_no_readable_certificate_are_refused():
    whole = der(good(CART))
    for certificate, reason in [
        (None, "no-certificate"),
        (b"", "no-certificate"),
        (b"\x30\x03", "unreadable"),
        (whole[:-1], "unreadable"),
        (whole + b"\0", "unreadable"),
    ]:
        with pytest.raises(PeerRefused) as caught:
            peer_identity(certificate, TRUST_DOMAIN)
        assert caught.value.reason == reason


def test_the_called_peer_must_be_exactly_the_one_expected():
    certificate = der(good(CART))
    host = f"spiffe://{TRUST_DOMAIN}/host/cart"
    for expected in (PAYMENTS, CART + "x", CART[:-1], CART.upper(), host, ""):
        with pytest.raises(PeerRefused) as caught:
            peer_identity(certificate, TRUST_DOMAIN, expected)
        assert caught.value.reason == "wrong-identity"


def test_each_side_needs_the_purpose_for_its_part():
    only_client, only_server = der(craft(CART, purposes=(CLIENT,))), der(craft(CART, purposes=(SERVER,)))
    assert peer_identity(only_client, TRUST_DOMAIN).uri == CART
    assert peer_identity(only_server, TRUST_DOMAIN, CART).uri == CART
    for certificate, expected in ((only_client, CART), (only_server, None)):
        with pytest.raises(PeerRefused) as caught:
            peer_identity(certificate, TRUST_DOMAIN, expected)
        assert caught.value.reason == "wrong-purpose"


def test_the_hosts_that_a_certificate_names_are_identities_of_the_peer():
    h1 = f"spiffe://{TRUST_DOMAIN}/host/db-1.example.org"
    names = (f"db-1.example.org.host.{TRUST_DOMAIN}", f"cart.dc1.{TRUST_DOMAIN}", f"A.host.{TRUST_DOMAIN}")
    certificate = der(craft(CART, dns=names))
    assert peer_identity(certificate, TRUST_DOMAIN) == (CART, {CART, h1})
    for denied in ({CART}, {h1}, {PAYMENTS, h1}):
        for expected in (None, CART):
            with pytest.raises(PeerRefused) as caught:
                peer_identity(certificate, TRUST_DOMAIN, expected, denied)
            assert caught.value.reason == "denied-identity"
    assert peer_identity(certificate, TRUST_DOMAIN, None, {PAYMENTS, f"spiffe://{TRUST_DOMAIN}/host/db-1"}).uri == CART


def test_a_denied_host_itself():
    host = f"spiffe://{TRUST_DOMAIN}/host/h1"
    with pytest.raises(PeerRefused):
        peer_identity(der(good(host)), TRUST_DOMAIN, None, {host})


def test_a_verdict_holds_for_one_trust_domain_only():
    certificate = der(good(CART))
    assert peer_identity(certificate, TRUST_DOMAIN).uri == CART
    with pytest.raises(PeerRefused) as caught:
        peer_identity(certificate, "other.test")
    assert caught.value.reason == "wrong-trust-domain"


# What OpenSSL refuses in a real handshake. Case -> (the client's identity, reason at the server, at the
# client).
CLIENTS = {
    "expired": (lambda: craft(CART, start=-2 * DAY, end=-DAY), "expired", "alert-certificate-expired"),
    "not yet valid": (lambda: craft(CART, start=DAY, end=2 * DAY), "not-yet-valid", "alert-bad-certificate"),
    "self-signed": (lambda: craft(CART, self_signed=True), "self-signed", "alert-unknown-ca"),
    "other authority": (lambda: good(CART, authority(1)), "unknown-authority", "alert-unknown-ca"),
    "no clientAuth": (
        lambda: craft(CART, purposes=(SERVER,)),
        "wrong-purpose",
        "alert-unsupported-certificate",
    ),
    "RSA-1024": (
        lambda: craft(CART, key=rsa.generate_private_key(65537, 1024)),
        "weak-key",
        "alert-bad-certificate",
    ),
    "100 KB chain": (
        lambda: craft(CART, padding=110_000),
        "certificates-too-large",
        "alert-illegal-parameter",
    ),
    "against RFC 5280": (
        lambda: craft(CART, authority_key=False),
        "bad-certificate",
        "alert-certificate-unknown",
    ),
    "no certificate": (lambda: None, "no-certificate", "alert-certificate-required"),
}


@pytest.mark.parametrize("case", CLIENTS)
def test_what_openssl_refuses_about_a_caller_has_its_own_word_on_both_sides(case):
    make, server_reason, client_reason = CLIENTS[case]
    server = server_context(good(PAYMENTS), authority().pem, HTTP)
    handshake = Handshake(server, lenient_client(make()))
    assert handshake_failure_reason(handshake.server_error) == server_reason
    assert handshake_failure_reason(handshake.client_error) == client_reason
    with pytest.raises(ssl.SSLError):
        handshake.exchange(b"no byte of a request arrives")


SERVERS = {
    "expired": (lambda: craft(PAYMENTS, start=-2 * DAY, end=-DAY), "expired"),
    "not yet valid": (lambda: craft(PAYMENTS, start=DAY, end=2 * DAY), "not-yet-valid"),
    "self-signed": (lambda: craft(PAYMENTS, self_signed=True), "self-signed"),
    "other authority": (lambda: good(PAYMENTS, authority(1)), "unknown-authority"),
    "no serverAuth": (lambda: craft(PAYMENTS, purposes=(CLIENT,)), "wrong-purpose"),
    "RSA-1024": (lambda: craft(PAYMENTS, key=rsa.generate_private_key(65537, 1024)), "weak-key"),
    "100 KB chain": (lambda: craft(PAYMENTS, padding=110_000), "certificates-too-large"),
}


@pytest.mark.parametrize("case", SERVERS)
def test_what_openssl_refuses_about_a_called_peer_has_its_own_word(case):
    make, reason = SERVERS[case]
    client = client_context(good(CART), authority().pem, HTTP)
    handshake = Handshake(lenient_server(make()), client, "payments.dc1.mesh.test")
    assert handshake_failure_reason(handshake.client_error) == reason
    with pytest.raises(ssl.SSLError):
        handshake.client.write(b"no byte of a request leaves")


# What OpenSSL lets through, and the mesh does not.
@pytest.mark.parametrize(
    "case",
    [
        "wrong trust domain",
        "no URI SAN, but a DNS one",
        "two URI SANs",
        "authority bit",
        "no key usage",
        "no extended key usage",
    ],
)
def test_what_openssl_lets_through_is_refused_after_the_handshake(case):
    make, reason = REFUSED[case]
    server = server_context(good(PAYMENTS), authority().pem, HTTP)
    handshake = Handshake(server, lenient_client(make()))
    assert handshake.complete
    with pytest.raises(PeerRefused) as caught:
        peer_identity(handshake.server.getpeercert(True), TRUST_DOMAIN)
    assert caught.value.reason == reason


def test_another_service_at_the_address_is_refused_after_the_handshake():
    client = client_context(good(CART), authority().pem, HTTP)
    billing = good(f"spiffe://{TRUST_DOMAIN}/service/billing")
    handshake = Handshake(server_context(billing, authority().pem, HTTP), client, "payments.dc1.mesh.test")
    assert handshake.complete
    with pytest.raises(PeerRefused) as caught:
        peer_identity(handshake.client.getpeercert(True), TRUST_DOMAIN, PAYMENTS)
    assert caught.value.reason == "wrong-identity"


def test_a_protocol_that_only_one_side_knows_is_refused_after_the_handshake():
    server = server_context(good(PAYMENTS), authority().pem, ("hostproxy-tcp",))
    client = client_context(good(CART), authority().pem, ("h2", "http/1.1"))
    handshake = Handshake(server, client, "payments.dc1.mesh.test")
    for side in (handshake.server, handshake.client):
        with pytest.raises(PeerRefused) as caught:
            peer_protocol(side)
        assert caught.value.reason == "wrong-protocol"


def test_tls_1_2_is_refused():
    server = server_context(good(PAYMENTS), authority().pem, HTTP)
    client = lenient_client(good(CART))
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    handshake = Handshake(server, client)
    assert handshake_failure_reason(handshake.server_error) == "protocol-version"
    assert handshake_failure_reason(handshake.client_error) == "alert-protocol-version"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n", "not-tls"),
        (b"PATCH / HTTP/1.1\r\nHost: payments\r\n\r\n", "not-tls"),
        (b"CONNECT payments:80 HTTP/1.1\r\n\r\n", "not-tls"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not-tls"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not-tls"),
        (b"\x16\x03\x01\xff\xff" + bytes(40), "not-tls"),
        (b"", "peer-closed"),
        (b"\x16\x03\x01\x02", "peer-closed"),
    ],
)
def test_what_is_not_tls_has_a_word_too(sent, reason):
    server = server_context(good(PAYMENTS), authority().pem, HTTP)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(sent)
    incoming.write_eof()
    side = server.wrap_bio(incoming, outgoing, server_side=True)
    with pytest.raises(ssl.SSLError) as caught:
        side.do_handshake()
    assert handshake_failure_reason(caught.value) == reason


def test_errors_that_are_not_of_tls_have_words():
    assert handshake_failure_reason(ConnectionResetError()) == "peer-closed"
    assert handshake_failure_reason(PeerRefused("weak-key", "x")) == "weak-key"
    assert handshake_failure_reason(ssl.SSLError(1, "something new")) == "other"
    assert handshake_failure_reason(ValueError("?")) == "other"


def test_a_skewed_clock_is_named_to_the_operator():
    assert "clock skew" in REMEDIES["expired"]
    assert "clock skew" in REMEDIES["not-yet-valid"]
