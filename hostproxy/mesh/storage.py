"""Files of certificates and keys: read with suspicion, replaced in one step."""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from collections.abc import Mapping


class Unusable(Exception):
    """A file that cannot be used. The message says why, ``hint`` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def read(path: str, limit: int, private: bool = False, what: str = "a private key") -> bytes:
    """The content of a regular file of at most ``limit`` bytes; raises :class:`Unusable`.

    A ``private`` file is refused when anybody but its owner may read or write it, as OpenSSH refuses its
    keys. Who the owner is does not matter. A credential of systemd may be open to its group.
    """
    try:
        # Not blocking: opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            # Asked of the open file, so that what is judged is what is read.
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Unusable("is not a regular file")
            if private and status.st_mode & (0o037 if is_credential(path) else 0o077):
                mode = stat.S_IMODE(status.st_mode)
                hint = f"chmod 600 {shlex.quote(path)}"
                raise Unusable(f"is {what} open to others (mode {mode:04o})", hint)
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(limit + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise Unusable("does not exist") from None
    except PermissionError:
        raise Unusable(f"cannot be read by user {_user()}", _permission_hint(path)) from None
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from None
    if len(content) > limit:
        raise Unusable(f"is larger than {limit // 1024} KiB, the most that is read")
    return content


def write(path: str, content: bytes, mode: int) -> None:
    """Replace a file in one step: whoever opens ``path`` finds all of the old content or of the new.

    The file gets exactly ``mode``. Raises OSError, and leaves nothing behind then.
    """
    directory, name = os.path.split(path)
    directory = directory or "."
    temporary = os.path.join(directory, f".{name}.{os.urandom(8).hex()}")
    # Created closed to all others, whatever the umask, and opened up only when it is complete.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    # The rename itself has to outlive a power cut.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_credential(path: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether it is one of systemd.exec(5), which sees to it who may read it: root's, with an ACL for the service.

    The mask of an ACL looks like the rights of a group.
    """
    directory = environment.get("CREDENTIALS_DIRECTORY", "")
    return bool(directory) and os.path.realpath(path).startswith(os.path.realpath(directory) + "/")


def _user() -> str:
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"number {number}"


def _permission_hint(path: str) -> str:
    return f"chown {_user()} {shlex.quote(path)}, and let that user into its directory"
