"""/tap: live requests as they end, one JSON object a line, for as long as the client listens.

A client that does not read costs at most QUEUE_BYTES: what finds no room there is counted, the count is the next line
that gets out, and after STUCK seconds the connection is cut. No worker ever waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from hostproxy.admin.encode import encode
from hostproxy.admin.http import JSON, Answer, Question, Sink
from hostproxy.control.taps import LONGEST, Tap, Taps, TooMany
from hostproxy.mesh.units import Wrong, format_duration, parse_duration
from hostproxy.telemetry.tap import Filter, statuses

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

    from hostproxy.net.reactor import MeshReactor

JSON_LINES = "application/x-ndjson"
QUEUE_BYTES = 1024 * 1024  # of records that wait for a client: some 2,000 requests
STUCK = 60.0  # seconds without reading a byte of what waits
VALUE = 256  # characters of a parameter

_encode = msgspec.json.encode


class TapPage:
    """Lets clients watch."""

    summary = (
        "live requests as they end, as lines of JSON: ?service=NAME&caller=NAME&direction=inbound|outbound"
        "&method=METHOD&path=PREFIX&status=5xx&peer=ADDRESS&slower=TIME&denied&tcp&headers&duration=TIME"
    )
    methods = (b"GET",)

    def __init__(self, reactor: MeshReactor, taps: Taps) -> None:
        self._reactor = reactor
        self._taps = taps

    def respond(self, question: Question) -> Answer:
        """See :class:`hostproxy.admin.pages.Live`."""
        objection = question.objection()
        if objection:
            return _refusal(403, objection)
        try:
            wanted, seconds = parse(question.query)
        except ValueError as problem:
            return _refusal(400, str(problem))
        client = TapStream(self._reactor, self._taps, seconds)
        try:
            client.open(wanted)
        except TooMany as problem:
            return _refusal(503, f"{problem}: wait until one of them has gone")
        return Answer(200, JSON_LINES, b"", client)


def _refusal(status: int, reason: str) -> Answer:
    return Answer(status, JSON, encode({"error": reason}))


def parse(query: bytes) -> tuple[Filter, float]:
    """What is to be watched, and for how many seconds. Raises ValueError."""
    fields: dict[str, Any] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=32):
        read = _PARAMETERS.get(name)
        if read is None:
            raise ValueError(f"no such parameter: there are {', '.join(_PARAMETERS)}")
        if len(value) > VALUE:
            raise ValueError(f"{name} is longer than {VALUE} characters")
        try:
            found = read(value)
        except Wrong as wrong:
            raise ValueError(f"{name} {wrong}") from None
        if name in fields:
            raise ValueError(f"{name} is given twice")
        fields[name] = found
    seconds = fields.pop("duration", LONGEST)
    if not 0.0 < seconds <= LONGEST:
        raise ValueError(f"duration is not between 0 and {format_duration(LONGEST)}")
    if "status" in fields:
        fields["lowest"], fields["highest"] = fields.pop("status")
    wanted = Filter(**fields)
    if wanted.tcp and wanted.of_requests:
        raise ValueError("method, path and status are of requests: no TCP connection has them")
    return wanted, seconds


def _word(text: str) -> str:
    if not text:
        raise Wrong("is empty")
    return text


def _direction(text: str) -> str:
    if text not in ("inbound", "outbound"):
        raise Wrong("is neither inbound nor outbound")
    return text


def _path(text: str) -> bytes:
    if not text.startswith(("/", "*")):
        raise Wrong("is no path", 'write how it begins, like "/orders/"')
    return text.encode()


def _method(text: str) -> bytes:
    return _word(text).encode()


def _set(text: str) -> bool:
    if text:
        raise Wrong("takes no value")
    return True


def _peer(text: str) -> str:
    return _word(text).removeprefix("[").removesuffix("]")


_PARAMETERS: dict[str, Callable[[str], Any]] = {
    "service": _word,
    "caller": _word,
    "direction": _direction,
    "method": _method,
    "path": _path,
    "status": statuses,
    "peer": _peer,
    "slower": parse_duration,
    "denied": _set,
    "tcp": _set,
    "headers": _set,
    "duration": parse_duration,
}


@implementer(IPushProducer)
class TapStream:
    """One client. See :class:`hostproxy.admin.http.Stream` and :class:`hostproxy.control.taps.Watcher`."""

    log = Logger()

    def __init__(self, reactor: MeshReactor, taps: Taps, seconds: float) -> None:
        self._reactor = reactor
        self._taps = taps
        self._seconds = seconds
        self._tap: Tap | None = None
        self._sink: Sink | None = None
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0  # since it was told last
        self._lost = 0  # all that were dropped
        self._paused = False
        self._limit: DelayedCall | None = None
        self._stuck: DelayedCall | None = None

    def open(self, wanted: Filter) -> None:
        """Watch. Raises TooMany."""
        self._tap = self._taps.open(wanted, self._seconds, self)
        self.log.info("live requests are watched for up to {time}", time=format_duration(self._seconds))

    # The client

    def begin(self, sink: Sink) -> None:
        """The head has been sent."""
        self._sink = sink
        self._limit = self._reactor.callLater(self._seconds, self._end)
        self._send()

    def pauseProducing(self) -> None:
        """It doesn't read."""
        self._paused = True
        if self._stuck is None:
            self._stuck = self._reactor.callLater(STUCK, self._abort)

    def resumeProducing(self) -> None:
        """It does."""
        self._paused = False
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        self._send()

    def stopProducing(self) -> None:
        """It has gone."""
        tap, self._tap = self._tap, None
        self._sink = None
        self._waiting.clear()
        for timer in (self._limit, self._stuck):
            if timer is not None and timer.active():
                timer.cancel()
        if tap is not None:
            self._taps.close(tap)
            self.log.info("live requests are not watched any more")

    # Requests

    def begun(self, workers: int) -> None:
        """Said to the client, so that it knows from when on it misses nothing."""
        self._put(_line(event="begin", workers=workers, seconds=self._seconds))

    def seen(self, lines: bytes, dropped: int) -> None:
        """More records; many at once."""
        self._dropped += dropped
        self._lost += dropped
        if lines:
            self._put(lines)
        else:
            self._send()

    def _put(self, lines: bytes) -> None:
        if self._size + len(lines) > QUEUE_BYTES:
            self._dropped += lines.count(b"\n")
            self._lost += lines.count(b"\n")
            return
        self._waiting.append(lines)
        self._size += len(lines)
        self._send()

    def _send(self) -> None:
        while self._sink is not None and not self._paused and (self._waiting or self._dropped):
            if self._waiting:
                lines = self._waiting.popleft()
                self._size -= len(lines)
            else:
                lines, self._dropped = _line(event="dropped", records=self._dropped), 0
            self._sink.write(lines)

    def _end(self) -> None:
        """The time is up."""
        self._limit = None
        sink = self._sink
        if self._paused or sink is None:
            self._abort()
            return
        sink.write(_line(event="end", dropped=self._lost))
        self._close(sink)

    def _close(self, sink: Sink) -> None:
        self.stopProducing()
        sink.finish()

    def _abort(self) -> None:
        self._stuck = None
        sink = self._sink
        if sink is not None:
            self.log.warn("who watches live requests does not read them: cut off")
            sink.abort()


def _line(**fields: object) -> bytes:
    return _encode(fields) + b"\n"
