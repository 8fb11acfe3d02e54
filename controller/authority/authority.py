"""Which root and which issuing authority are in use, and how the next ones come.

A directory holds ``authority.json``, ``root-N.pem``, ``root-N.key``, ``issuing-N.pem`` and ``issuing-N.key``. The key
of a root is needed for making issuing authorities only, and may be kept elsewhere between rotations.

A root is rotated in three acts, with a wait between them until every host has acknowledged a bundle: ``add_root``
(trusted by all, signs nothing), ``use_root`` (a new issuing authority under it signs from now on) and ``drop_root``
(trusted by nobody any more).
"""

from __future__ import annotations

import hashlib
import os
import secrets
from datetime import datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from controller.authority import keys, minting
from controller.authority.keys import Unusable
from controller.authority.minting import RandomBits
from controller.authority.requests import Refused
from hostproxy.mesh import storage
from hostproxy.mesh.spiffe import SpiffeId

STATE = "authority.json"
MOST_ROOTS = 8
LONGEST_LEAF = timedelta(hours=24)


class State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is in use, by number."""

    trust_domain: str
    roots: tuple[int, ...]  # trusted
    root: int  # the one above the issuing authority
    issuing: int


class Authority:
    """The authority of one mesh, in one directory. Its methods wait for the disk, and never for the network."""

    def __init__(
        self,
        directory: str,
        passphrase: bytes,
        state: State,
        roots: dict[int, x509.Certificate],
        issuing: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
        random_bits: RandomBits = secrets.randbits,
    ) -> None:
        self._directory = directory
        self._passphrase = passphrase
        self._state = state
        self._roots = roots
        self._issuing = issuing
        self._random_bits = random_bits

    @classmethod
    def create(
        cls,
        directory: str,
        trust_domain: str,
        passphrase: bytes,
        now: datetime,
        random_bits: RandomBits = secrets.randbits,
    ) -> Authority:
        """Make a root and an issuing authority in an empty or new directory. Raises :class:`Unusable`, OSError."""
        os.makedirs(directory, 0o700, exist_ok=True)
        if os.path.exists(os.path.join(directory, STATE)):
            raise Unusable(f"{directory}: has an authority already")
        state = State(trust_domain=trust_domain, roots=(1,), root=1, issuing=1)
        root = _make_root(directory, 1, state, passphrase, now, random_bits)
        issuing = _make_issuing(directory, 1, state, root, passphrase, now, random_bits)
        authority = cls(directory, passphrase, state, {1: root[0]}, issuing, random_bits)
        authority._save(state)
        return authority

    @classmethod
    def load(cls, directory: str, passphrase: bytes) -> Authority:
        """Read it. The key of the root need not be there. Raises :class:`Unusable`."""
        path = os.path.join(directory, STATE)
        try:
            state = msgspec.json.decode(storage.read(path, keys.FILE_SIZE), type=State)
        except storage.Unusable as error:
            raise Unusable(f"{path}: {error}") from None
        except msgspec.DecodeError as error:
            raise Unusable(f"{path}: {error}") from None
        roots = {number: keys.load_certificate(_path(directory, "root", number)) for number in state.roots}
        path = _path(directory, "issuing", state.issuing)
        certificate = keys.load_certificate(path)
        key = keys.load_ec_key(_path(directory, "issuing", state.issuing, "key"), passphrase)
        if certificate.public_key() != key.public_key():
            raise Unusable(f"{path}: the key beside it is another certificate's")
        return cls(directory, passphrase, state, roots, (certificate, key))

    # What everybody may know

    @property
    def trust_domain(self) -> str:
        """The mesh."""
        return self._state.trust_domain

    @property
    def roots(self) -> tuple[str, ...]:
        """Every root that is trusted, PEM."""
        return tuple(each.public_bytes(Encoding.PEM).decode() for each in self._roots.values())

    @property
    def fingerprint(self) -> str:
        """Of the root in use: what a host is given to know the controller by, ``sha256:HEX``."""
        return fingerprint(self._roots[self._state.root])

    @property
    def state(self) -> State:
        """What is in use."""
        return self._state

    @property
    def issuing_ends(self) -> datetime:
        """When the issuing authority ends. Leaves get shorter a day before that."""
        return self._issuing[0].not_valid_after_utc

    # Issuing

    def issue(
        self, key: ec.EllipticCurvePublicKey, identity: SpiffeId, *, now: datetime, life: timedelta, dns: str = ""
    ) -> bytes:
        """A certificate for ``identity``, with the issuing authority's behind it, PEM. Raises :class:`Refused`."""
        if identity.trust_domain != self.trust_domain:
            raise Refused(f"{identity} is not of this mesh")
        if now >= self.issuing_ends:
            raise Refused("the issuing authority has expired: hostproxy-controller authority rotate-issuing")
        leaf = minting.leaf(identity, dns, key, self._issuing, now, min(life, LONGEST_LEAF), self._random_bits)
        return leaf.public_bytes(Encoding.PEM) + self._issuing[0].public_bytes(Encoding.PEM)

    # Rotation

    def rotate_issuing(self, now: datetime) -> None:
        """Sign with a new issuing authority under the same root from now on. Needs the root's key."""
        self._use(self._state.root, now)

    def add_root(self, now: datetime) -> int:
        """Trust a new root; nothing is signed with it yet. Returns its number."""
        if len(self._state.roots) >= MOST_ROOTS:
            raise Unusable(f"there are {MOST_ROOTS} roots: drop one first")
        number = max(self._state.roots) + 1
        certificate, _ = _make_root(self._directory, number, self._state, self._passphrase, now, self._random_bits)
        self._save(msgspec.structs.replace(self._state, roots=(*self._state.roots, number)))
        self._roots[number] = certificate
        return number

    def use_root(self, number: int, now: datetime) -> None:
        """Sign under this root from now on. Every host has to trust it by then."""
        if number not in self._state.roots:
            raise Unusable(f"root {number} is none of {self._state.roots}")
        self._use(number, now)

    def drop_root(self, number: int) -> None:
        """Trust this root no more. Certificates under it are refused as soon as hosts know."""
        if number not in self._state.roots:
            raise Unusable(f"root {number} is none of {self._state.roots}")
        if number == self._state.root:
            raise Unusable(f"root {number} is in use: use another first")
        remaining = tuple(each for each in self._state.roots if each != number)
        self._save(msgspec.structs.replace(self._state, roots=remaining))
        del self._roots[number]

    def _use(self, root: int, now: datetime) -> None:
        key = keys.load_ec_key(_path(self._directory, "root", root, "key"), self._passphrase)
        number = self._state.issuing + 1
        issuing = _make_issuing(
            self._directory, number, self._state, (self._roots[root], key), self._passphrase, now, self._random_bits
        )
        self._save(msgspec.structs.replace(self._state, root=root, issuing=number))
        self._issuing = issuing

    def _save(self, state: State) -> None:
        """The certificates and keys that it names are there before it is."""
        storage.write(os.path.join(self._directory, STATE), msgspec.json.encode(state), 0o644)
        self._state = state


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, ``sha256:HEX``."""
    return "sha256:" + hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def _path(directory: str, what: str, number: int, suffix: str = "pem") -> str:
    return os.path.join(directory, f"{what}-{number}.{suffix}")


def _make_root(
    directory: str, number: int, state: State, passphrase: bytes, now: datetime, random_bits: RandomBits
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = minting.root(state.trust_domain, key, now, random_bits)
    keys.save_key(_path(directory, "root", number, "key"), key, passphrase)
    keys.save_certificate(_path(directory, "root", number), certificate)
    return certificate, key


def _make_issuing(
    directory: str,
    number: int,
    state: State,
    root: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    passphrase: bytes,
    now: datetime,
    random_bits: RandomBits,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = minting.issuing(state.trust_domain, key, root, now, random_bits)
    keys.save_key(_path(directory, "issuing", number, "key"), key, passphrase)
    keys.save_certificate(_path(directory, "issuing", number), certificate)
    return certificate, key


