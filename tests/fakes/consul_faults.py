"""What the stub of Consul can do wrong."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import msgspec


class Fault(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What is wrong with the answers to some requests.

    Those with an answer of their own (``status``, ``body``, ``index``, ``hang``, ``drop``, ``truncate``, ``huge``)
    come at once; the others only change answers, and blocking queries go on to block.
    """

    path: str = "*"  # of the requests; * stands for anything
    method: str = ""
    params: dict[str, str] = {}  # that they have, with these values
    times: int = -1  # so many answers, then it is over; -1: until it is taken back
    wake: bool = True  # also for blocking queries that wait when it begins
    delay: float = 0.0  # seconds before the answer

    status: int = 0
    body: bytes | None = None
    index: list[str] = []  # X-Consul-Index of one answer after the other, then it is over; "" leaves it out
    hang: bool = False  # no answer, and the connection stays
    drop: bool = False  # no answer, and the connection is reset
    truncate: int = -1  # the connection ends after so many bytes of the body
    huge: int = 0  # a body of so many bytes, as fast as it is taken

    headers: dict[str, str | None] = {}  # None leaves one out
    known_leader: bool | None = None
    last_contact: float | None = None  # seconds
    filtered: bool = False  # by ACLs, as Consul says it from 1.11 on

    def __post_init__(self) -> None:
        if self.index:
            self.times = len(self.index)

    @property
    def at_once(self) -> bool:
        """Whether there is an answer without waiting for news."""
        own = self.status or self.body is not None or self.index or self.hang or self.drop or self.huge
        return bool(own) or self.truncate >= 0

    def concerns(self, method: str, path: str, params: Mapping[str, str]) -> bool:
        """Whether a request is among those."""
        return (
            self.times != 0
            and self.method in ("", method)
            and fnmatchcase(path, self.path)
            and all(params.get(name) == value for name, value in self.params.items())
        )

    def count(self) -> None:
        """It has been used once."""
        if self.times > 0:
            self.times -= 1

    def apply(self, headers: dict[str, str]) -> None:
        """Change the headers of an answer."""
        if self.index:
            headers["X-Consul-Index"] = self.index.pop(0)
            if not headers["X-Consul-Index"]:
                del headers["X-Consul-Index"]
        if self.known_leader is not None:
            headers["X-Consul-Knownleader"] = "true" if self.known_leader else "false"
        if self.last_contact is not None:
            headers["X-Consul-Lastcontact"] = str(round(self.last_contact * 1000))
        if self.filtered:
            headers["X-Consul-Results-Filtered-By-Acls"] = "true"
        for name, value in self.headers.items():
            headers.pop(name, None)
            if value is not None:
                headers[name] = value
