"""The ACL token: out of a file or a systemd credential, read again when that changes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

from twisted.logger import Logger

from hostproxy.config_discovery import ConsulConfig
from hostproxy.discovery.consul import files
from hostproxy.discovery.consul.errors import AgentError

SIZE = 4096  # bytes; Consul's tokens are UUIDs of 36
INTERVAL = 1.0  # seconds between looks at the file
_VISIBLE = re.compile(rb"[!-~]+")


class Token:
    """Call it for the token to send now: "" when none is configured.

    The file is looked at when a token is asked for, once a second at most. While it is unreadable or empty, the
    last good token stays in use and ``problem`` says so. Before there ever was a good one, asking fails: without a
    token Consul would answer as it answers anybody, with a catalog that seems empty.

    A file that every user of the host may read is used, and named in ``problem``. One that a group may read isn't:
    root:hostproxy 0640 is how packages and Ansible keep such files.
    """

    log = Logger()

    def __init__(self, config: ConsulConfig, environment: Mapping[str, str], seconds: Callable[[], float]) -> None:
        """``environment`` is the process's, for $CREDENTIALS_DIRECTORY; ``seconds`` a monotonic clock."""
        self.problem = ""  # what is wrong with the file now; never holds its content
        self.path = config.token_file
        self._seconds = seconds
        self._token = ""
        self._state: object = None  # of the file as it was read
        self._looked = float("-inf")
        self._credential = config.token_credential
        if self._credential:
            directory = environment.get("CREDENTIALS_DIRECTORY", "")
            self.path = os.path.join(directory, self._credential) if directory else ""

    def __repr__(self) -> str:
        return f"<Token of {self.path or 'nobody'}>"

    def __call__(self) -> str:
        """The token. Raises :class:`AgentError` ("token") while there has never been one."""
        if self.path:
            now = self._seconds()
            if now - self._looked >= INTERVAL:
                self._looked = now
                self._look()
        elif self._credential:
            self._report(
                f'no systemd credential "{self._credential}": $CREDENTIALS_DIRECTORY is not set; add'
                f" LoadCredential={self._credential}:PATH to the unit, or configure token_file instead"
            )
        else:
            return ""
        if not self._token:
            raise AgentError("token", f"no token for Consul: {self.problem}")
        return self._token

    def _look(self) -> None:
        # Before reading: what changes in between is noticed at the next look.
        state = files.state((self.path,))
        if state == self._state:
            return
        self._state = state
        try:
            content = files.read(self.path, SIZE)
            token = content.data.strip()
            if not token:
                raise files.Unreadable(f"{self.path} is empty")
            if not _VISIBLE.fullmatch(token):
                raise files.Unreadable(f"{self.path} holds more than one word, or characters that no token has")
        except files.Unreadable as error:
            self._report(f"{error}; the token read before stays in use" if self._token else str(error))
            return
        self._token = token.decode("ascii")
        self._report(f"every user of this host may read {self.path}: chmod o= {self.path}" if content.exposed else "")

    def _report(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            if problem:
                self.log.warn("The token for Consul: {problem}", problem=problem)
            else:
                self.log.info("The token for Consul is good again: {path}", path=self.path)
