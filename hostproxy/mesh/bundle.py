"""A bundle: all policy of one generation for one host, signed by the controller.

What travels is a line that names the format, the key that signed, an Ed25519 signature (RFC 8032) over the line and
everything behind the signature, and the payload. Nothing is decoded before the signature was verified, and what the
signature covers are the octets that came, so there is no canonical form to get wrong::

    hostproxy-bundle/1\\n  key id (32)  signature (64)  payload (msgpack)
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Mapping

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hostproxy.mesh.spiffe import InvalidName, SpiffeId

FORMAT = b"hostproxy-bundle/1\n"
KEY_ID = 32  # bytes
SIGNATURE = 64  # bytes
PUBLIC_KEY = 32  # bytes
HEADER = len(FORMAT) + KEY_ID + SIGNATURE

BUNDLE_SIZE = 4 * 1024 * 1024  # bytes; the policy of 200 services has about 100 KiB
FILES = 1000
ROOTS = 16  # more than any rotation needs at a time
SIGNERS = 16
DENIED = 10_000
# Generations that may pass while a host is away. More is a slip or an attack: after 2^63 there would be no next one.
MOST_AHEAD = 1_000_000
# Seconds that the clocks of controller and host may differ. More breaks certificates as well.
SKEW = 600.0

# What a file of policy can be called: it becomes a path on the host.
_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}\.toml")


class Refused(Exception):
    """A bundle can't be taken. ``code`` is for metrics: a word of a fixed set."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bundle is, and for whom. Times are Unix seconds."""

    mesh: str  # trust domain
    host: str  # the only one that it is for
    epoch: int  # raised by an operator alone, after a recovery; comes before the generation in every comparison
    generation: int  # counts up with every change of policy
    issued: float
    expires: float  # afterwards a host goes on with it, and alarms: it may have been cut off from newer ones
    files: dict[str, bytes]  # name -> SHA-256 of the content
    roots: tuple[str, ...]  # PEM of every authority that is trusted
    signers: tuple[bytes, ...]  # public keys, of which one signs the next bundle
    denied: tuple[str, ...] = ()  # identities that are refused whatever certificate they have
    confirm_within: float = 0.0  # seconds until the host goes back by itself, unless it is told to stay; 0: it stays


class Payload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is signed."""

    manifest: Manifest
    files: dict[str, bytes]


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle whose signature, addressee, age and content were verified."""

    manifest: Manifest
    files: Mapping[str, bytes]
    digest: str  # SHA-256 of all that travelled, hexadecimal

    @property
    def version(self) -> tuple[int, int]:
        """Epoch and generation: what never goes back."""
        return self.manifest.epoch, self.manifest.generation


class Newest(msgspec.Struct, frozen=True):
    """The newest bundle that a host has ever taken: older ones are refused, also after a restart."""

    epoch: int = 0
    generation: int = 0
    digest: str = ""  # empty: none has been taken


def key_id(public: bytes) -> bytes:
    """What a raw public key is called in a bundle."""
    return hashlib.sha256(public).digest()


def raw_public_key(key: Ed25519PrivateKey) -> bytes:
    """The public half, 32 bytes."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def digest_of(data: bytes) -> str:
    """What tells two bundles apart."""
    return hashlib.sha256(data).hexdigest()


def file_name(text: str) -> str:
    """Return the name of a policy file in a bundle. Raises ValueError."""
    if not _FILE_NAME.fullmatch(text) or ".." in text:
        raise ValueError(f"{text!r:.120} cannot be a file of a bundle: use lower-case letters, digits, . _ - and .toml")
    return text


def seal(manifest: Manifest, files: Mapping[str, bytes], key: Ed25519PrivateKey) -> bytes:
    """Sign a bundle. The manifest's ``files`` are filled in. Raises :class:`Refused` when no host would take it."""
    hashes = {name: hashlib.sha256(content).digest() for name, content in files.items()}
    manifest = msgspec.structs.replace(manifest, files=hashes)
    _check_shape(manifest, files)
    payload = msgspec.msgpack.encode(Payload(manifest=manifest, files=dict(files)))
    data = FORMAT + key_id(raw_public_key(key)) + key.sign(FORMAT + payload) + payload
    if len(data) > BUNDLE_SIZE:
        raise Refused("size", f"the bundle has {len(data)} bytes, the most is {BUNDLE_SIZE}")
    return data


def open_bundle(data: bytes, *, signers: Collection[bytes], mesh: str, host: str, now: float, newest: Newest) -> Bundle:
    """Verify a bundle for ``host``, which trusts the raw public keys ``signers``. Raises :class:`Refused`.

    ``newest`` is what this host has taken before: the same again is accepted, older ones are not. An expired one is
    accepted too: it may be the best there is, and whoever takes it shows its age.
    """
    payload = _verified(data, signers)
    try:
        decoded = msgspec.msgpack.decode(payload, type=Payload)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refused("malformed", f"signed, but not a bundle that this version understands: {error}") from None
    manifest = decoded.manifest
    _check_shape(manifest, decoded.files)
    if manifest.mesh != mesh:
        raise Refused("mesh", f"it is for the mesh {manifest.mesh!r:.80}, this is {mesh}")
    if manifest.host != host:
        raise Refused("host", f"it is for the host {manifest.host!r:.80}, this is {host}")
    if manifest.issued > now + SKEW:
        raise Refused("clock", f"it was issued {manifest.issued - now:.0f} s from now: a clock is wrong")
    bundle = Bundle(manifest=manifest, files=decoded.files, digest=digest_of(data))
    _check_version(bundle, newest)
    return bundle


def _verified(data: bytes, signers: Collection[bytes]) -> bytes:
    """The payload, once its signature was found good."""
    if len(data) > BUNDLE_SIZE:
        raise Refused("size", f"it has more than {BUNDLE_SIZE} bytes")
    if len(data) < HEADER or not data.startswith(FORMAT):
        raise Refused("format", "it is not a bundle of hostproxy")
    wanted = data[len(FORMAT) : len(FORMAT) + KEY_ID]
    signature = data[len(FORMAT) + KEY_ID : HEADER]
    public = next((each for each in signers if key_id(each) == wanted), None)
    if public is None:
        raise Refused("signer", f"it is signed by the key {wanted.hex()[:16]}, which this host does not trust")
    payload = data[HEADER:]
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, FORMAT + payload)
    except InvalidSignature:
        raise Refused("signature", "the signature does not match the content") from None
    return payload


def _check_shape(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """What neither side may get wrong, and what bounds the work of the other."""
    for what, count, most in (
        ("files", len(files), FILES),
        ("roots", len(manifest.roots), ROOTS),
        ("signers", len(manifest.signers), SIGNERS),
        ("denied identities", len(manifest.denied), DENIED),
    ):
        if count > most:
            raise Refused("shape", f"it has {count} {what}, the most is {most}")
    if not manifest.roots or not manifest.signers:
        raise Refused("shape", "it names no root or no signer: nothing could follow it")
    if any(len(each) != PUBLIC_KEY for each in manifest.signers):
        raise Refused("shape", "a signer is not an Ed25519 public key")
    if not 0 <= manifest.epoch < 2**31 or not 1 <= manifest.generation < 2**53:
        raise Refused("shape", f"epoch {manifest.epoch}, generation {manifest.generation} is out of bounds")
    times = (manifest.issued, manifest.expires, manifest.confirm_within)
    if not all(math.isfinite(each) and each >= 0 for each in times):
        raise Refused("shape", "a time is not a number of seconds")
    for identity in manifest.denied:
        try:
            SpiffeId.parse(identity)
        except InvalidName as error:
            raise Refused("shape", f"denied: {error}") from None
    if files.keys() != manifest.files.keys():
        raise Refused("files", "the files are not those that the manifest names")
    for name, content in files.items():
        try:
            file_name(name)
        except ValueError as error:
            raise Refused("files", str(error)) from None
        if hashlib.sha256(content).digest() != manifest.files[name]:
            raise Refused("files", f"{name} is not what the manifest says")


def _check_version(bundle: Bundle, newest: Newest) -> None:
    epoch, generation = bundle.version
    if not newest.digest or bundle.digest == newest.digest:
        return
    text = f"it is generation {generation} of epoch {epoch}, this host has had {newest.generation} of {newest.epoch}"
    if (epoch, generation) < (newest.epoch, newest.generation):
        raise Refused("rollback", f"{text}: an older one is not taken")
    if (epoch, generation) == (newest.epoch, newest.generation):
        raise Refused("conflict", f"{text} with other content: two controllers disagree")
    if epoch == newest.epoch and generation > newest.generation + MOST_AHEAD:
        raise Refused("fast-forward", f"{text}: so far ahead only with a new epoch")
