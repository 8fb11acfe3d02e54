from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hostproxy.identity.contexts import client_context, server_context
from hostproxy.identity.development import Authority, create_authority, issue
from hostproxy.mesh.spiffe import SpiffeId
from hostproxy.snapshot import Identity
from tests.identity.crafting import Handshake, craft, lenient_client

NOW = datetime(2030, 5, 17, 12, 0, 0, tzinfo=UTC)
CART = SpiffeId.service("mesh.test", "cart")


def leaf(life: timedelta = timedelta(days=30), now: datetime = NOW) -> x509.Certificate:
    return x509.load_pem_x509_certificate(
        issue(create_authority("mesh.test", NOW), CART, now, life).certificate
    )


def extensions(certificate: x509.Certificate) -> dict[str, tuple[bool, object]]:
    return {type(e.value).__name__: (e.critical, e.value) for e in certificate.extensions}


def test_a_leaf_has_what_a_svid_has_and_nothing_more():
    certificate = leaf()
    found = extensions(certificate)
    assert found["SubjectAlternativeName"] == (
        True,
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://mesh.test/service/cart")]),
    )
    assert found["BasicConstraints"] == (True, x509.BasicConstraints(ca=False, path_length=None))
    critical, usage = found["KeyUsage"]
    assert critical
    assert usage.digital_signature
    assert not any((usage.key_cert_sign, usage.crl_sign, usage.key_encipherment, usage.key_agreement))
    assert {purpose._name for purpose in found["ExtendedKeyUsage"][1]} == {"serverAuth", "clientAuth"}
    assert set(found) == {
        *("SubjectAlternativeName", "BasicConstraints", "KeyUsage", "ExtendedKeyUsage"),
        *("SubjectKeyIdentifier", "AuthorityKeyIdentifier"),
    }
    assert list(certificate.subject) == []
    assert isinstance(certificate.public_key().curve, ec.SECP256R1)


def test_an_authority_may_sign_leaves_only():
    certificate = create_authority("mesh.test", NOW).certificate
    found = extensions(certificate)
    assert found["BasicConstraints"] == (True, x509.BasicConstraints(ca=True, path_length=0))
    critical, usage = found["KeyUsage"]
    assert critical
    assert usage.key_cert_sign
    assert not any((usage.digital_signature, usage.crl_sign, usage.key_encipherment, usage.key_agreement))
    uris = found["SubjectAlternativeName"][1].get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://mesh.test"]


def test_a_leaf_cannot_issue():
    """A certificate that a holder of a leaf made for another service opens nothing."""
    authority = create_authority("mesh.test", datetime.now(UTC))
    mine = issue(authority, CART, datetime.now(UTC), timedelta(days=1))
    key = serialization.load_pem_private_key(mine.key, None)
    certificate = x509.load_pem_x509_certificate(mine.certificate)
    forged = craft("spiffe://mesh.test/service/payments", by=Authority(certificate, key))
    chained = Identity("x", forged.uri, forged.certificate + mine.certificate, forged.key)
    server = server_context(Identity("cart", str(CART), mine.certificate, mine.key), authority.pem, ("h2",))
    error = Handshake(server, lenient_client(chained, ("h2",))).server_error
    assert isinstance(error, ssl.SSLCertVerificationError)


def test_certificates_start_ten_minutes_ago_and_end_as_asked():
    certificate = leaf(timedelta(days=30))
    assert certificate.not_valid_before_utc == NOW - timedelta(minutes=10)
    assert certificate.not_valid_after_utc == NOW + timedelta(days=30)


def test_no_leaf_outlives_its_authority():
    almost = NOW + timedelta(days=3649)
    end = create_authority("mesh.test", NOW).certificate.not_valid_after_utc
    assert leaf(timedelta(days=30), almost).not_valid_after_utc == end


def test_serial_numbers_are_128_random_bits():
    asked = []

    def bits(count: int) -> int:
        asked.append(count)
        return (1 << 127) + len(asked)

    authority = create_authority("mesh.test", NOW, bits)
    issued = issue(authority, CART, NOW, timedelta(days=1), bits)
    assert asked == [128, 128]
    assert authority.certificate.serial_number == (1 << 127) + 1
    assert x509.load_pem_x509_certificate(issued.certificate).serial_number == (1 << 127) + 2
    assert len({leaf().serial_number for _ in range(20)}) == 20


def test_authorities_can_be_told_apart_and_keys_are_in_no_repr():
    one, other = create_authority("mesh.test", NOW), create_authority("mesh.test", NOW)
    assert one.certificate.subject != other.certificate.subject
    issued = issue(one, CART, NOW, timedelta(days=1))
    assert "PRIVATE" not in repr(issued)
    assert "key" not in repr(one).lower().replace("certificate", "")


@pytest.mark.parametrize("trust_domain", ["mesh", "a.b.c.example", "m" * 63 + "." + "n" * 61])
@pytest.mark.parametrize("kind", ["service", "host"])
def test_names_of_every_length_make_certificates_that_work(trust_domain, kind):
    now = datetime.now(UTC)
    authority = create_authority(trust_domain, now)
    identity = SpiffeId(trust_domain, kind, "n" * 63)
    issued = issue(authority, identity, now, timedelta(days=1))
    mine = Identity("x", str(identity), issued.certificate, issued.key)
    server = server_context(mine, authority.pem, ("h2",))
    assert Handshake(server, client_context(mine, authority.pem, ("h2",))).complete
