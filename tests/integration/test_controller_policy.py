"""Policy on its way to hosts that carry traffic: pushed, refused, missed, taken back, and rolled out in waves."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fakes.client import connect
from tests.integration.controller_site import OPEN, Refused, Site, site, status, within
from tests.integration.host import Host, fetch
from tests.integration.load import Load
from tests.stopwatch import Stopwatch

SOON = 2.0  # seconds from the operator's command to all hosts
CLOSED = {"mesh.toml": '[defaults]\naccess = "deny"\n'}
TCP = '[service.s1-tcp]\nprotocol = "tcp"\n'
HOSTS = ("h1", "h2", "h3")
# A controller of another version: it applies what the hosts of this one do not understand.
CARELESS = "from controller.policy import files; files.check = lambda *_: (None, []); from controller.__main__ import *"


def version(number: int) -> dict[str, str]:
    """An open policy that differs from that of another number."""
    return {"mesh.toml": f'# {number}\n[defaults]\naccess = "allow"\n{TCP}'}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three hosts that are told by the controller: by themselves they ask once in a minute."""
    with site(tmp_path_factory.mktemp("policy")) as made:
        made.host("s1", "s1-tcp")
        made.host("s2").add_upstream("s1-tcp")
        made.host("s3")
        for name, host in made.hosts.items():
            host.add_upstream(f"s{name[1:]}")  # its own
            host.add_upstream("s1")
        made.controller.apply(version(0))
        made.join()
        yield made


@pytest.fixture
def calm(mesh: Site) -> Iterator[Site]:
    """All hosts with the same open policy, before and after."""
    yield mesh
    mesh.broken.clear()
    assert set(mesh.controller.states()) == set(HOSTS)
    mesh.controller.await_generation(mesh.controller.apply(version(time.monotonic_ns())))


def port(host: Host, service: str = "") -> str:
    """The port of ``host`` that leads to a service, by default its own."""
    wanted = service or f"s{host.name[1:]}"
    return next(str(each["listen"]) for each in host.conf["outbound"]["upstream"] if each["service"] == wanted)


def test_a_change_is_everywhere_at_once(calm: Site) -> None:
    h1, h2, h3 = calm.hosts.values()
    assert status(h2, "s1") == status(h3, "s1") == 200
    changing = Stopwatch()
    generation = calm.controller.apply(CLOSED)
    within(SOON, lambda: status(h2, "s1") == status(h3, "s1") == 403)
    calm.controller.await_generation(generation, timeout=SOON)
    assert changing.seconds < SOON
    assert [state for state, _ in calm.controller.states().values()] == ["SYNCED"] * 3
    rolled = calm.controller.operate("policy", "rollback", str(generation - 1))
    assert rolled.returncode == 0, rolled.stdout + rolled.stderr
    within(SOON, lambda: status(h1, "s2") == 200)
    assert calm.controller.get("/v1/policy")["generations"][0]["restored"] == generation - 1


def test_thirty_changes_under_load(calm: Site) -> None:
    with Load(port(calm.hosts["h2"], "s1")) as load:
        for number in range(30):
            generation = calm.controller.apply(version(number))
        calm.controller.await_generation(generation, timeout=SOON)
        load.more(50)
    assert load.failures == []
    assert all(host.metric("process_restarts_total") == 0 for host in calm.hosts.values())


def test_what_hosts_refuse_is_seen_and_does_no_harm(calm: Site) -> None:
    controller = calm.controller
    controller.stop()
    controller.start("-c", f"{CARELESS}; main()")
    with Load(port(calm.hosts["h2"])) as load:
        bad = controller.apply({"mesh.toml": OPEN["mesh.toml"], "s1.toml": "[service.s1]\n\nnew_key = 1\n"})
        within(SOON, lambda: {state for state, _ in controller.states().values()} == {"ERROR"})
        row = controller.host("h1")
        assert (row["generation"], row["wanted"]) == (bad - 1, bad)
        assert any("s1.toml:3" in problem and "new_key" in problem for problem in row["problems"])
        shown = controller.operate("hosts")
        assert "ERROR" in shown.stdout
        assert "s1.toml:3" in shown.stdout
        within(SOON, lambda: "s1.toml:3" in str(calm.hosts["h1"].ask_json("/status")["degraded"]))
        good = controller.apply(version(-1))
        controller.await_generation(good, timeout=SOON)
        load.more(50)
    assert load.failures == []
    assert {state for state, _ in controller.states().values()} == {"SYNCED"}
    controller.stop()
    controller.start()


def test_who_was_away_gets_it_on_return(calm: Site) -> None:
    away = calm.hosts["h3"]
    assert away.stop() == 0
    calm.controller.await_generation(calm.controller.apply(version(-2)), "h1", "h2")
    generation = calm.controller.apply(CLOSED)
    calm.controller.await_generation(generation, "h1", "h2")
    assert calm.controller.states()["h3"] == ("STALE", generation - 2)
    returning = Stopwatch()
    away.start().wait_ready()
    assert status(away, "s3") in (200, 403)  # it serves with what it had
    calm.controller.await_generation(generation, timeout=5)
    assert returning.seconds < 6
    assert status(away, "s3") == 403


def waves(calm: Site, files: dict[str, str], **plan: object) -> int:
    """Roll out in two waves: one host, and all."""
    return calm.controller.apply(files, plan={"waves": ["1", "100%"], "hold": 1.0, "patience": 2.0, **plan})


def test_waves_that_go_well_reach_all(calm: Site) -> None:
    controller = calm.controller
    with Load(port(calm.hosts["h1"]), clients=2) as load:
        generation = waves(calm, version(-3), patience=10.0)
        first, second = controller.rollout()["waves"]
        assert (len(first), len(second)) == (1, 2)
        within(SOON, lambda: controller.states()[first[0]][1] == generation)
        assert all(controller.states()[name][1] == generation - 1 for name in second)
        within(15, lambda: controller.rollout()["phase"] != "running")
        assert controller.rollout()["phase"] == "done", controller.rollout()["reason"]
        controller.await_generation(generation)
        within(5, lambda: all(controller.host(name)["confirmed"] for name in HOSTS))
        assert controller.states() == dict.fromkeys(HOSTS, ("SYNCED", generation))
    assert load.failures == []


@pytest.fixture
def eager(calm: Site) -> Site:
    """Hosts that say every second how they are."""
    for host in calm.hosts.values():
        if host.conf["controller"]["interval"] != "1s":
            host.conf["controller"]["interval"] = "1s"
            host.write_conf()
            host.reload()
    for host in calm.hosts.values():
        within(5, lambda host=host: host.ask_json("/status")["reloads"]["succeeded"] > 1)
    within(5, lambda: {state for state, _ in calm.controller.states().values()} == {"SYNCED"})
    return calm


def _call_on(address: str, ended: threading.Event) -> None:
    while not ended.wait(0.005):
        fetch(address)


def test_a_wave_whose_host_gets_failures_is_taken_back(eager: Site) -> None:
    controller = eager.controller
    generation = waves(eager, version(-4))
    [name], _ = controller.rollout()["waves"]
    eager.broken.add(f"s{name[1:]}")
    with ThreadPoolExecutor(1) as pool:
        ended = threading.Event()
        pool.submit(_call_on, port(eager.hosts[name]), ended)
        try:
            within(12, lambda: controller.rollout()["phase"] != "running")
        finally:
            ended.set()
    found = controller.rollout()
    assert found["phase"] == "stopped"
    assert "requests fail" in found["reason"]
    controller.await_generation(generation + 1)
    newest = controller.get("/v1/policy")["generations"][0]
    assert newest["restored"] == generation - 1
    assert [line["result"] for line in controller.audit() if line["act"] == "rollout.end"][-1] == "refused"


def test_a_wave_goes_back_by_itself_when_the_controller_is_killed(eager: Site) -> None:
    controller = eager.controller
    began = time.monotonic()
    generation = waves(eager, CLOSED)
    [name], others = controller.rollout()["waves"]
    host = eager.hosts[name]
    within(SOON, lambda: status(host, f"s{name[1:]}") == 403)
    controller.kill()
    assert all(status(eager.hosts[other], f"s{other[1:]}") == 200 for other in others)
    within(7, lambda: status(host, f"s{name[1:]}") == 200, "it did not go back")
    assert time.monotonic() - began > 3
    within(SOON, lambda: "was not confirmed" in str(host.ask_json("/status")["degraded"]))
    controller.start()
    within(10, lambda: controller.rollout()["phase"] == "stopped")
    assert name in controller.rollout()["reason"]
    controller.await_generation(generation + 1)
    assert all(status(eager.hosts[each], f"s{each[1:]}") == 200 for each in HOSTS)


def test_a_denied_host_is_out_until_it_is_allowed(eager: Site) -> None:
    controller, (h1, h2, h3) = eager.controller, eager.hosts.values()
    assert status(h2, "s1") == status(h1, "s2") == 200
    with connect(port(h2, "s1-tcp")) as tunnel, Load(port(h1)) as load:
        tunnel.sendall(b"hello")
        assert tunnel.recv(10) == b"hello"
        denied = Stopwatch()
        controller.post("/v1/hosts/h2/deny", reason="it was stolen")
        tunnel.settimeout(10)
        try:
            assert tunnel.recv(10) == b""
        except ConnectionResetError:
            pass
        assert denied.seconds < 5
        assert status(h2, "s1") != 200
        assert status(h1, "s2") != 200
        assert status(h3, "s2") != 200
        assert status(h3, "s1") == status(h1, "s3") == 200
        assert controller.host("h2")["denied"]
        controller.post("/v1/hosts/h2/allow")
        within(10, lambda: status(h1, "s2") == status(h2, "s1") == 200)
        load.more(20)
    assert load.failures == []


def test_a_store_from_a_backup_does_not_pass_for_what_hosts_have(eager: Site, tmp_path: Path) -> None:
    controller = eager.controller
    controller.stop()
    shutil.copytree(controller.directory / "state", tmp_path / "state")
    controller.start()
    generation = controller.apply(CLOSED)
    controller.await_generation(generation)
    controller.stop()
    for path in (tmp_path / "state").glob("controller.db*"):
        shutil.copy(path, controller.directory / "state" / path.name)
    controller.start()
    within(5, lambda: {number for _, number in controller.states().values()} == {generation})
    assert {state for state, _ in controller.states().values()} == {"ERROR"}
    with pytest.raises(Refused, match="raise-epoch"):
        controller.apply(version(-5))
    raised = controller.operate("policy", "raise-epoch")
    assert raised.returncode == 0, raised.stdout + raised.stderr
    within(5, lambda: {state for state, _ in controller.states().values()} == {"SYNCED"})
    assert all(status(host, f"s{name[1:]}") == 200 for name, host in eager.hosts.items())
    assert controller.host("h1")["epoch"] == 2
