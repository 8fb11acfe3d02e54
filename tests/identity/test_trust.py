from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hostproxy.identity.contexts import client_context, server_context
from hostproxy.identity.development import Authority
from hostproxy.identity.trust import Trust
from hostproxy.snapshot import Identity
from tests.identity.crafting import CART, PAYMENTS, Handshake, craft

NOW = datetime.now(UTC)
UNLIMITED = x509.BasicConstraints(True, None)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def make(
    name: str,
    by: Authority | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
    constraints: x509.BasicConstraints = UNLIMITED,
    signs: bool = True,
    more: tuple[x509.ExtensionType, ...] = (),
    critical: bool = False,
) -> Authority:
    """An authority, a root unless it is signed ``by`` another one; with ``key`` it is another certificate for it."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    issuer = by.certificate.subject if by else named(name)
    signer = by.key if by else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(hours=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
        .add_extension(constraints, True)
        .add_extension(x509.KeyUsage(not signs, False, False, False, False, signs, False, False, False), True)
    )
    for extension in more:
        builder = builder.add_extension(extension, critical)
    return Authority(builder.sign(signer, hashes.SHA256()), key)


OLD, NEW = make("old root"), make("new root")
ISSUING = make("issuing", OLD)


def leaf(by: Authority, *above: Authority, uri: str = CART) -> Identity:
    """A leaf ``by`` an authority, shown with the certificates ``above`` it."""
    made = craft(uri, by=by)
    chain = made.certificate + b"".join(authority.pem for authority in above)
    return Identity("leaf", uri, chain, made.key)


def shaken(identity: Identity, *roots: Authority) -> Handshake:
    """A connection of ``identity`` with a peer, under ``roots``, which both know."""
    pem = b"".join(root.pem for root in roots)
    peer = leaf(roots[0], uri=PAYMENTS)
    done = Handshake(server_context(peer, pem, ("http/1.1",)), client_context(identity, pem, ("http/1.1",)))
    assert done.complete, (done.server_error, done.client_error)
    return done


def holds(identity: Identity, *roots: Authority, under: Authority = OLD) -> bool:
    """Whether the server that took ``identity`` under one root would keep it under others."""
    return Trust(b"".join(root.pem for root in roots)).holds(shaken(identity, under).server)


def test_what_roots_lack() -> None:
    both, new = Trust(OLD.pem + NEW.pem), Trust(NEW.pem)
    assert new.lacks(both)
    assert not both.lacks(new)
    assert not both.lacks(Trust(NEW.pem + OLD.pem))
    assert not new.lacks(Trust(b""))
    assert Trust(b"").lacks(new)


def test_both_sides_know_the_root_that_the_other_one_is_under() -> None:
    both = shaken(leaf(ISSUING, ISSUING), NEW, OLD)
    for roots, server, client in (
        ((OLD, NEW), True, True),
        ((NEW,), False, True),
        ((OLD,), True, False),
        ((), False, False),
    ):
        trust = Trust(b"".join(root.pem for root in roots))
        assert trust.holds(both.server) is server, roots
        assert trust.holds(both.client) is client, roots


def test_nothing_is_known_before_the_handshake() -> None:
    context = client_context(leaf(OLD), OLD.pem, ("http/1.1",))
    tls = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="payments")
    assert not Trust(OLD.pem).holds(tls)


def test_a_root_that_was_renewed_with_its_key_is_another_way() -> None:
    renewed = make("old root", key=OLD.key)
    assert renewed.pem != OLD.pem
    assert holds(leaf(ISSUING, ISSUING), renewed)
    assert holds(leaf(OLD), renewed)
    assert not holds(leaf(OLD), make("old root"))


def test_so_is_an_authority_that_the_other_root_has_signed_too() -> None:
    crossed = make("issuing", NEW, key=ISSUING.key)
    assert holds(leaf(ISSUING, ISSUING, crossed), NEW)
    assert not holds(leaf(ISSUING, ISSUING), NEW)
    top = make("old root", NEW, key=OLD.key)
    assert holds(leaf(ISSUING, ISSUING, top), NEW)
    assert holds(leaf(ISSUING, top, ISSUING), NEW)


@pytest.mark.parametrize(
    "crossed",
    [
        {"constraints": x509.BasicConstraints(False, None)},
        {"signs": False},
        {"more": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),)},
        {"more": (x509.NameConstraints([x509.DNSName("elsewhere")], None),)},
        {"more": (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),), "critical": True},
        {"key": ec.generate_private_key(ec.SECP256R1())},
    ],
    ids=["a-leaf", "signs-nothing", "for-other-purposes", "for-other-names", "not-understood", "another-key"],
)
def test_what_is_no_authority_beyond_doubt_is_none(crossed: dict[str, object]) -> None:
    odd = make("issuing", NEW, **{"key": ISSUING.key, **crossed})  # type: ignore[arg-type]
    assert not holds(leaf(ISSUING, ISSUING, odd), NEW)


def test_a_path_may_be_too_long() -> None:
    short = make("new root", key=NEW.key, constraints=x509.BasicConstraints(True, 0))
    crossed = make("issuing", NEW, key=ISSUING.key)
    assert not holds(leaf(ISSUING, ISSUING, crossed), short)
    flat = make("old root", key=OLD.key, constraints=x509.BasicConstraints(True, 0))
    assert holds(leaf(OLD), flat)


def test_what_a_peer_sends_too_much_is_not_looked_at() -> None:
    crossed = make("issuing", NEW, key=ISSUING.key)
    padding = [make(f"other {number}", NEW) for number in range(8)]
    assert not holds(leaf(ISSUING, ISSUING, *padding, crossed), NEW)


def test_the_root_that_a_peer_sends_itself_proves_nothing() -> None:
    stranger = make("stranger")
    assert not holds(leaf(ISSUING, ISSUING, OLD, stranger), NEW)


def test_roots_are_written_as_files_have_them() -> None:
    assert Trust(OLD.pem).roots == {OLD.certificate.public_bytes(serialization.Encoding.DER)}
