"""What two supervisors say to each other while one takes the place of the other.

They may be of different releases, so unlike the messages to workers these have names in them: fields may be added,
with defaults, and a change that cannot be told so needs another PROTOCOL.

::

    predecessor                              successor
                                  Hello ->             it has come as far as its main loop
    <- Passed, with a socket; ...; Begin                its trial: all from disk, its own workers, private sockets
                                Healthy ->             or Failed, and the end of it
    <- Take, with the lock                              everything is its own now, but the service manager's ear
                                  Taken ->
    <- Main                                             leaves; its workers drain, and are found behind their doors
"""

from __future__ import annotations

import msgspec

from hostproxy.control.messages import Message

PROTOCOL = 1


class Note(Message, frozen=True, array_like=False, kw_only=True):
    """Base of these messages."""


# Successor to predecessor


class Hello(Note, frozen=True):
    """It runs."""

    protocol: int = PROTOCOL
    software: str = ""
    pid: int = 0  # of who speaks; 0: it is the process that was started


class Failed(Note, frozen=True):
    """It cannot take over."""

    problems: tuple[str, ...]


class Healthy(Note, frozen=True):
    """Its workers serve, and answer."""


class Taken(Note, frozen=True):
    """New connections are accepted by its workers."""


# Predecessor to successor


class Passed(Note, frozen=True):
    """A listening socket, which travels beside."""

    address: str


class Begin(Note, frozen=True):
    """That was the last socket."""

    runtime_directory: str
    state_directory: str
    ready: bool  # whether the predecessor is


class Outcomes(msgspec.Struct, frozen=True):
    """How often something went well and not, and when it did last (Unix seconds)."""

    succeeded: int = 0
    failed: int = 0
    last_success: float = 0.0


class Take(Note, frozen=True):
    """The lock of the runtime directory travels beside. From here on the predecessor writes and tells nothing."""

    counters: bytes = b""  # hostproxy.telemetry.export.Export of processes that have ended
    workers: dict[int, bytes] = msgspec.field(default_factory=dict)  # the same of those that live, by process id
    drain: float = 0.0  # seconds that they may take to finish
    reloads: Outcomes = Outcomes()
    upgrades: Outcomes = Outcomes()


class Main(Note, frozen=True):
    """The successor is the service's main process now."""

    reload: bool = False  # it was asked for meanwhile


ToSuccessor = Passed | Begin | Take | Main
ToPredecessor = Hello | Failed | Healthy | Taken

WITH_DESCRIPTOR: frozenset[type[Message]] = frozenset({Passed, Take})
