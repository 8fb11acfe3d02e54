"""Messages over a Unix stream socket: 4 bytes of length, msgpack, and descriptors beside (SCM_RIGHTS).

A descriptor is attached to the first byte of its message. The kernel never returns bytes from behind a message
with descriptors in the same read, and it keeps their order, so the n-th message that takes a descriptor takes
the n-th descriptor that came in.

Neither side may block or grow without bound because the other does not read: sending never waits, what only
matters in its newest form is replaced while it waits (``LATEST_WINS``), and a peer that lets more than
``QUEUE_BYTES`` pile up is given up as lost.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec
from twisted.logger import Logger

from hostproxy.control.messages import LATEST_WINS, WITH_DESCRIPTOR, Message
from hostproxy.net.reactor import READ, WRITE

if TYPE_CHECKING:
    from hostproxy.net.reactor import MeshReactor

# 1,000 services with 10 instances each are about 1 MiB; 64 MiB is a mesh fifty times larger.
FRAME_BYTES = 64 * 1024 * 1024
# One snapshot on its way and one behind it.
QUEUE_BYTES = 2 * FRAME_BYTES
# Above the number of listeners that one reload may add and remove.
QUEUE_FRAMES = 16_384
# Bytes per read or write; four of them per turn of the loop, so that a large snapshot does not hold up traffic.
CHUNK = 256 * 1024
CHUNKS_PER_TURN = 4

_LENGTH = struct.Struct(">I")
_DESCRIPTOR_SIZE = array.array("i").itemsize
_ENCODER = msgspec.msgpack.Encoder()

Incoming = TypeVar("Incoming", contravariant=True)


class Owner(Protocol[Incoming]):
    """Who a channel belongs to."""

    def message_received(self, message: Incoming, descriptor: int | None) -> None:
        """A message came in. ``descriptor`` now belongs to the owner. What this raises is logged."""

    def channel_lost(self, reason: str) -> None:
        """The other side has gone or broke the rules; not called after ``close``."""


class _Frame:
    """A message on its way out."""

    __slots__ = ("data", "descriptor", "kind")

    def __init__(self, kind: type[Message], data: bytes, descriptor: int | None) -> None:
        self.kind = kind
        self.data = memoryview(data)
        self.descriptor = descriptor


def encode(message: Message) -> bytes:
    """The frame of ``message``; to be made once when it goes to several workers."""
    data = _ENCODER.encode(message)
    if len(data) > FRAME_BYTES:
        raise ValueError(f"{type(message).__name__} of {len(data)} bytes is over the {FRAME_BYTES} of a frame")
    return _LENGTH.pack(len(data)) + data


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new channel, not inherited by other programs."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


class Channel(Generic[Incoming]):
    """One end of a channel. ``incoming`` is the union of the messages that this end takes."""

    log = Logger()

    def __init__(
        self,
        reactor: MeshReactor,
        sock: socket.socket,
        incoming: Any,
        owner: Owner[Incoming],
        with_descriptor: frozenset[type[Message]] = WITH_DESCRIPTOR,
    ) -> None:
        """``with_descriptor``: the messages that a descriptor travels beside."""
        sock.setblocking(False)
        self._reactor = reactor
        self._socket = sock
        self._owner = owner
        self._with_descriptor = with_descriptor
        self._decoder = msgspec.msgpack.Decoder(incoming)
        self._input = bytearray()
        self._needed = _LENGTH.size  # bytes of input before there is something to do
        self._descriptors: deque[int] = deque()
        self._output: deque[_Frame] = deque()
        self._output_bytes = 0
        self._begun = False  # part of the first frame has been sent
        self._writing = False
        self.open = True
        self.fd = sock.fileno()
        reactor.watch(self, READ)

    @property
    def queued(self) -> int:
        """Bytes that the other side has not taken yet."""
        return self._output_bytes

    def send(self, message: Message, descriptor: int | None = None) -> None:
        """Send ``message``. ``descriptor`` stays the caller's and may be closed at once."""
        self.send_frame(type(message), encode(message), descriptor)

    def send_frame(self, kind: type[Message], frame: bytes, descriptor: int | None = None) -> None:
        """Send a message that :func:`encode` made a frame of. On a channel that was lost: nothing happens."""
        if not self.open:
            return
        if kind in LATEST_WINS:
            for index, waiting in enumerate(self._output):
                if waiting.kind is kind and not (index == 0 and self._begun):
                    self._output_bytes += len(frame) - len(waiting.data)
                    waiting.data = memoryview(frame)
                    return
        if self._output_bytes + len(frame) > QUEUE_BYTES or len(self._output) >= QUEUE_FRAMES:
            self._lose(f"the other side does not read: {self._output_bytes} bytes are waiting")
            return
        self._output.append(_Frame(kind, frame, None if descriptor is None else os.dup(descriptor)))
        self._output_bytes += len(frame)
        if not self._writing:
            self._write()

    def close(self) -> None:
        """Close without a word; what is queued is lost. The owner hears nothing."""
        if self.open:
            self._release()

    # The reactor's side

    def ready(self, events: int) -> None:
        """See :class:`hostproxy.net.reactor.Watched`."""
        if events & WRITE:
            self._write()
        if events & ~WRITE and self.open:  # a hang-up is found by reading
            self._read()

    def fault(self, error: BaseException) -> None:
        """See :class:`hostproxy.net.reactor.Watched`."""
        if self.open:
            self._lose(f"internal error: {error}")

    # Inside

    def _write(self) -> None:
        """Send what the kernel takes."""
        for _ in range(CHUNKS_PER_TURN):
            if not self._output:
                break
            frame = self._output[0]
            try:
                if frame.descriptor is None:
                    sent = self._socket.send(frame.data[:CHUNK])
                else:
                    rights = array.array("i", [frame.descriptor])
                    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                    sent = self._socket.sendmsg([frame.data[:CHUNK]], ancillary)
                    os.close(frame.descriptor)
                    frame.descriptor = None
            except BlockingIOError:
                break
            except OSError as error:
                # What the other side said before it went is still to be read: reading will find the end.
                self._forget_output()
                self.log.debug("sending to the other side: {error}", error=error)
                break
            self._output_bytes -= sent
            if sent == len(frame.data):
                self._output.popleft()
                self._begun = False
            else:
                frame.data = frame.data[sent:]
                self._begun = True
        wanted = bool(self._output)
        if wanted != self._writing:
            self._writing = wanted
            self._reactor.rewatch(self, READ | WRITE if wanted else READ)

    def _read(self) -> None:
        """Take what has arrived and hand on every whole message."""
        for _ in range(CHUNKS_PER_TURN):
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    CHUNK, socket.CMSG_SPACE(16 * _DESCRIPTOR_SIZE), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(str(error))
                return
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    whole = len(content) - len(content) % _DESCRIPTOR_SIZE
                    self._descriptors.extend(array.array("i", content[:whole]))
            if flags & socket.MSG_CTRUNC:
                self._lose("a descriptor was lost: the limit of open files (RLIMIT_NOFILE) is reached")
                return
            if not data:
                self._lose("closed by the other side" if not self._input else "closed within a message")
                return
            self._input += data
            if len(self._input) >= self._needed:
                self._take()
            if not self.open or len(data) < CHUNK:
                return

    def _take(self) -> None:
        """Hand on the whole messages at the beginning of the input."""
        start = 0
        content = self._input
        while self.open:
            available = len(content) - start
            if available < _LENGTH.size:
                self._needed = _LENGTH.size
                break
            (length,) = _LENGTH.unpack_from(content, start)
            if length > FRAME_BYTES:
                self._lose(f"a message of {length} bytes is over the {FRAME_BYTES} allowed")
                return
            if available < _LENGTH.size + length:
                self._needed = _LENGTH.size + length
                break
            start += _LENGTH.size
            try:
                with memoryview(content)[start : start + length] as view:
                    message = self._decoder.decode(view)
            except (msgspec.DecodeError, RecursionError) as error:
                self._lose(f"not understood: {error}")
                return
            start += length
            descriptor = None
            if type(message) in self._with_descriptor:
                if not self._descriptors:
                    self._lose(f"{type(message).__name__} came without its descriptor")
                    return
                descriptor = self._descriptors.popleft()
            try:
                self._owner.message_received(message, descriptor)
            except Exception:
                self.log.failure("handling {kind} from the other side", kind=type(message).__name__)
        del content[:start]

    def _lose(self, reason: str) -> None:
        self._release()
        self._owner.channel_lost(reason)

    def _forget_output(self) -> None:
        for frame in self._output:
            if frame.descriptor is not None:
                os.close(frame.descriptor)
        self._output.clear()
        self._output_bytes = 0
        self._begun = False

    def _release(self) -> None:
        self.open = False
        self._reactor.unwatch(self)
        self._forget_output()
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self._socket.close()
