"""The key that signs bundles, and how the next one comes: the old one signs a bundle that names the new one.

Beside the key's file stands ``FILE.next`` from the time at which a new key is announced until it is used. Every host
has to have a bundle that names it by then: a host that has not believes nothing that the new key signs.
"""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controller.authority import keys
from controller.authority.keys import Unusable
from hostproxy.mesh.bundle import key_id, raw_public_key


class Signing:
    """The keys of one mesh that sign bundles. Its methods wait for the disk."""

    def __init__(
        self, path: str, passphrase: bytes, current: Ed25519PrivateKey, following: Ed25519PrivateKey | None = None
    ) -> None:
        """See :meth:`create` and :meth:`load`."""
        self.current = current  # signs
        self.following = following  # announced; None: no other key is on its way
        self._path = path
        self._passphrase = passphrase

    @classmethod
    def create(cls, path: str, passphrase: bytes) -> Signing:
        """Make the first key. Raises :class:`Unusable`, OSError."""
        if os.path.lexists(path):
            raise Unusable(f"{path}: is there already")
        key = Ed25519PrivateKey.generate()
        keys.save_key(path, key, passphrase)
        return cls(path, passphrase, key)

    @classmethod
    def load(cls, path: str, passphrase: bytes) -> Signing:
        """Read them. Raises :class:`Unusable`."""
        current = keys.load_signing_key(path, passphrase)
        announced = _next(path)
        following = keys.load_signing_key(announced, passphrase) if os.path.lexists(announced) else None
        return cls(path, passphrase, current, following)

    @property
    def signers(self) -> tuple[bytes, ...]:
        """Public keys of which one signs the next bundle, raw."""
        both = (self.current, self.following)
        return tuple(raw_public_key(key) for key in both if key is not None)

    def announce(self) -> None:
        """Make the next key. It signs nothing yet. Raises :class:`Unusable`, OSError."""
        if self.following is not None:
            raise Unusable(f"{name(self.following)} is announced already: use it first")
        key = Ed25519PrivateKey.generate()
        keys.save_key(_next(self._path), key, self._passphrase)
        self.following = key

    def use(self) -> None:
        """Sign with the announced key from now on, and forget the old one. Raises :class:`Unusable`, OSError."""
        if self.following is None:
            raise Unusable("no other key is announced")
        os.rename(_next(self._path), self._path)
        self.current, self.following = self.following, None


def name(key: Ed25519PrivateKey) -> str:
    """What a key is called where people see it: the beginning of its id in bundles."""
    return key_id(raw_public_key(key)).hex()[:16]


def _next(path: str) -> str:
    return f"{path}.next"
