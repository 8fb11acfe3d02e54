"""The runtime directory: one supervisor at a time, and the doors of its workers."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from importlib.metadata import version as version_of

import hostproxy

LOCK_NAME = "hostproxy.lock"


class Unusable(Exception):
    """The runtime directory cannot be used; the text says why and what to do."""


class RuntimeDirectory:
    """Owned by this process until it exits, however it exits: the kernel drops the lock."""

    def __init__(self, path: str) -> None:
        """Create ``path`` (0700) if it is missing and lock it. Raises Unusable."""
        self.path = path
        self._admin = ""
        _prepare(path)
        lock = os.path.join(path, LOCK_NAME)
        try:
            # Python opens close-on-exec: a worker that kept the lock would outlive us with it.
            self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise Unusable(f"{lock}: {error.strerror}: [host] runtime_directory must be writable") from None
        holder = os.read(self._lock, 32).decode("ascii", "replace").partition("\n")[0].strip()
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise Unusable(
                f"{lock}: another hostproxy (pid {holder or 'unknown'}) runs with this [host] runtime_directory: "
                "stop it, send it SIGHUP to take a new configuration, or give this one a directory of its own"
            ) from None
        # A supervisor that left in order has emptied the file.
        self.left_behind = bool(holder)
        self.sign()

    @classmethod
    def received(cls, path: str, lock: int) -> RuntimeDirectory:
        """Own it by the descriptor of the lock, which the owner until now has given: nobody comes in between."""
        directory = cls.__new__(cls)
        directory.path = path
        directory._admin = ""
        directory.left_behind = False
        directory._lock = lock
        directory.sign()
        return directory

    @property
    def lock(self) -> int:
        """The descriptor of the lock, to be given to a successor."""
        return self._lock

    def give_up(self) -> None:
        """Let go of the lock and leave the file as it is: it is the successor's."""
        os.close(self._lock)

    def release(self, in_order: bool = True) -> None:
        """Let others have it. ``in_order``: no worker was left behind."""
        if in_order:
            self._write(b"")
        os.close(self._lock)

    def sign(self) -> None:
        """Say who has it, what code that runs, and where it answers: see :mod:`hostproxy.cli.running`."""
        lines = (str(os.getpid()), version_of("hostproxy"), code_path(), self._admin)
        self._write("".join(f"{line}\n" for line in lines).encode())

    def answers_at(self, admin: str) -> None:
        """The admin address is open, or has moved: conf.toml may name another by now."""
        self._admin = admin
        self.sign()

    def _write(self, content: bytes) -> None:
        # In this order, so that who reads it meanwhile finds all lines, and at worst the rest of an old one after them.
        os.pwrite(self._lock, content, 0)
        os.ftruncate(self._lock, len(content))


def code_path() -> str:
    """Where the code of this process lies, whatever links lead there."""
    return os.path.dirname(os.path.realpath(hostproxy.__file__))


def _prepare(path: str) -> None:
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        status = os.stat(path)
    except OSError as error:
        reason = "it is not a directory" if error.errno == errno.EEXIST else error.strerror
        raise Unusable(
            f"{path}: cannot be made: {reason}: create it for this user, or change [host] runtime_directory"
        ) from None
    if status.st_mode & stat.S_IWOTH:
        raise Unusable(
            f"{path}: everybody may write to it, so anybody could pose as a worker: chmod o-w, or change "
            "[host] runtime_directory"
        )
