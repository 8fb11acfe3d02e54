"""Where the controller keeps what it knows, and which of several controllers leads.

    sqlite       one file, for one controller
    consul       Consul's KV, for several; pieces keeps values in it that are too large for one key
    leadership   who leads, where there is nobody else
    election     who leads, by a session of Consul
    client       requests to Consul, with tls and token

A key is at most 400 bytes: segments of ASCII letters, digits and ``._-``, each with a letter or digit first, and single
slashes between them. A value has a version, which every change raises. Whoever writes says which version is to be
replaced, so that two never undo each other's change: one of them gets :class:`Conflict`, reads again and decides again.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred

VALUE_SIZE = 4 * 1024 * 1024  # bytes of one value
MOST_LISTED = 20_000  # entries
LISTED_SIZE = 64 * 1024 * 1024  # bytes of all their values
TERM = "state/term"

_KEY_SIZE = 400
_SEGMENT = "[A-Za-z0-9][A-Za-z0-9._-]*"
_KEY = re.compile(f"{_SEGMENT}(?:/{_SEGMENT})*")


class Entry(NamedTuple):
    """What is kept under a key."""

    value: bytes
    version: int  # 1 or more, raised by every change; a key that was deleted and made again never has an old one


class Conflict(Exception):
    """Somebody else has changed it in between: read again, and decide again."""


class NotLeading(Exception):
    """Another controller leads, or none does: this one may not write as the leader. Nothing was written."""


class Unavailable(Exception):
    """The store does not answer as it should. Whether a change was made is not known: read again to find out."""


class TooLarge(Exception):
    """A value, or what a prefix would list, is larger than the store takes."""


class Unusable(Exception):
    """The store cannot be opened; the text says which file, why, and what to do."""


class Store(Protocol):
    """Every method fails with :class:`Unavailable` when there is no answer, and raises ValueError for a wrong key."""

    def get(self, key: str) -> Deferred[Entry | None]:
        """What is under ``key`` now: never older than the last change that anybody was told to be made."""

    def put(self, key: str, value: bytes, expect: int | None) -> Deferred[int]:
        """Keep ``value``; fires with its version. :class:`Conflict` unless the key has the version ``expect``.

        0: it must not exist; None: whatever it has. To put what is there already need not raise the version, so what
        only one of two may put has to differ. Also fails with :class:`TooLarge`, and :class:`NotLeading` where the
        store is that of a leader.
        """

    def delete(self, key: str, expect: int | None = None) -> Deferred[None]:
        """Forget it. :class:`Conflict` when it has another version than ``expect``.

        What is not there need not be deleted, which is no conflict. So two may delete the same: who is the one to use
        something up is decided by ``put``.
        """

    def list(self, prefix: str) -> Deferred[dict[str, Entry]]:
        """All below a ``prefix`` that ends with a slash, by key, sorted. Also fails with :class:`TooLarge`."""

    def close(self) -> Deferred[None]:
        """Finish what is under way, or fail it, and give everything back."""


class Leadership(Protocol):
    """Whether this controller is the one that pushes, rolls out, and writes what only one may write."""

    @property
    def leading(self) -> bool:
        """Ask again whenever something is about to be done; it may be over before anybody has said so."""

    @property
    def term(self) -> int:
        """A number that is higher for each leader than for all before it; 0 before this controller ever led."""

    @property
    def leader(self) -> str:
        """The name of the controller that leads, as far as is known; "" when none does."""

    @property
    def store(self) -> Store:
        """The store, with changes made only while this controller leads, and else :class:`NotLeading`."""

    def start(self) -> None:
        """Try to lead from now on."""

    def stop(self) -> Deferred[None]:
        """Lead no more, and let another one at once. Never fails, and is bounded in time."""


def check_key(key: str) -> str:
    """Return the key. Raises ValueError unless it is one."""
    if len(key) > _KEY_SIZE or not _KEY.fullmatch(key):
        raise ValueError(f"not a key of the store: {key[:80]!a}")
    return key


def check_prefix(prefix: str) -> str:
    """Return the prefix. Raises ValueError unless it is a key and a slash."""
    if not prefix.endswith("/"):
        raise ValueError(f"not a prefix, which ends with a slash: {prefix[:80]!a}")
    check_key(prefix[:-1])
    return prefix


def check_value(key: str, value: bytes) -> bytes:
    """Return the value. Raises :class:`TooLarge`."""
    if len(value) > VALUE_SIZE:
        raise TooLarge(f"{key}: has {len(value)} bytes, and a value has at most {VALUE_SIZE >> 20} MiB")
    return value
