"""One connected socket on the reactor, with bounded buffering in both directions.

A stream reads only when its owner has room and writes at once; what the kernel does not take is kept as
``backlog``, and the owner stops its source until :meth:`Owner.drained`. So a stream never holds more than one read
of its peer, whatever the other side does.

Errors of writing are not raised: the stream turns deaf and the loop reports the reset through ``lost``, after
everything that the peer had sent before has been read. Owners therefore have one place where a connection ends.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Protocol

from hostproxy.net.reactor import READ, WRITE

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

    from hostproxy.net.reactor import MeshReactor

# Bytes of one read: the largest backlog that one read can cause, and the batch in which bodies are moved.
READ_SIZE = 64 * 1024

# What a refused peer may still send while it is told why, before the connection is cut (bytes).
LINGER_BYTES = 256 * 1024

# How long a connection that we have given up may take to go: the last bytes to a slow reader (seconds).
LEAVE_TIME = 30.0
LINGER_TIME = 2.0  # the same for a peer that was refused; nginx lingering_timeout 5s

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close sends RST


class Owner(Protocol):
    """Who a stream belongs to."""

    def received(self, data: bytes) -> None:
        """Bytes came in; never empty."""

    def ended(self) -> None:
        """The peer will send no more; writing is still possible."""

    def drained(self) -> None:
        """The backlog has been written out."""

    def lost(self, reason: str) -> None:
        """The connection has gone; ``reason`` is one of the words of ``REASONS``. Nothing is called after this."""


# "reset": by the peer; "timeout": the kernel gave up; "closed": by us; "unreachable", "error": what the kernel said
REASONS = ("reset", "timeout", "closed", "unreachable", "error", "tls")


def reason_of(error: OSError) -> str:
    """The word for an error of the kernel."""
    if isinstance(error, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)):
        return "reset"
    if isinstance(error, TimeoutError):
        return "timeout"
    return "error"


class Stream:
    """A connected plain socket."""

    __slots__ = (
        "_broken",
        "_events",
        "_finish",
        "_leaving",
        "_pending",
        "_receive",
        "_send",
        "_swallowed",
        "_watched",
        "at_end",
        "backlog",
        "fd",
        "owner",
        "posted",
        "reactor",
        "sock",
    )

    secure = False
    peer: frozenset[str] = frozenset()  # SPIFFE IDs that the other end has proved
    failure = ""  # what ended the TLS session, in a stream that has one

    def __init__(self, reactor: MeshReactor, sock: socket.socket, owner: Owner) -> None:
        self.reactor = reactor
        self.sock = sock
        self.owner = owner
        self.fd = sock.fileno()
        self.backlog = 0  # bytes accepted by write() that the kernel has not taken yet
        self.at_end = False  # the peer will send no more
        self.posted = b""  # to be sent when the current batch of events has been handled
        self._pending: list[bytes] = []
        self._receive = sock.recv
        self._send = sock.send
        self._events = READ
        self._finish = False  # half-close once the backlog is out
        self._leaving: DelayedCall | None = None  # close() was called: flush, then go, at the latest when this fires
        self._broken = False  # writing failed: the loop will report it
        self._swallowed = -1  # >= 0: bytes read and thrown away while leaving
        self._watched = True
        reactor.watch(self, READ)

    # The loop's side

    def ready(self, events: int) -> None:
        """Called by the reactor."""
        if events == READ:
            self._read()
            return
        if events & WRITE:
            self._flush()
        if events & READ:
            if self.fd >= 0:
                self._read()
        elif events & ~WRITE and self.fd >= 0:  # error or hang-up while we are not reading
            self._hung_up()

    def _read(self) -> None:
        if not self._events & READ:
            return  # paused since the event was picked up
        try:
            data = self._receive(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._gone(reason_of(error))
            return
        if self._swallowed >= 0:
            self._swallow(len(data))
        elif data:
            self.owner.received(data)
        elif self._broken:
            self._gone("reset")  # whoever learns of a reset by writing leaves none to learn of by reading
        else:
            self.at_end = True
            self._set(self._events & ~READ)
            self.owner.ended()

    def _hung_up(self) -> None:
        """The peer reset the connection, or both directions are shut, while reading was paused.

        What the peer had sent before is still readable and belongs to the owner, so a stream that is paused
        because its owner is busy keeps it: only the hang-up is no news any more. A reset throws it away.
        """
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._gone(reason_of(OSError(error, "")))
        elif self._broken or self._leaving:
            self._gone("reset" if self._broken else "closed")
        else:
            # Both directions are closed by FIN: nothing is wrong, and epoll would report it for ever.
            self.reactor.unwatch(self)
            self._watched = False
            self._events = 0

    def fault(self, error: BaseException) -> None:
        """Called by the reactor when handling an event raised."""
        self._reset_on_close()
        self._gone("error")

    # The owner's side

    def write(self, data: bytes) -> None:
        """Send ``data``, now as far as the kernel takes it. Look at ``backlog`` afterwards."""
        if self.posted:
            data = self.posted + data
            self.posted = b""
        self._transmit(data)

    def _transmit(self, data: bytes) -> None:
        """Give bytes to the kernel as they are."""
        if self.backlog:
            self._pending.append(data)
            self.backlog += len(data)
            return
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The loop will report it: reading first, so that the peer's last words are heard.
            self._broken = True
            if not self._watched:
                self._set(READ)
            return
        if sent != len(data):
            self._keep(data[sent:])

    def post(self, data: bytes) -> None:
        """Send ``data``, a small message and the last for now, together with those of other streams.

        It is not in ``backlog`` until it has been tried.
        """
        if not self.posted:
            self.reactor.post(self)
        self.posted += data

    def send_posted(self) -> None:
        """Called by the reactor, and by whatever must not overtake a posted message."""
        data = self.posted
        if data:
            self.posted = b""
            self._transmit(data)

    def _keep(self, rest: bytes) -> None:
        if self._broken or self.fd < 0:
            return
        self._pending.append(rest)
        self.backlog += len(rest)
        if not self._events & WRITE:
            self._set(self._events | WRITE)

    def _flush(self) -> None:
        pending = self._pending
        if pending:
            data = pending[0] if len(pending) == 1 else b"".join(pending)
            try:
                sent = self._send(data)
            except BlockingIOError:
                return
            except OSError:
                self._broken = True
                sent = len(data)
            pending.clear()
            if sent != len(data):
                pending.append(data[sent:])
                self.backlog = len(data) - sent
                return
        self.backlog = 0
        self._set(self._events & ~WRITE)
        if self._finish:
            self._shut()
        if self._leaving:
            if self._swallowed < 0:
                self._gone("closed")
        else:
            self.owner.drained()

    def pause(self) -> None:
        """Stop reading: the owner has no room."""
        if self._events & READ:
            self._set(self._events & ~READ)

    def resume(self) -> None:
        """Read again."""
        if not self._events & READ and not self.at_end:
            self._set(self._events | READ)

    def finish(self) -> None:
        """No more will be written: half-close after the backlog."""
        self.send_posted()
        self._finish = True
        if not self.backlog:
            self._shut()

    def _shut(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._broken = True

    def close(self) -> None:
        """Write out the backlog, then close. The owner hears nothing more."""
        if self.fd < 0:
            return
        self.send_posted()
        self.owner = NOBODY
        if self.backlog and not self._broken:
            self._leave(LEAVE_TIME)
            self._set(self._events & ~READ)
        else:
            self._gone("closed")

    def linger(self) -> None:
        """Close after telling the peer why: half-close, then read and forget what it still sends, up to a bound.

        Closing at once would answer the peer's further bytes with a reset, which can destroy the reply on its way.
        """
        if self.fd < 0:
            return
        if self.at_end:
            self.close()  # nothing more can come
            return
        self.owner = NOBODY
        self._leave(LEAVE_TIME if self.backlog else LINGER_TIME)
        self._swallowed = 0
        self.finish()
        self.resume()

    def _leave(self, seconds: float) -> None:
        self._leaving = self.reactor.callLater(seconds, self._time_up)

    def _time_up(self) -> None:
        self._leaving = None
        if self.backlog:
            self.abort()  # something is missing, and the peer must see it
        else:
            self._gone("closed")

    def _swallow(self, count: int) -> None:
        self._swallowed += count
        if not count or self._swallowed > LINGER_BYTES:
            self._gone("closed")

    def abort(self) -> None:
        """Close at once with a reset, so that the peer sees that something is missing. The owner hears nothing."""
        if self.fd < 0:
            return
        self.owner = NOBODY
        self._reset_on_close()
        self._gone("closed")

    # Inside

    def _reset_on_close(self) -> None:
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # it has gone already

    def _set(self, events: int) -> None:
        if events == self._events or self.fd < 0:
            return
        if self._watched:
            self.reactor.rewatch(self, events)
        else:
            self.reactor.watch(self, events)
            self._watched = True
        self._events = events

    def _gone(self, reason: str) -> None:
        if self.fd < 0:
            return
        owner = self.owner
        self.release()
        self.sock.close()
        owner.lost(reason)

    def release(self) -> socket.socket:
        """Take the socket away from the stream, which is dead afterwards."""
        self.reactor.unwatch(self)
        self.fd = -1
        self.owner = NOBODY
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        self._pending.clear()
        self.posted = b""
        self.backlog = 0
        return self.sock

    def __repr__(self) -> str:
        return f"<{type(self).__name__} fd={self.fd} backlog={self.backlog} of {type(self.owner).__name__}>"


class _Nobody:
    """The owner of streams that have none yet, or any more."""

    __slots__ = ()

    def received(self, data: bytes) -> None:
        pass

    def ended(self) -> None:
        pass

    def drained(self) -> None:
        pass

    def lost(self, reason: str) -> None:
        pass


NOBODY = _Nobody()
