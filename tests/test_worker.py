"""A worker between its supervisor, played by the test, and a carrier that only writes down what it is told."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from hostproxy import worker as worker_module
from hostproxy.control import channel as channel_module
from hostproxy.control import messages
from hostproxy.control.channel import Channel, pair
from hostproxy.control.door import knock
from hostproxy.snapshot import AccessLog, Delta, Listener, Snapshot
from hostproxy.telemetry import watches
from hostproxy.telemetry.metrics import WorkerMetrics
from hostproxy.telemetry.tap import Filter
from hostproxy.worker import Worker
from tests.control.conftest import TurnedReactor
from tests.control.conftest import reactor as reactor
from tests.control.test_handle import MESH, PROXY, snapshot
from tests.telemetry.test_tap import REQUEST


class Carrier:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.sockets: dict[str, socket.socket] = {}
        self.drained: Deferred[None] = Deferred()
        self.logs: list[Any] = []
        self.shown: list[Any] = []
        self.ask: Callable[[str], bool] = lambda service: False
        self.uses: tuple[str, ...] = ()

    def ask_with(self, ask: Callable[[str], bool]) -> None:
        self.ask = ask

    def absent(self, service: str, problem: str) -> None:
        self.told.append((service, problem))

    def supervisor_lost(self) -> None:
        self.told.append("alone")

    def used(self) -> tuple[str, ...]:
        uses, self.uses = self.uses, ()
        return uses

    def apply(self, snapshot: Snapshot) -> None:
        if snapshot.zone == "bad":
            raise ValueError("cannot take this")
        self.told.append(snapshot.version)

    def change(self, delta: Delta) -> None:
        self.told.append(delta.version)

    def listen(self, listener: Listener, sock: socket.socket) -> None:
        self.sockets[listener.id] = sock

    def close(self, listener_id: str) -> None:
        self.sockets.pop(listener_id).close()

    def show_to(self, watches: Any) -> None:
        self.shown.append(watches)

    def log_to(self, access_log: Any) -> None:
        self.logs.append(access_log)

    def drain(self, seconds: float) -> Deferred[None]:
        self.told.append(f"drain {seconds}")
        for listener_id in list(self.sockets):
            self.close(listener_id)
        return self.drained

    def describe(self) -> dict[str, object]:
        return {"connections": len(self.told)}


class Log:
    """An access log."""

    def __init__(self, wanted: AccessLog) -> None:
        self.wanted = wanted
        self.reopened = 0
        self.closed = False

    def reopen(self) -> None:
        self.reopened += 1

    def close(self) -> None:
        self.closed = True


class Supervisor:
    """The other end of a channel."""

    def __init__(self, reactor: TurnedReactor, sock: socket.socket) -> None:
        self.heard: list[Any] = []
        self.sockets: list[socket.socket] = []
        self.lost = ""
        self.channel: Channel[Any] = Channel(reactor, sock, messages.Up, self)

    def message_received(self, message: Any, descriptor: int | None) -> None:
        self.heard.append(message)
        if descriptor is not None:
            self.sockets.append(socket.socket(fileno=descriptor))

    def channel_lost(self, reason: str) -> None:
        self.lost = reason


class Scene:
    """A worker with everything around it."""

    def __init__(self, reactor: TurnedReactor, directory: Path) -> None:
        self.reactor = reactor
        self.directory = str(directory)
        self.carrier = Carrier()
        self.levels: list[str] = []
        self.stopped = 0
        reactor.stop = self._stop  # type: ignore[method-assign]
        self.worker = Worker(reactor, self.carrier, WorkerMetrics(), self.levels.append, Log)  # type: ignore[arg-type]
        ours, theirs = pair()
        self.supervisor = Supervisor(reactor, ours)
        self.worker.start(theirs, self.directory)
        self.listening = socket.create_server(("127.0.0.1", 0))

    def _stop(self) -> None:
        self.stopped += 1

    def say(self, *said: messages.Message) -> list[Any]:
        """Say this to the worker and return what it says then, counters apart."""
        for message in said:
            descriptor = self.listening.fileno() if isinstance(message, messages.Listen) else None
            self.supervisor.channel.send(message, descriptor)
        return self.answers()

    def answers(self) -> list[Any]:
        self.reactor.turns()
        heard, self.supervisor.heard = self.supervisor.heard, []
        return [message for message in heard if not isinstance(message, messages.Telemetry)]

    def serve(self) -> None:
        self.say(messages.Apply(snapshot(1)), messages.Listen(MESH))

    def die(self) -> None:
        """The supervisor dies."""
        self.supervisor.channel.close()
        self.reactor.turns()

    def visit(self) -> None:
        """The next supervisor comes to the door."""
        ((_, sock),) = knock(self.directory, set())
        self.supervisor = Supervisor(self.reactor, sock)

    def close(self) -> None:
        self.worker.close()
        self.die()
        self.listening.close()
        for sock in (*self.supervisor.sockets, *self.carrier.sockets.values()):
            sock.close()
        for _, sock in self.worker._sockets.values():
            sock.close()
        for call in self.reactor.getDelayedCalls():
            call.cancel()


@pytest.fixture
def scene(reactor: TurnedReactor, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(reactor, tmp_path)
    yield scene
    scene.close()


def test_it_is_ready_when_every_listener_accepts(scene: Scene) -> None:
    first = messages.Apply(snapshot(3, 1, (MESH, PROXY)))
    assert scene.say(first, messages.Listen(MESH)) == [messages.Applied(3)]
    assert scene.say(messages.Listen(PROXY)) == [messages.Ready(3)]
    assert sorted(scene.carrier.sockets) == ["mesh", "proxy"]


def test_changes_are_applied_and_said(scene: Scene) -> None:
    scene.serve()
    assert scene.say(messages.Change(Delta(version=2))) == [messages.Applied(2)]
    assert scene.carrier.told == [1, 2]


def test_what_cannot_be_applied_leaves_it_as_it_was(scene: Scene) -> None:
    scene.serve()
    (answer,) = scene.say(messages.Apply(snapshot(2, zone="bad")))
    assert answer.version == 1
    assert "version 2: ValueError: cannot take this" in answer.problem


def test_pings_are_answered(scene: Scene) -> None:
    (pong,) = scene.say(messages.Ping(9))
    assert (pong.number, pong.lag) == (9, 0.0)


def test_counters_come_by_themselves(scene: Scene) -> None:
    scene.serve()
    scene.reactor.until(lambda: [one for one in scene.supervisor.heard if isinstance(one, messages.Telemetry)], 3.0)


def test_services_that_are_not_known_are_asked_for(scene: Scene) -> None:
    scene.serve()
    assert scene.carrier.ask("payments")
    assert scene.answers() == [messages.Wanted("payments")]
    scene.say(messages.Absent("payments", "Consul is away"))
    assert scene.carrier.told[-1] == ("payments", "Consul is away")


def test_without_a_supervisor_nobody_is_asked_until_the_next_one_comes(scene: Scene) -> None:
    scene.serve()
    scene.die()
    assert scene.carrier.told[-1] == "alone"
    assert not scene.carrier.ask("payments")
    scene.visit()
    scene.say(messages.HandOver())
    assert scene.carrier.ask("payments")
    assert scene.answers() == [messages.Wanted("payments")]


def test_a_supervisor_that_does_not_read_is_no_one_to_ask(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.serve()
    monkeypatch.setattr(channel_module, "QUEUE_BYTES", 0)
    assert not scene.carrier.ask("payments")
    assert scene.carrier.told[-1] == "alone"


def used(scene: Scene) -> list[Any]:
    """What the supervisor heard of services that were called."""
    return [message for message in scene.supervisor.heard if isinstance(message, messages.Used)]


def test_services_that_were_called_are_told_now_and_then(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "TELEMETRY", 0.01)
    monkeypatch.setattr(worker_module, "USED", 0.05)
    scene.worker._used_due = 0.0
    scene.say(messages.Apply(snapshot(1, first_use=2.0)), messages.Listen(MESH))
    scene.carrier.uses = ("payments", "stock")
    scene.reactor.until(lambda: used(scene))
    scene.carrier.uses = ("payments",)
    scene.reactor.until(lambda: len(used(scene)) == 2)
    assert used(scene) == [messages.Used(("payments", "stock")), messages.Used(("payments",))]


def test_where_nothing_is_looked_up_nothing_is_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "TELEMETRY", 0.001)
    monkeypatch.setattr(worker_module, "USED", 0.0)
    scene.worker._used_due = 0.0
    scene.serve()
    scene.carrier.uses = ("payments",)
    scene.reactor.until(lambda: len(scene.supervisor.heard) > 3)
    assert used(scene) == []


def test_log_levels_and_access_logs(scene: Scene) -> None:
    scene.say(messages.SetLogLevel("debug"))
    assert scene.levels == ["debug"]
    scene.serve()
    assert scene.carrier.logs == [None]
    wanted = AccessLog("/a.log", 0.5)
    scene.say(messages.Apply(snapshot(2, access_log=wanted)), messages.ReopenLogs())
    log = scene.carrier.logs[-1]
    assert (log.wanted, log.reopened) == (wanted, 1)
    scene.say(messages.Apply(snapshot(3, access_log=wanted)))
    assert scene.carrier.logs[-1] is log, "it was opened again without a change"
    scene.say(messages.Apply(snapshot(4)))
    assert scene.carrier.logs[-1] is None
    scene.reactor.until(lambda: log.closed)


def test_a_closed_listener_is_closed_everywhere(scene: Scene) -> None:
    scene.serve()
    address = scene.listening.getsockname()
    scene.say(messages.Close("mesh"))
    scene.listening.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_draining_ends_with_the_last_connection(scene: Scene) -> None:
    scene.serve()
    assert scene.say(messages.Drain(5.0)) == []
    assert scene.carrier.told[-1] == "drain 5.0"
    scene.say(messages.Drain(5.0))
    assert scene.stopped == 0
    scene.carrier.drained.callback(None)
    assert scene.answers() == [messages.Drained()]
    assert scene.stopped == 1


def test_draining_without_time(scene: Scene) -> None:
    scene.serve()
    scene.say(messages.Drain(5.0))
    assert scene.say(messages.Drain(0.0)) == [messages.Drained()]
    scene.carrier.drained.callback(None)
    assert scene.stopped == 1


@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_to_the_worker_alone(scene: Scene, times: int) -> None:
    scene.serve()
    for _ in range(times):
        scene.worker.terminated()
    assert scene.answers() == [messages.Draining(), messages.Drained()][:times]
    assert scene.stopped == times - 1


def test_without_a_supervisor_it_goes_on(scene: Scene) -> None:
    scene.serve()
    scene.die()
    assert scene.stopped == 0
    assert scene.carrier.sockets


def test_without_a_supervisor_before_it_could_serve_it_leaves(scene: Scene) -> None:
    scene.say(messages.Apply(snapshot(1)))
    scene.die()
    assert scene.stopped == 1


def test_the_next_supervisor_gets_every_socket(scene: Scene) -> None:
    scene.say(messages.Apply(snapshot(1, 1, (MESH, PROXY))), messages.Listen(MESH), messages.Listen(PROXY))
    scene.die()
    scene.visit()
    assert scene.say(messages.HandOver()) == [
        messages.Listen(MESH),
        messages.Listen(PROXY),
        messages.HandedOver(),
    ]
    for sock in scene.supervisor.sockets:
        assert sock.getsockname() == scene.listening.getsockname()
    scene.say(messages.Drain(1.0))
    scene.carrier.drained.callback(None)
    assert scene.answers() == [messages.Drained()]


def test_a_visitor_is_let_in_even_before_the_death_of_the_other_is_noticed(scene: Scene) -> None:
    scene.serve()
    scene.supervisor.channel.close()  # and no turn of the reactor
    scene.visit()
    scene.supervisor.channel.send(messages.HandOver())
    scene.reactor.until(lambda: messages.HandedOver() in scene.supervisor.heard)


def test_a_visitor_is_sent_away_while_there_is_a_supervisor(scene: Scene) -> None:
    scene.serve()
    first = scene.supervisor
    scene.visit()
    visitor = scene.supervisor
    scene.reactor.until(lambda: visitor.lost)
    scene.supervisor = first
    assert len(scene.say(messages.Ping(1))) == 1


def test_no_door_is_no_reason_not_to_serve(reactor: TurnedReactor, tmp_path: Path) -> None:
    scene = Scene(reactor, tmp_path / "missing")
    assert scene.say(messages.Apply(snapshot(1)), messages.Listen(MESH)) == [
        messages.Applied(1),
        messages.Ready(1),
    ]
    scene.close()


def test_it_imports_nothing_that_only_the_supervisor_needs() -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['OpenSSL'] = None\n"
        "import hostproxy.worker, hostproxy.traffic, hostproxy.telemetry.access_log\n"
        "print(sorted({'tomllib', 'prometheus_client', 'twisted.web', 'hostproxy.config', 'hostproxy.admin',"
        " 'twisted.protocols.tls'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def seen(said: list[Any]) -> list[tuple[int, bytes, int]]:
    return [(each.number, each.lines, each.dropped) for each in said if isinstance(each, messages.Seen)]


def test_live_requests_are_shown_while_somebody_watches(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "BATCH", 0.01)
    assert scene.carrier.shown == []
    assert seen(scene.say(messages.Watch(4, Filter(), 60.0))) == [(4, b"", 0)]
    (shown,) = scene.carrier.shown
    (watch,) = shown.takers(REQUEST)
    watch.lines.append(b"{}\n")
    scene.reactor.until(lambda: seen(scene.supervisor.heard))
    assert seen(scene.answers()) == [(4, b"{}\n", 0)]
    scene.say(messages.Unwatch(4))
    scene.reactor.until(lambda: scene.carrier.shown == [shown, None])
    assert seen(scene.say(messages.Watch(5, Filter(), 60.0))) == [(5, b"", 0)]
    assert scene.carrier.shown == [shown, None, shown]


def test_what_the_supervisor_does_not_take_is_dropped_and_counted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "WATCH_QUEUE", -1)
    scene.say(messages.Watch(4, Filter(), 60.0))
    (watch,) = scene.carrier.shown[0].takers(REQUEST)
    watch.lines.append(b"{}\n")
    scene.reactor.until(lambda: watch.dropped == 1)
    monkeypatch.setattr(worker_module, "WATCH_QUEUE", 1000)
    scene.reactor.until(lambda: seen(scene.supervisor.heard))
    assert seen(scene.answers()) == [(4, b"", 1)]


def test_nobody_watches_once_the_supervisor_has_gone(scene: Scene) -> None:
    scene.serve()
    scene.say(messages.Watch(4, Filter(), 60.0))
    scene.die()
    assert scene.carrier.shown[0].takers(REQUEST) == []
    scene.reactor.until(lambda: scene.carrier.shown[-1] is None)
