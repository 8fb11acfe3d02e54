"""What supervisor and worker say to each other. Both sides run the same release, so there are no versions here.

But for workers that were adopted, whose release may be an older one: HandOver, Drain, Ping, Listen, HandedOver,
Drained, Pong and Telemetry keep their form. What such a worker does not understand ends its channel, not its draining.
"""

from __future__ import annotations

import msgspec

from hostproxy.snapshot import Delta, Listener, Snapshot
from hostproxy.telemetry.tap import Filter


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all messages; the tag is the name of the class."""


# Supervisor to worker


class Apply(Message, frozen=True):
    """Decide by this snapshot from now on. Answered by Applied."""

    snapshot: Snapshot


class Change(Message, frozen=True):
    """Change the snapshot in force. Answered by Applied."""

    delta: Delta


class Listen(Message, frozen=True):
    """Accept from the socket that travels beside. A worker that hands its sockets over says it upwards."""

    listener: Listener


class Close(Message, frozen=True):
    """Accept no more from this listener."""

    listener_id: str


class Drain(Message, frozen=True):
    """Accept nothing, finish what is under way within ``seconds``, say Drained and leave."""

    seconds: float


class ReopenLogs(Message, frozen=True):
    """The access log was rotated: open its path again."""


class SetLogLevel(Message, frozen=True):
    """Log at this level and above: debug, info, warn, error."""

    level: str


class Watch(Message, frozen=True):
    """Tell of live requests that fit, for at most ``seconds``, as watcher ``number``. Answered by Seen, without any."""

    number: int
    filter: Filter
    seconds: float


class Unwatch(Message, frozen=True):
    """The watcher has gone."""

    number: int


class Absent(Message, frozen=True):
    """Answer to Wanted: nobody knows such a service; with a ``problem``, why it can't be known now.

    A service that is known comes with the next Change instead.
    """

    service: str
    problem: str = ""


class Ping(Message, frozen=True):
    """Answer with Pong."""

    number: int


class HandOver(Message, frozen=True):
    """From a new supervisor, through the door: send me every listening socket, then HandedOver."""


# Worker to supervisor


class Ready(Message, frozen=True):
    """The first snapshot is in force and every listener of it accepts."""

    version: int


class Applied(Message, frozen=True):
    """The snapshot in force has this version; with a ``problem`` it is the one from before."""

    version: int
    problem: str = ""


class Telemetry(Message, frozen=True):
    """All counters since the worker started, and Traffic.describe()."""

    export: bytes  # of WorkerMetrics
    description: dict[str, object]


class Pong(Message, frozen=True):
    """Answer to Ping; ``lag`` is how late (seconds) the worker's last timer ran."""

    number: int
    lag: float


class Draining(Message, frozen=True):
    """The worker was asked to leave by a signal and accepts no more."""


class Wanted(Message, frozen=True):
    """Requests wait, for a bounded time, for a service that the snapshot in force has not.

    Answered by Change or Absent.
    """

    service: str


class Used(Message, frozen=True):
    """Services that were called since the last message of this kind; once a minute where Snapshot.first_use is set."""

    services: tuple[str, ...]


class Seen(Message, frozen=True):
    """Requests that a watcher wants, as JSON lines, and how many there was no room for since the last message."""

    number: int
    lines: bytes
    dropped: int


class Drained(Message, frozen=True):
    """No connection is left, or the time was up. The worker exits now."""


class HandedOver(Message, frozen=True):
    """Every listening socket has been sent."""


Down = Apply | Change | Listen | Close | Drain | ReopenLogs | SetLogLevel | Ping | HandOver | Absent | Watch | Unwatch
Up = Ready | Applied | Telemetry | Pong | Wanted | Used | Draining | Drained | HandedOver | Listen | Seen

# Messages that a descriptor travels beside.
WITH_DESCRIPTOR: frozenset[type[Message]] = frozenset({Listen})

# Messages of which only the newest matters: one that still waits to be sent is replaced by the next of its kind.
LATEST_WINS: frozenset[type[Message]] = frozenset({Telemetry, Pong, Ping, Applied, ReopenLogs, SetLogLevel, Drain})
