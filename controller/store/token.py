"""The ACL token for Consul: out of a file that is read again for each request, so that it can be replaced."""

from __future__ import annotations

from twisted.logger import Logger

from controller.store import Unusable
from hostproxy.mesh import storage

SIZE = 4096  # bytes


class TokenFile:
    """Call it for the token of now; "" where there is no file."""

    log = Logger()

    def __init__(self, path: str) -> None:
        """Raises :class:`Unusable`: whether it can be read is better known now than later."""
        self._path = path
        self._problem = ""
        self._token = self._read()

    def __call__(self) -> str:
        """The token. When the file can't be read it is the one from before, and the log says so once."""
        try:
            self._token, problem = self._read(), ""
        except Unusable as error:
            problem = str(error)
        if problem and problem != self._problem:
            self.log.error("{problem}: the token from before is used", problem=problem)
        self._problem = problem
        return self._token

    def _read(self) -> str:
        if not self._path:
            return ""
        try:
            token = storage.read(self._path, SIZE, private=True, what="a token").decode("ascii").strip()
        except (storage.Unusable, UnicodeDecodeError) as error:
            raise Unusable(f"{self._path}: {error}") from None
        if not token.isprintable() or " " in token:
            raise Unusable(f"{self._path}: holds no token, which is one word")
        return token
