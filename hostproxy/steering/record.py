"""What this host has to know of its controller after a restart, and where that lies on the disk.

::

    controller.state            the record, and beside it the one before, in case somebody damages it
    bundles/EPOCH-GENERATION    the last three bundles, as they came
    identity/NAME.pem           key and certificate of a service, or of the host: one file, so that they always match

Every file is written aside, flushed, renamed into place and flushed with its directory, in this order: the bundles, the
record that names them, and only then what they say is put in force. So a crash at any point leaves the old state or
the new one.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping

import msgspec

from hostproxy.mesh import storage
from hostproxy.mesh.bundle import BUNDLE_SIZE, Newest

STATE = "controller.state"
BEFORE = "controller.state.before"
BUNDLES = "bundles"
IDENTITY = "identity"
RECORD_SIZE = 4 * 1024 * 1024
IDENTITY_SIZE = 256 * 1024
FORMAT = 1  # of the record; another one is not read

# What storage.write leaves when it is killed.
_LEFT_OVER = re.compile(r"\..+\.[0-9a-f]{16}")


class Kept(msgspec.Struct, frozen=True):
    """A bundle on the disk."""

    epoch: int
    generation: int
    digest: str
    signer: bytes  # the public key that it was verified with: signers change

    @property
    def file(self) -> str:
        """What it is called in the directory of bundles."""
        return f"{self.epoch}-{self.generation}"


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it but keys, certificates and the bundles themselves."""

    format: int = FORMAT
    trust_domain: str
    host: str
    roots: tuple[str, ...]  # PEM
    signers: tuple[bytes, ...]  # public keys, one of which signs the next bundle
    newest: Newest = Newest()  # that was ever taken: nothing older is
    kept: tuple[Kept, ...] = ()  # newest first
    current: str = ""  # digest of the one in force
    fallback: str = ""  # digest of the one before, which holds again unless the one in force is confirmed
    deadline: float = 0.0  # until when it has to be, Unix seconds; 0.0: it is, or needs not to be
    reverted: str = ""  # digest of the one that was in force, and was not confirmed

    def entry(self, digest: str) -> Kept | None:
        """The bundle with this digest."""
        return next((each for each in self.kept if each.digest == digest), None)


class Disk:
    """The files. Its methods raise OSError, and wait for the disk: mostly not for the reactor's thread."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.bundles = os.path.join(directory, BUNDLES)
        self.identity = os.path.join(directory, IDENTITY)

    def make(self) -> None:
        """Make the directories, closed to others."""
        for path in (self.directory, self.bundles, self.identity):
            os.makedirs(path, 0o700, exist_ok=True)
        for path in (self.bundles, self.identity):
            if stat.S_IMODE(os.stat(path).st_mode) != 0o700:
                os.chmod(path, 0o700)

    def clear(self) -> None:
        """Drop what a crash has left. Only while nothing writes: it looks the same."""
        for path in (self.directory, self.bundles, self.identity):
            for name in os.listdir(path):
                if _LEFT_OVER.fullmatch(name):
                    os.unlink(os.path.join(path, name))

    def load(self) -> tuple[Record | None, str]:
        """The record, and what is wrong with it: when it is damaged, the one before is taken."""
        problems: list[str] = []
        for name in (STATE, BEFORE):
            path = os.path.join(self.directory, name)
            if not os.path.exists(path):
                continue
            try:
                return _decoded(storage.read(path, RECORD_SIZE, private=True)), "; ".join(problems)
            except storage.Unusable as error:
                problems.append(f"{path} {error}" + (f"; {error.hint}" if error.hint else ""))
        return None, "; ".join(problems)

    def save(self, record: Record, bundles: Mapping[Kept, bytes]) -> None:
        """Replace the record, with the bundles that it names for the first time; drop those that it names no more."""
        for kept, data in bundles.items():
            if kept in record.kept:
                storage.write(os.path.join(self.bundles, kept.file), data, 0o600)
        path = os.path.join(self.directory, STATE)
        try:
            before = storage.read(path, RECORD_SIZE, private=True)
            _decoded(before)
        except storage.Unusable:
            pass  # there is none yet, or nothing worth keeping
        else:
            storage.write(os.path.join(self.directory, BEFORE), before, 0o600)
        storage.write(path, _encoded(record), 0o600)
        files = {kept.file for kept in record.kept}
        for name in os.listdir(self.bundles):
            if name not in files:
                os.unlink(os.path.join(self.bundles, name))

    def bundle(self, kept: Kept) -> bytes:
        """The bundle as it came. Raises :class:`storage.Unusable`."""
        return storage.read(os.path.join(self.bundles, kept.file), BUNDLE_SIZE)

    def unnamed(self, record: Record) -> list[bytes]:
        """Bundles that the record does not name: it was lost, or the process was killed before it wrote one."""
        found = []
        files = {kept.file for kept in record.kept}
        try:
            names = os.listdir(self.bundles)
        except OSError:
            return []
        for name in names:
            if name not in files:
                try:
                    found.append(storage.read(os.path.join(self.bundles, name), BUNDLE_SIZE))
                except storage.Unusable:
                    pass  # nothing that counted
        return found

    def save_identity(self, name: str, content: bytes) -> None:
        """Replace key and certificate of ``name``."""
        storage.write(self._identity_path(name), content, 0o600)

    def load_identity(self, name: str) -> tuple[bytes, float]:
        """Key and certificate, and when they were written (Unix seconds). Raises :class:`storage.Unusable`."""
        path = self._identity_path(name)
        content = storage.read(path, IDENTITY_SIZE, private=True)
        return content, os.stat(path).st_mtime

    def keep_identities(self, names: Iterable[str]) -> None:
        """Drop the keys of all other names."""
        files = {f"{name}.pem" for name in names}
        for name in os.listdir(self.identity):
            # What is just being written has another ending.
            if name.endswith(".pem") and name not in files:
                os.unlink(os.path.join(self.identity, name))

    def probe(self) -> None:
        """Try to write a key's worth. A token works once: what it gives must not be lost for a full disk."""
        path = os.path.join(self.identity, "probe")
        storage.write(path, b"." * 16 * 1024, 0o600)
        os.unlink(path)

    def _identity_path(self, name: str) -> str:
        return os.path.join(self.identity, f"{name}.pem")


def _encoded(record: Record) -> bytes:
    content = msgspec.json.format(msgspec.json.encode(record), indent=1)
    return hashlib.sha256(content).hexdigest().encode("ascii") + b"\n" + content + b"\n"


def _decoded(content: bytes) -> Record:
    digest, _, rest = content.partition(b"\n")
    rest = rest.removesuffix(b"\n")
    if hashlib.sha256(rest).hexdigest().encode("ascii") != digest:
        raise storage.Unusable("is damaged")
    try:
        record = msgspec.json.decode(rest, type=Record)
    except msgspec.DecodeError as error:
        raise storage.Unusable(f"is of another version of hostproxy: {error}") from None
    if record.format != FORMAT:
        raise storage.Unusable("is of another version of hostproxy")
    return record
