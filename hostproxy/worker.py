"""The carrying process: takes a snapshot and sockets from the supervisor, and carries traffic with them.

It needs the supervisor for news only. When the channel breaks it goes on with what it has, and waits behind its door
for the next supervisor, to which it hands over its sockets before it drains. It imports no TOML, no prometheus_client
and no web server: every worker pays for its imports in memory.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.logger import Logger

from hostproxy.control import logs, messages
from hostproxy.control.channel import Channel
from hostproxy.control.door import Door
from hostproxy.telemetry import watches

if TYPE_CHECKING:
    from hostproxy.control.carrier import Carrier
    from hostproxy.net.reactor import MeshReactor
    from hostproxy.snapshot import AccessLog, Listener, Snapshot
    from hostproxy.telemetry.access_log import AccessLogWriter
    from hostproxy.telemetry.metrics import WorkerMetrics

# Seconds between telemetry: what admin shows is that old at most.
TELEMETRY = 1.0

# Seconds between telling the supervisor which services are called, so that it goes on watching them.
USED = 60.0

# What may wait for the supervisor while it is told of requests that somebody watches (bytes): telemetry is behind that.
WATCH_QUEUE = 1024 * 1024

# How long leaving may wait for the access log, twice (seconds): the supervisor kills after one second.
LAST_LINES = 0.4

# How long a worker that is done waits for the successor of its supervisor, to tell what it has counted (seconds).
LAST_COUNTS = 2.0

# How long a visitor at the door may be ahead of the news that the supervisor has died (seconds).
VISITOR_WAITS = 0.1

# The path frees what it uses by reference counts; the collector only finds the cycles that errors leave behind.
# It need not look after every 700 objects, and a look at all objects should be rare: with 20,000 connections
# it stops the worker for some 20 ms.
GC_THRESHOLDS = (10_000, 20, 50)


class Worker:
    """Joins the channel to the carrier."""

    log = Logger(namespace="hostproxy.worker")  # and not "__main__"

    def __init__(
        self,
        reactor: MeshReactor,
        carrier: Carrier,
        metrics: WorkerMetrics,
        set_log_level: Callable[[str], None],
        open_access_log: Callable[[AccessLog], AccessLogWriter],
    ) -> None:
        self._reactor = reactor
        self._carrier = carrier
        carrier.ask_with(self._ask)
        self._metrics = metrics
        self._set_log_level = set_log_level
        self._open_access_log = open_access_log
        self._channel: Channel[messages.Down] | None = None
        self._door: Door | None = None
        # Our copies of the listening sockets, for the next supervisor.
        self._sockets: dict[str, tuple[Listener, socket.socket]] = {}
        self._access_log: AccessLogWriter | None = None
        self._trouble = ""  # why the access log can't be written
        self._snapshot: Snapshot | None = None
        self._version = 0
        self._ready = False
        self._draining = False
        self._drained_all = False
        self._left = False
        self._lag = 0.0
        self._due = 0.0
        self._used_due = 0.0
        self._watches = watches.Watches(reactor.seconds, time.time, self._send_seen)
        self._showing = False

    def start(self, sock: socket.socket, directory: str) -> None:
        """Begin to listen to the supervisor on ``sock``, with a door in ``directory``."""
        try:
            self._door = Door(self._reactor, directory, self._knocked)
        except OSError as error:
            # Only taking over suffers from it, so it is no reason not to serve.
            self.log.error("no door in {directory}: {error}", directory=directory, error=error)
        self._channel = Channel(self._reactor, sock, messages.Down, self)
        now = self._reactor.seconds()
        self._due = now + TELEMETRY
        self._used_due = now + USED
        self._reactor.callLater(TELEMETRY, self._report)

    # From the supervisor

    def message_received(self, message: messages.Down, descriptor: int | None) -> None:
        """See :class:`hostproxy.control.channel.Owner`."""
        match message:
            case messages.Ping():
                self._send(messages.Pong(message.number, self._lag))
            case messages.Change():
                self._apply(message.delta.version, lambda: self._carrier.change(message.delta))
            case messages.Apply():
                self._apply(message.snapshot.version, lambda: self._take(message.snapshot))
            case messages.Listen():
                assert descriptor is not None
                self._listen(message.listener, socket.socket(fileno=descriptor))
            case messages.Absent():
                self._carrier.absent(message.service, message.problem)
            case messages.Close():
                self._close(message.listener_id)
            case messages.Drain():
                self.drain(message.seconds)
            case messages.ReopenLogs():
                if self._access_log is not None:
                    self._access_log.reopen()
            case messages.SetLogLevel():
                self._set_log_level(message.level)
            case messages.HandOver():
                self._hand_over()
            case messages.Watch():
                self._watches.begin(message.number, message.filter, message.seconds)
                self._send(messages.Seen(message.number, b"", 0))
                self._show()
            case messages.Unwatch():
                self._watches.end(message.number)

    def _take(self, snapshot: Snapshot) -> None:
        wanted = snapshot.access_log
        if self._snapshot is None or self._snapshot.access_log != wanted:
            before = self._access_log
            self._access_log = self._open_access_log(wanted) if wanted is not None else None
            self._carrier.log_to(self._access_log)
            if before is not None:
                # Its last lines may wait for a disk, and the process is not to wait for that.
                threading.Thread(target=before.close, name="access-log-close", daemon=True).start()
        self._carrier.apply(snapshot)
        self._snapshot = snapshot

    def _apply(self, version: int, apply: Callable[[], None]) -> None:
        try:
            apply()
        except Exception as error:
            self.log.failure("applying version {version}", version=version)
            self._send(messages.Applied(self._version, f"version {version}: {type(error).__name__}: {error}"))
            return
        self._version = version
        self._send(messages.Applied(version))
        self._check_ready()

    def _listen(self, listener: Listener, sock: socket.socket) -> None:
        if self._draining:
            sock.close()
            return
        self._close(listener.id)
        self._sockets[listener.id] = (listener, sock.dup())
        self._carrier.listen(listener, sock)
        self._check_ready()

    def _close(self, listener_id: str) -> None:
        known = self._sockets.pop(listener_id, None)
        if known is not None:
            self._carrier.close(listener_id)
            known[1].close()

    def _check_ready(self) -> None:
        if self._ready or not self._version or self._snapshot is None:
            return
        if all(listener.id in self._sockets for listener in self._snapshot.listeners):
            self._ready = True
            self._send(messages.Ready(self._version))
            # What exists now stays until the end: the collector need not look at it again, and pages that it does
            # not touch stay shared with other processes.
            gc.collect()
            gc.freeze()

    def _send(self, message: messages.Message) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def _report(self) -> None:
        """Once a second: counters up, and how late this ran."""
        now = self._reactor.seconds()
        self._lag = max(0.0, now - self._due)
        self._due = now + TELEMETRY
        self._watch_access_log()
        self._reactor.callLater(TELEMETRY, self._report)
        self._send_telemetry()
        if now >= self._used_due:
            self._used_due = now + USED
            self._send_used()

    def _ask(self, service: str) -> bool:
        """Ask for a service that a request has named; says whether there is anybody to answer."""
        self._send(messages.Wanted(service))
        return self._channel is not None

    def _send_used(self) -> None:
        if self._channel is None or self._snapshot is None or not self._snapshot.first_use:
            return
        if used := self._carrier.used():
            self._send(messages.Used(used))

    def _show(self) -> None:
        """Show live requests as long as somebody watches."""
        if not self._showing:
            self._showing = True
            self._carrier.show_to(self._watches)
            self._reactor.callLater(watches.BATCH, self._hand_on)

    def _hand_on(self) -> None:
        self._watches.flush()
        if self._watches:
            self._reactor.callLater(watches.BATCH, self._hand_on)
        else:
            self._showing = False
            self._carrier.show_to(None)

    def _send_seen(self, number: int, lines: bytes, dropped: int) -> bool:
        if self._channel is None or self._channel.queued > WATCH_QUEUE:
            return False
        self._send(messages.Seen(number, lines, dropped))
        return True

    def _watch_access_log(self) -> None:
        """Tell when the access log can't be written, and when it can again."""
        trouble = self._access_log.error if self._access_log is not None else ""
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble:
                self.log.error("access log: {trouble}", trouble=trouble)
            else:
                self.log.info("access log: written again")

    def _send_telemetry(self) -> None:
        if self._channel is not None and self._channel.open:
            self._send(messages.Telemetry(self._metrics.export(), self._carrier.describe()))

    # Leaving

    def terminated(self) -> None:
        """SIGTERM to this process alone: finish what is under way. A second one: leave now."""
        if self._draining:
            self._leave()
            return
        self._send(messages.Draining())
        self.drain(self._snapshot.limits.drain if self._snapshot is not None else 0.0)

    def drain(self, seconds: float) -> None:
        """Accept nothing, and leave when nothing is left or after ``seconds``. A later 0 ends it at once."""
        if not self._draining:
            self._draining = True
            for _, sock in self._sockets.values():
                sock.close()
            self._sockets.clear()
        elif seconds > 0:
            return
        if seconds <= 0:
            self._leave()
            return
        self._carrier.drain(seconds).addBoth(self._drained)

    def _drained(self, result: object) -> None:
        if result is not None:
            self.log.error("draining: {result}", result=result)
        self._drained_all = True
        if self._channel is None:
            self._reactor.callLater(LAST_COUNTS, self._leave)
        else:
            self._leave()

    def _leave(self) -> None:
        if not self._left:
            self._left = True
            self._send_telemetry()
            self._send(messages.Drained())
            self._reactor.stop()

    # Without a supervisor

    def channel_lost(self, reason: str) -> None:
        """See :class:`hostproxy.control.channel.Owner`."""
        self._channel = None
        self._watches.clear()
        self._carrier.supervisor_lost()
        if self._draining:
            return
        if not self._ready:
            self.log.error("the supervisor has gone before this worker could serve: leaving")
            self._leave()
            return
        self.log.warn(
            "the supervisor has gone ({reason}): serving on with version {version} until hostproxy is started again, "
            "or until SIGTERM",
            reason=reason,
            version=self._version,
        )

    def _knocked(self, sock: socket.socket) -> None:
        if self._channel is None:
            self._admit(sock)
        else:
            self._reactor.callLater(VISITOR_WAITS, self._admit, sock)

    def _admit(self, sock: socket.socket) -> None:
        if self._channel is not None:
            sock.close()  # we have a supervisor
            return
        self.log.info("another supervisor takes over")
        self._channel = Channel(self._reactor, sock, messages.Down, self)
        if self._drained_all:
            self._leave()

    def _hand_over(self) -> None:
        for listener, sock in self._sockets.values():
            if self._channel is not None:
                self._channel.send(messages.Listen(listener), sock.fileno())
        self._send(messages.HandedOver())

    def close(self) -> None:
        """The process is about to exit: take the door away and write the last log lines."""
        if self._door is not None:
            self._door.close()
        if self._access_log is not None:
            self._access_log.close(LAST_LINES)


def main(arguments: list[str] | None = None) -> int:
    """Run a worker: ``python -m hostproxy.worker --place 0 --channel 7 --directory /run/hostproxy``."""
    parser = argparse.ArgumentParser(prog="hostproxy.worker")
    parser.add_argument("--place", type=int, required=True, help="number of the worker")
    parser.add_argument("--channel", type=int, required=True, help="descriptor of its end of the channel")
    parser.add_argument("--directory", required=True, help="runtime directory")
    parser.add_argument("--log-level", default="info")
    options = parser.parse_args(arguments)

    # The terminal's Ctrl-C and hang-up reach the whole process group: the supervisor decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGHUP})
    faulthandler.register(signal.SIGUSR1)  # where it hangs, when the supervisor asks

    # Twisted loads its own TLS, which workers do not use, where pyOpenSSL can be imported: 4 MB for each worker.
    sys.modules["OpenSSL"] = None  # type: ignore[assignment]
    from hostproxy.net import reactor as net_reactor

    reactor = net_reactor.install()
    lines = logs.begin(f"worker-{options.place}", options.log_level)

    from hostproxy.telemetry.access_log import AccessLogWriter
    from hostproxy.telemetry.metrics import WorkerMetrics
    from hostproxy.traffic import Traffic

    metrics = WorkerMetrics()
    counted = 0

    def count_dropped(metrics: WorkerMetrics) -> None:
        nonlocal counted
        if lines.lost > counted:
            metrics.count("daemon_log_dropped_total", ("worker",), lines.lost - counted)
            counted = lines.lost

    metrics.on_export(count_dropped)

    def open_access_log(wanted: AccessLog) -> AccessLogWriter:
        writer = AccessLogWriter(wanted.path, wanted.sample, random.random, time.time)
        metrics.on_export(writer.report)
        return writer

    gc.set_threshold(*GC_THRESHOLDS)
    traffic = Traffic(reactor, metrics, None, Logger(namespace="hostproxy.traffic"))
    worker = Worker(reactor, traffic, metrics, lines.set_level, open_access_log)
    worker.start(socket.socket(fileno=options.channel), options.directory)
    signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(worker.terminated))
    try:
        reactor.run(installSignalHandlers=False)
    finally:
        worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
