"""The access log: one JSON object per request or TCP connection, one line each, to a file or a FIFO.

The data path only appends a record to a bounded queue. A thread encodes and writes in batches, so that a
full disk, a missing directory or a reader that stopped holds up nobody: records wait in the queue, and what
finds it full is dropped and counted.

The path of a request is logged without its query, because queries carry tokens and personal data and a log
is read by more people than the service is; ``has_query`` keeps the line honest about what was cut.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from hostproxy.telemetry.flags import NONE
from hostproxy.telemetry.metrics import WorkerMetrics

# A second of 8,000 requests, which is more than a worker does, waits out any ordinary hiccup of a disk.
QUEUE_LINES = 8192
QUEUE_BYTES = 8 * 1024 * 1024  # a thousand bytes each: lines are near 600
# Clients choose method, path and authority: together this much of them is kept (characters).
TEXT_LIMIT = 1024
LINE_OVERHEAD = 512  # bytes of a line beside those texts, for the count of bytes that wait
BATCH_LINES = 64  # encoded at a time; the interpreter lock is held for some 40 us then
BATCH_DELAY = 0.1  # seconds that the thread lets lines gather; the log is that far behind
RETRY_DELAY = 1.0  # seconds between tries to open or write after an error
STALL_POLL = 0.2  # seconds between looks at "reopen" and "close" while a FIFO is full
PIPE_ATOMIC = (
    select.PIPE_BUF
)  # POSIX: a write to a pipe of at most this many bytes is never mixed with others
FULL_DISK = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))

# Why a line was dropped.
QUEUE_FULL = "queue-full"
UNENCODABLE = "unencodable"
TORN = "torn"
CLOSED = "closed"


class AccessRecord(msgspec.Struct, kw_only=True, gc=False):
    """One line. The order of the fields is the order of the keys, and part of the format."""

    ts: str = ""  # RFC 3339, milliseconds, UTC; set by the writer: when the request ended
    kind: str = "http"  # http or tcp
    dir: str = ""  # outbound or inbound
    method: str = ""
    path: str = ""  # without the query
    has_query: bool = False
    authority: str = ""  # the Host that the client asked for
    protocol: str = ""  # HTTP/1.0, HTTP/1.1
    status: int = 0  # 0: no answer was sent
    flags: str = NONE  # hostproxy.telemetry.flags
    details: str = ""  # why, in a few words, when flags says that hostproxy interfered
    route: str = ""  # that the request took, by its name or as file:line; empty: none
    subset: str = ""  # of the called service, that the route or the caller chose; empty: none was chosen
    source: str = ""  # calling service
    source_identity: str = ""  # its verified SPIFFE identity; empty in plain text
    dest: str = ""  # called service
    upstream: str = ""  # address of the endpoint that answered, or was tried last
    attempts: int = 0  # endpoints tried
    bytes_in: int = 0  # from the client, of the body
    bytes_out: int = 0  # to the client, of the body
    dur_ms: float = 0.0  # first byte of the request to last byte of the answer
    ttfb_ms: float = -1.0  # to the first byte of the answer; -1: there was none
    tls: str = ""  # version, for example TLSv1.3; empty: plain text
    request_id: str = ""
    denied_by: str = ""  # the rule (file:line) or default that denied it
    audit: str = ""  # what rules with audit = true would have done: "deny payments.toml:12"


class AccessLogWriter:
    """Writes records to ``path``. All methods return at once except :meth:`flush` and :meth:`close`.

    ``sample`` is the share of successes that is logged, judged by ``random`` (gives 0 <= x < 1). Failures,
    which are statuses from 500 and all that carry a flag, are always logged, and so is what rules with audit = true
    speak of. ``clock`` gives Unix seconds.

    Several workers may write to one file: it is opened with O_APPEND and each write holds whole lines. On a
    local file the kernel keeps such writes apart; only a disk that fills up within a line can tear one.
    """

    __slots__ = (
        "_bytes_in",
        "_bytes_out",
        "_clock",
        "_fd",
        "_hurry",
        "_lost",
        "_path",
        "_pipe",
        "_queue",
        "_random",
        "_refused",
        "_reopen",
        "_reported",
        "_sample",
        "_second",
        "_second_text",
        "_stop",
        "_thread",
        "_work",
        "error",
    )

    def __init__(
        self, path: str, sample: float, random: Callable[[], float], clock: Callable[[], float]
    ) -> None:
        self.error = ""  # why nothing can be written at present, for the operator
        self._path = path
        self._sample = sample
        self._random = random
        self._clock = clock
        self._second = -1
        self._second_text = ""
        self._queue: deque[AccessRecord | threading.Event] = deque()  # an Event marks a place for flush
        self._bytes_in = 0  # bytes put into the queue, ever; only the reactor's thread writes it
        self._bytes_out = 0  # bytes taken out of it; only the writing thread writes it
        self._refused = 0  # lines that found the queue full; reactor's thread
        self._lost = {UNENCODABLE: 0, TORN: 0, CLOSED: 0}  # lines lost behind the queue; writing thread
        self._reported: dict[str, int] = {}
        self._fd = -1
        self._pipe = False
        self._reopen = False
        self._work = threading.Event()  # there is something in the queue
        self._hurry = threading.Event()  # let nothing gather
        self._stop = threading.Event()  # give up what cannot be written
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def write(self, record: AccessRecord) -> None:
        """Log ``record``, not to be changed afterwards, unless it is sampled out or the queue is full."""
        if (
            self._sample < 1.0
            and record.status < 500
            and record.flags == NONE
            and not record.audit
            and self._random() >= self._sample
        ):
            return
        size = _text_size(record)
        if size > TEXT_LIMIT:
            _shorten(record)
            size = _text_size(record)
        size += LINE_OVERHEAD
        queue = self._queue
        if len(queue) >= QUEUE_LINES or self._bytes_in - self._bytes_out + size > QUEUE_BYTES:
            self._refused += 1
            return
        now = self._clock()
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        record.ts = f"{self._second_text}.{int((now - second) * 1000):03d}Z"
        self._bytes_in += size
        queue.append(record)
        if not self._work.is_set():
            self._work.set()

    @property
    def dropped(self) -> dict[str, int]:
        """Lines that were not written since the start, by reason."""
        return {QUEUE_FULL: self._refused, **self._lost}

    def report(self, metrics: WorkerMetrics) -> None:
        """Count what was dropped since the last report; to be passed to ``metrics.on_export``."""
        for reason, count in self.dropped.items():
            known = self._reported.get(reason, 0)
            if count > known:
                metrics.count("access_log_dropped_total", (reason,), count - known)
                self._reported[reason] = count

    def reopen(self) -> None:
        """The file was renamed away: open the path again before the next line."""
        self._reopen = True
        self._work.set()

    def flush(self, timeout: float = 2.0) -> bool:
        """Wait until all lines of before are written, at most ``timeout`` seconds; whether they are."""
        reached = threading.Event()
        self._queue.append(reached)
        self._hurry.set()
        self._work.set()
        done = reached.wait(timeout)
        self._hurry.clear()
        return done

    def close(self, timeout: float = 2.0) -> None:
        """Write what can be written within ``timeout`` seconds, count the rest as dropped, end the thread.

        A disk that hangs can double that time; the thread then ends with the process.
        """
        self.flush(timeout)
        self._stop.set()
        self._hurry.set()
        self._work.set()
        self._thread.join(timeout)

    # The writing thread.

    def _run(self) -> None:
        while not self._stop.is_set():
            self._work.wait()
            self._hurry.wait(BATCH_DELAY)
            self._work.clear()
            self._follow_rename()
            self._drain()
        self._drain()
        self._close_file()

    def _drain(self) -> None:
        queue = self._queue
        while queue:
            batch: list[AccessRecord] = []
            reached: threading.Event | None = None
            while queue and reached is None and len(batch) < BATCH_LINES:
                item = queue.popleft()
                if isinstance(item, threading.Event):
                    reached = item
                else:
                    batch.append(item)
            if batch:
                size = sum(_text_size(record) for record in batch) + LINE_OVERHEAD * len(batch)
                self._deliver(self._encode(batch))
                self._bytes_out += size
            if reached is not None:
                reached.set()

    def _encode(self, batch: list[AccessRecord]) -> bytes:
        for record in batch:
            record.dur_ms = round(record.dur_ms, 3)
            record.ttfb_ms = round(record.ttfb_ms, 3)
        try:
            return _encoder.encode_lines(batch)
        except UnicodeEncodeError:  # a lone surrogate: some text came from undecodable bytes
            lines = []
            for record in batch:
                try:
                    lines.append(_encoder.encode(record) + b"\n")
                except UnicodeEncodeError:
                    self._lost[UNENCODABLE] += 1
            return b"".join(lines)

    def _deliver(self, lines: bytes) -> None:
        """Write whole lines, however long that takes; until :meth:`close` gives up."""
        torn = False  # the last write ended within a line
        while lines:
            try:
                self._follow_rename()
                if self._fd < 0:
                    empty = self._open_file()
                    if torn:
                        lines = (b"" if empty else b"\n") + lines[lines.index(b"\n") + 1 :]
                        self._lost[TORN] += 1
                        torn = False
                        continue
                written = os.write(self._fd, self._piece(lines))
            except BlockingIOError:
                self.error = f"{self._path}: nobody reads from this FIFO; lines wait, then are dropped"
                if self._stop.is_set():
                    break
                poller = select.poll()
                poller.register(self._fd, select.POLLOUT)
                poller.poll(STALL_POLL * 1000)
                continue
            except OSError as problem:
                self.error = f"{self._path}: {problem.strerror}; lines wait, then are dropped"
                if problem.errno not in FULL_DISK:
                    self._close_file()
                if self._stop.wait(RETRY_DELAY):
                    break
                continue
            self.error = ""
            torn = lines[written - 1 : written] != b"\n"
            lines = lines[written:]
        self._lost[CLOSED] += lines.count(b"\n")

    def _piece(self, lines: bytes) -> bytes:
        """What one write may hold: everything to a file, what stays unmixed with other writers to a pipe."""
        if not self._pipe or len(lines) <= PIPE_ATOMIC:
            return lines
        end = lines.rfind(b"\n", 0, PIPE_ATOMIC) + 1
        return lines[: end or lines.index(b"\n") + 1]

    def _open_file(self) -> bool:
        """Open the path; whether it is empty. O_NONBLOCK: a FIFO without a reader is an error, not a wait."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        self._fd = os.open(self._path, flags, 0o640)
        state = os.fstat(self._fd)
        self._pipe = stat.S_ISFIFO(state.st_mode)
        return state.st_size == 0

    def _follow_rename(self) -> None:
        if self._reopen:
            self._reopen = False
            self._close_file()

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_encoder = msgspec.json.Encoder()


def _text_size(record: AccessRecord) -> int:
    return len(record.path) + len(record.authority) + len(record.method) + len(record.details)


def _shorten(record: AccessRecord) -> None:
    """Cut the texts that clients choose so that together they keep to TEXT_LIMIT; three dots mark a cut."""
    record.method = _cut(record.method, 32)
    record.authority = _cut(record.authority, 256)
    record.details = _cut(record.details, 256)
    record.path = _cut(
        record.path, TEXT_LIMIT - len(record.method) - len(record.authority) - len(record.details)
    )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
