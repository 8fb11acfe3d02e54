"""Keys and certificates of this host: made here, checked when they come, and written in one piece."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import crypto

from hostproxy.identity.files import HOST, Validity
from hostproxy.identity.peer import CALLEE, CALLER, PeerRefused, faults, spiffe_id
from hostproxy.mesh.clocks import Skew
from hostproxy.mesh.spiffe import SpiffeId
from hostproxy.snapshot import Identity

PEM = serialization.Encoding.PEM
CHAIN = 8  # certificates: leaf, issuing authority, and room for more levels
_END_OF_KEY = b"-----END PRIVATE KEY-----\n"

# X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
UNTIMELY = (9, 10)

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


class Wrong(Exception):
    """A certificate can't be used. The message says why."""


class Untimely(Wrong):
    """It does not hold now, by the clock of this host. ``skew``: how far that is off at least, if it is that."""

    def __init__(self, text: str, skew: Skew) -> None:
        super().__init__(text)
        self.skew = skew


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """An identity of this host, with its private key."""

    identity: Identity
    validity: Validity
    received: float  # Unix seconds

    def __repr__(self) -> str:
        return f"<Held {self.identity.uri}>"

    @property
    def content(self) -> bytes:
        """What is written to the disk: the key, and the certificate with its chain."""
        return self.identity.key + self.identity.certificate


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key, which never leaves this host."""
    return ec.generate_private_key(ec.SECP256R1())


def request(key: ec.EllipticCurvePrivateKey) -> str:
    """Ask for a certificate (RFC 2986). Without names: the authority's records say whose it is."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(PEM).decode("ascii")


def wanted_identity(trust_domain: str, host: str, name: str) -> SpiffeId:
    """Who ``name`` is: a service, or "host"."""
    return SpiffeId.host(trust_domain, host) if name == HOST else SpiffeId.service(trust_domain, name)


def roots_of(pems: Sequence[str]) -> list[x509.Certificate]:
    """The roots that the controller names, each once. Raises :class:`Wrong`."""
    roots: dict[bytes, x509.Certificate] = {}
    for pem in pems:
        for root in _certificates(pem.encode("utf-8"), "a root"):
            try:
                constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
            except (*UNREADABLE, x509.ExtensionNotFound):
                raise Wrong("a root is no authority (no CA:TRUE)") from None
            if not constraints.ca or root.subject != root.issuer:
                raise Wrong("a root is no authority that is signed by itself")
            roots[root.public_bytes(PEM)] = root
    if not roots:
        raise Wrong("there is no root")
    return list(roots.values())


def issued(
    answer: str,
    key: ec.EllipticCurvePrivateKey,
    name: str,
    wanted: SpiffeId,
    roots: Sequence[x509.Certificate],
    now: float,
    before: Held | None = None,
) -> Held:
    """Check the certificate that came for ``key``. Raises :class:`Wrong`. ``before`` is the one in use."""
    chain = _certificates(answer.encode("utf-8"), "the certificate that came")
    leaf = _judged(chain, key, wanted)
    verify(chain, roots, now)
    validity = _validity(leaf)
    if before is not None and validity.not_before < before.validity.not_before:
        raise Wrong("the certificate that came is older than the one in use: the clock of a controller is wrong")
    return _held(name, wanted, chain, key, validity, now)


def stored(content: bytes, name: str, wanted: SpiffeId, written: float, now: float) -> Held:
    """Read what was written. Raises :class:`Wrong`. It may have expired since."""
    head, end, rest = content.partition(_END_OF_KEY)
    try:
        key = serialization.load_pem_private_key(head + end, None)
    except UNREADABLE:
        raise Wrong("holds no private key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Wrong("holds no EC key")
    chain = _certificates(rest, "what follows the key")
    validity = _validity(_judged(chain, key, wanted))
    # When it came decides when it is renewed; a clock that was wrong then is not to delay that.
    received = min(max(written, validity.not_before), now, validity.not_after)
    return _held(name, wanted, chain, key, validity, received)


def verify(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: float) -> None:
    """Verify, as OpenSSL does in a handshake, that a leaf (first) is under one of ``roots``. Raises :class:`Wrong`."""
    store = crypto.X509Store()
    for root in roots:
        store.add_cert(crypto.X509.from_cryptography(root))
    store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    store.set_time(datetime.fromtimestamp(now, UTC).replace(tzinfo=None))
    leaf, *rest = (crypto.X509.from_cryptography(each) for each in chain)
    try:
        crypto.X509StoreContext(store, leaf, rest).verify_certificate()
    except crypto.X509StoreContextError as error:
        if error.errors and error.errors[0] in UNTIMELY:
            for certificate in (*chain, *roots):
                if (why := untimely(certificate, now)) is not None:
                    raise why from None
        raise Wrong(f"the certificate does not verify: {error}") from None


def untimely(certificate: x509.Certificate, now: float) -> Untimely | None:
    """Why a certificate does not hold now, and whose clock may be wrong; None: it does, or can't be read."""
    try:
        start, end = _validity(certificate)
    except UNREADABLE:
        return None
    text = "the certificate does not verify: it is valid"
    if now < start:
        skew = Skew(now - start, least=True)
        return Untimely(f"{text} from {moment(start)}: this host's clock is {skew} (clock skew): set it", skew)
    if now >= end:
        skew = Skew(now - end, least=True)
        why = f"it was not renewed, or this host's clock is {skew} (clock skew): set it"
        return Untimely(f"{text} until {moment(end)}: {why}", skew)
    return None


def _judged(chain: Sequence[x509.Certificate], key: ec.EllipticCurvePrivateKey, wanted: SpiffeId) -> x509.Certificate:
    """The leaf, which is for this key and says this name."""
    leaf = chain[0]
    try:
        if leaf.public_key() != key.public_key():
            raise Wrong("the certificate is for another key")
        for fault in faults(leaf, wanted.trust_domain, (CALLER, CALLEE)):
            raise Wrong(fault.detail)
        found = spiffe_id(leaf)
    except PeerRefused as refused:
        raise Wrong(refused.detail) from None
    except UNREADABLE:
        raise Wrong("the certificate cannot be read") from None
    if found != wanted:
        raise Wrong(f"the certificate is for {found}, not for {wanted}")
    return leaf


def _certificates(content: bytes, what: str) -> list[x509.Certificate]:
    try:
        certificates = x509.load_pem_x509_certificates(content)
    except UNREADABLE:
        raise Wrong(f"{what} is no certificate in PEM") from None
    if len(certificates) > CHAIN:
        raise Wrong(f"{what} is {len(certificates)} certificates, the most is {CHAIN}")
    return certificates


def _held(
    name: str,
    wanted: SpiffeId,
    chain: Sequence[x509.Certificate],
    key: ec.EllipticCurvePrivateKey,
    validity: Validity,
    received: float,
) -> Held:
    certificate = b"".join(each.public_bytes(PEM) for each in chain)
    private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Held(identity=Identity(name, str(wanted), certificate, private), validity=validity, received=received)


def moment(seconds: float) -> str:
    """A time as people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _validity(certificate: x509.Certificate) -> Validity:
    return Validity(certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())
