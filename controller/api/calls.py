"""One call of the interface: who asks for what, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple, TypeVar

import msgspec

JSON = "application/json"
OCTETS = "application/octet-stream"

T = TypeVar("T")


class Role(IntEnum):
    """Who may use a route. Operators may what those before them may; hosts and strangers are no operators."""

    STRANGER = 0  # anybody: the body has to prove what it asks for
    HOST = 1
    READ = 2
    DEPLOY = 3
    ADMIN = 4


OPERATORS = {"read": Role.READ, "deploy": Role.DEPLOY, "admin": Role.ADMIN}


class No(Exception):
    """A call is not answered with what it asks for; the text is for whoever asked."""

    def __init__(
        self, status: int, text: str, problems: tuple[str, ...] = (), retry_after: float = 0.0, code: str = ""
    ) -> None:
        super().__init__(text)
        self.status = status
        self.problems = problems
        self.retry_after = retry_after  # seconds; 0.0: no use to say
        self.code = code  # a word of a fixed set, for the log


class Caller(NamedTuple):
    """Who asks."""

    role: Role
    actor: str  # for the audit log: a SPIFFE ID, "uid 0", or an address
    name: str = ""  # of the host or operator
    key: str = ""  # fingerprint of the key in a host's certificate
    times: int = 0  # how often that host has enrolled


class Answer(NamedTuple):
    """What is answered."""

    status: int
    body: bytes = b""
    kind: str = JSON


def answer(document: object, status: int = 200) -> Answer:
    """JSON."""
    return Answer(status, msgspec.json.encode(document) + b"\n")


class Call:
    """What is asked, and what of it goes into the audit log."""

    def __init__(
        self,
        caller: Caller,
        address: str,
        parameters: Mapping[str, str],
        query: Mapping[str, str],
        body: bytes,
    ) -> None:
        """``address`` is the IP address that it comes from, "" for a Unix socket; ``parameters`` are of the path."""
        self.caller = caller
        self.address = address
        self.parameters = parameters
        self.query = query
        self.body = body
        self.object = "/".join(parameters.values())  # of the act
        self.before = ""
        self.after = ""
        self.detail = ""

    def decode(self, kind: type[T]) -> T:
        """The body as a message. Raises :class:`No`."""
        try:
            return msgspec.json.decode(self.body or b"{}", type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise No(400, f"the body is not what is wanted: {error}") from None

    def number(self, name: str, most: int, default: int = 0) -> int:
        """A number out of path or query. Raises :class:`No`."""
        text = self.parameters.get(name, self.query.get(name, ""))
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= most):
            raise No(400, f"{name} is a number of at most {most}")
        return int(text)

    def flag(self, name: str) -> bool:
        """Whether the query has ``name=true``. Raises :class:`No`."""
        text = self.query.get(name, "false")
        if text not in ("true", "false"):
            raise No(400, f"{name} is true or false")
        return text == "true"
