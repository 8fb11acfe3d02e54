"""One worker as the supervisor sees it, played by the test at the other end of the channel."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import pytest

from hostproxy.control import handle as handle_module
from hostproxy.control import messages
from hostproxy.control.channel import Channel, pair
from hostproxy.control.handle import DEAD, SILENT, Handle, Target
from hostproxy.control.process import Vitals
from hostproxy.control.state import ADOPTED, WorkerState
from hostproxy.limits import Limits
from hostproxy.snapshot import Listener, Place, Service, Snapshot
from tests.control.conftest import TurnedReactor

MESH = Listener("mesh", "mesh", "127.0.0.1:1")
PROXY = Listener("proxy", "proxy", "127.0.0.1:2", "", "cart")


def snapshot(version: int, services: int = 1, listeners: tuple[Listener, ...] = (MESH,), **more: Any) -> Snapshot:
    fields: dict[str, Any] = {
        "host": "h1",
        "datacenter": "dc1",
        "zone": "",
        "trust_domain": "example.test",
        "domains": ("mesh",),
        "connect_ports": (),
        "limits": Limits(),
        "access_log": None,
        "authorities": b"",
        "identities": {},
        "services": {
            f"s{n}": Service(f"s{n}", places=(Place(f"10.0.0.1:{version}", True, "dc1", 1),))
            for n in range(services)
        },
        "locals": {},
    }
    return Snapshot(version=version, listeners=listeners, **{**fields, **more})


class FakeProcess:
    """Records signals; never ends by itself."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.running = True
        self.signals: list[signal.Signals] = []

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)

    def forget(self) -> None:
        self.running = False


class Owner:
    """Writes down what the handle reports."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.sockets: dict[str, socket.socket] = {}

    def worker_ready(self, handle: Handle) -> None:
        self.events.append("ready")

    def worker_leaving(self, handle: Handle) -> None:
        self.events.append("leaving")

    def worker_ended(self, handle: Handle, how: str) -> None:
        self.events.append(how)

    def worker_counted(self, handle: Handle, export: bytes) -> None:
        self.events.append(export)

    def worker_handed_over(self, handle: Handle) -> None:
        self.events.append("handed over")

    def worker_wants(self, handle: Handle, service: str) -> None:
        self.events.append(f"wants {service}")

    def worker_used(self, handle: Handle, services: tuple[str, ...]) -> None:
        self.events.append(services)

    def worker_strayed(self, handle: Handle) -> None:
        self.events.append("strayed")

    def socket_received(self, listener: Listener, sock: socket.socket) -> None:
        self.sockets[listener.id] = sock


class Other:
    """The worker's end."""

    def __init__(self, reactor: TurnedReactor, sock: socket.socket) -> None:
        self.heard: list[Any] = []
        self.channel: Channel[Any] = Channel(reactor, sock, messages.Down, self)

    def message_received(self, message: Any, descriptor: int | None) -> None:
        self.heard.append(message)
        if descriptor is not None:
            os.close(descriptor)

    def channel_lost(self, reason: str) -> None:
        self.heard.append(reason)

    def take(self) -> list[Any]:
        heard, self.heard = self.heard, []
        return heard


class Scene:
    """A handle, its owner, its process and the worker's end."""

    def __init__(self, reactor: TurnedReactor, place: int = 0) -> None:
        ours, theirs = pair()
        self.reactor = reactor
        self.owner = Owner()
        self.cpu = 0.0  # seconds that the worker has used
        phase = "draining" if place == ADOPTED else "starting"
        self.state = WorkerState(place=place, id=1, pid=7, phase=phase)  # type: ignore[arg-type]
        self.handle = Handle(reactor, ours, self.state, self.owner)
        self.process = FakeProcess()
        self.handle.process = self.process  # type: ignore[assignment]
        self.worker = Other(reactor, theirs)
        self.sockets = {"mesh": socket.socket(), "proxy": socket.socket()}

    def target(self, *args: Any, **more: Any) -> Target:
        wanted = snapshot(*args, **more)
        return Target(wanted, {listener.id: self.sockets[listener.id] for listener in wanted.listeners})

    def heard(self) -> list[Any]:
        self.reactor.turns()
        return self.worker.take()

    def say(self, message: messages.Message) -> None:
        self.worker.channel.send(message)
        self.reactor.turns()

    def close(self) -> None:
        self.handle.abandon()
        self.worker.channel.close()
        for sock in self.sockets.values():
            sock.close()


@pytest.fixture
def scene(reactor: TurnedReactor) -> Any:
    scene = Scene(reactor)
    yield scene
    scene.close()


def test_a_new_worker_gets_the_whole_and_then_what_changes(scene: Scene) -> None:
    scene.handle.tell(scene.target(1, 3))
    apply, listen = scene.heard()
    assert apply.snapshot == snapshot(1, 3)
    assert listen == messages.Listen(MESH)
    scene.say(messages.Applied(1))
    scene.say(messages.Ready(1))
    assert scene.owner.events == ["ready"]
    assert (scene.state.phase, scene.state.version) == ("serving", 1)
    scene.handle.tell(scene.target(2, 2))
    (change,) = scene.heard()
    assert change.delta.version == 2
    assert change.delta.services["s2"] is None


def test_what_changes_while_an_update_is_on_its_way_becomes_one_update(scene: Scene) -> None:
    scene.handle.tell(scene.target(1))
    scene.heard()
    for version in range(2, 50):
        scene.handle.tell(scene.target(version))
    assert scene.heard() == []
    scene.say(messages.Applied(1))
    (change,) = scene.heard()
    assert change.delta.version == 49
    scene.say(messages.Applied(49))
    assert scene.heard() == []


def test_what_is_of_the_whole_host_comes_whole(scene: Scene) -> None:
    scene.handle.tell(scene.target(1))
    scene.say(messages.Applied(1))
    scene.heard()
    scene.handle.tell(scene.target(2, limits=Limits(drain=1.0)))
    (apply,) = scene.heard()
    assert apply.snapshot.limits.drain == 1.0


def test_listeners_come_and_go_and_stay(scene: Scene) -> None:
    scene.handle.tell(scene.target(1, 1, (MESH,)))
    scene.say(messages.Applied(1))
    scene.heard()
    scene.handle.tell(scene.target(2, 1, (MESH, PROXY)))
    assert scene.heard()[1:] == [messages.Listen(PROXY)]
    scene.say(messages.Applied(2))
    changed = Listener("proxy", "proxy", "127.0.0.1:2", "", "host")
    scene.handle.tell(scene.target(3, 1, (MESH, changed)))
    assert scene.heard()[1:] == [messages.Close("proxy"), messages.Listen(changed)]
    scene.say(messages.Applied(3))
    scene.handle.tell(scene.target(4, 1, (MESH,)))
    assert scene.heard()[1:] == [messages.Close("proxy")]


def test_a_worker_that_could_not_apply_gets_the_next_one_whole(scene: Scene) -> None:
    scene.handle.tell(scene.target(1))
    scene.say(messages.Applied(1))
    scene.handle.tell(scene.target(2))
    scene.heard()
    scene.say(messages.Applied(1, "version 2: KeyError"))
    assert (scene.state.version, scene.state.problem) == (1, "version 2: KeyError")
    assert scene.heard() == [], "it would be told the same again and again"
    scene.handle.tell(scene.target(3))
    (apply,) = scene.heard()
    assert apply.snapshot.version == 3
    scene.say(messages.Applied(3))
    assert scene.state.problem == ""


def test_one_frame_serves_all_workers(reactor: TurnedReactor) -> None:
    scene = Scene(reactor)
    target = scene.target(2)
    assert target.update(None)[1] is target.update(None)[1]
    told = snapshot(1)
    assert target.update(told)[1] is target.update(told)[1]
    scene.close()


def silence(scene: Scene, monkeypatch: pytest.MonkeyPatch, state: str, cpu: float, seconds: float) -> None:
    """Let ``seconds`` pass in which the worker is in ``state`` and uses this share of a CPU."""
    for _ in range(round(seconds)):
        scene.cpu += cpu
        monkeypatch.setattr(handle_module, "vitals", lambda pid: Vitals(state, scene.cpu))
        scene.handle.tick(1.0)


@pytest.mark.parametrize(("state", "cpu"), [("R", 1.0), ("S", 0.0), ("T", 0.0), ("D", 0.0)])
def test_a_worker_that_hangs_is_reported_and_then_killed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, state: str, cpu: float
) -> None:
    scene.say(messages.Ready(1))
    silence(scene, monkeypatch, state, cpu, SILENT - 1)
    assert scene.state.phase == "serving"
    silence(scene, monkeypatch, state, cpu, 2)
    assert scene.state.phase == "silent"
    assert scene.process.signals == [signal.SIGUSR1], "it was to be asked for its stack, once"
    silence(scene, monkeypatch, state, cpu, DEAD - SILENT - 2)
    assert signal.SIGKILL not in scene.process.signals
    silence(scene, monkeypatch, state, cpu, 2)
    assert signal.SIGKILL in scene.process.signals


def test_a_worker_that_gets_no_cpu_is_not_to_blame(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.say(messages.Ready(1))
    silence(scene, monkeypatch, "R", 0.1, 60)
    assert scene.state.phase == "serving"
    assert scene.process.signals == []


def test_time_in_which_nobody_looked_does_not_count(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.say(messages.Ready(1))
    monkeypatch.setattr(handle_module, "vitals", lambda pid: Vitals("S", 0.0))
    scene.handle.tick(3600.0)  # we were stopped ourselves
    assert scene.process.signals == []


def test_an_answer_ends_the_silence(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.say(messages.Ready(1))
    silence(scene, monkeypatch, "S", 0.0, SILENT + 5)
    scene.say(messages.Pong(1, 0.25))
    assert (scene.state.phase, scene.state.lag, scene.state.problem) == ("serving", 0.25, "")
    silence(scene, monkeypatch, "S", 0.0, SILENT - 1)
    assert scene.state.phase == "serving"


def test_pings_do_not_pile_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.handle.tick(1.0)
    assert scene.heard() == [messages.Ping(1)]


def test_draining(scene: Scene) -> None:
    scene.say(messages.Ready(1))
    scene.handle.drain(0.01)
    assert scene.heard() == [messages.Drain(0.01)]
    scene.reactor.until(lambda: scene.process.signals, 3.0)
    assert scene.process.signals == [signal.SIGKILL]
    assert scene.handle.killed


def test_one_that_leaves_is_told_who_may_use_what_it_has_open_and_listens_nowhere(scene: Scene) -> None:
    scene.handle.tell(scene.target(1))
    scene.say(messages.Ready(1))
    scene.say(messages.Applied(1))
    scene.heard()
    scene.handle.drain(60.0)
    scene.handle.tell(scene.target(2, listeners=(MESH, PROXY), denied=("spiffe://example.test/host/h2",)))
    drain, news = scene.heard()
    assert drain == messages.Drain(60.0)
    assert news.snapshot.denied == ("spiffe://example.test/host/h2",)
    scene.say(messages.Applied(2))
    assert scene.heard() == []


def test_a_worker_that_somebody_else_told_to_drain(scene: Scene) -> None:
    scene.say(messages.Draining())
    assert scene.owner.events == ["leaving"]
    assert scene.state.phase == "draining"


def test_counters_and_description(scene: Scene) -> None:
    scene.say(messages.Telemetry(b"numbers", {"connections": 3}))
    assert scene.owner.events == [b"numbers"]
    assert scene.state.description == {"connections": 3}


def test_a_worker_whose_channel_broke_is_replaced_though_it_lives(scene: Scene) -> None:
    scene.say(messages.Ready(1))
    scene.worker.channel.close()
    scene.reactor.until(lambda: scene.process.signals, 3.0)
    assert scene.process.signals == [signal.SIGTERM]
    assert scene.owner.events == ["ready", "leaving"]


def test_a_service_that_is_wanted_comes_or_is_absent(scene: Scene) -> None:
    scene.handle.tell(scene.target(1, 1))
    scene.say(messages.Applied(1))
    scene.say(messages.Wanted("s1"))
    scene.say(messages.Wanted("nobody"))
    assert scene.owner.events == ["wants s1", "wants nobody"]
    scene.heard()
    scene.handle.tell(scene.target(2, 2))
    scene.handle.absent("nobody")
    scene.handle.absent("other", "Consul is away")
    change, *answers = scene.heard()
    assert "s1" in change.delta.services
    assert answers == [messages.Absent("nobody"), messages.Absent("other", "Consul is away")]


def test_what_is_wanted_while_it_is_on_its_way_is_not_asked_for_again(scene: Scene) -> None:
    """The worker asked before it had read what it was told; or an older update is still to be applied first."""
    scene.handle.tell(scene.target(1, 1))
    scene.handle.tell(scene.target(2, 2))
    scene.heard()
    scene.say(messages.Wanted("s0"))
    scene.say(messages.Wanted("s1"))
    assert scene.owner.events == []
    scene.handle.absent("s1")  # an answer to somebody else's question, from before
    scene.say(messages.Applied(1))
    (change,) = scene.heard()
    assert "s1" in change.delta.services


def test_a_worker_that_gets_no_more_updates_is_answered_with_words(scene: Scene) -> None:
    scene.handle.tell(scene.target(1, 1))
    scene.handle.drain(10.0)
    scene.heard()
    scene.say(messages.Wanted("s0"))
    assert scene.owner.events == ["wants s0"]
    scene.handle.absent("s0")
    assert scene.heard() == [messages.Absent("s0")]


def test_services_that_were_used(scene: Scene) -> None:
    scene.say(messages.Used(("payments", "stock")))
    assert scene.owner.events == [("payments", "stock")]


def test_an_adopted_worker_hands_over(reactor: TurnedReactor) -> None:
    scene = Scene(reactor, ADOPTED)
    scene.handle.ask_for_sockets()
    assert scene.heard() == [messages.HandOver()]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        scene.worker.channel.send(messages.Listen(MESH), listening.fileno())
        scene.say(messages.HandedOver())
        assert scene.owner.events == ["handed over"]
        assert scene.owner.sockets["mesh"].getsockname() == listening.getsockname()
    scene.owner.sockets["mesh"].close()
    assert not scene.handle.dismissed
    scene.worker.channel.close()
    reactor.until(lambda: "strayed" in scene.owner.events)
    assert scene.process.signals == []
    scene.close()
