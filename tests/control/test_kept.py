"""The last good catalog and policy on disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from hostproxy.control import kept as kept_module
from hostproxy.control.kept import Keeper, Kept, load, path_in, save
from hostproxy.discovery.catalog import Instance
from hostproxy.mesh.policy import Policy, ServicePolicy
from hostproxy.mesh.rules import Rule
from tests.control.conftest import TurnedReactor

KEPT = Kept(
    saved=12.5,
    catalog_path="/catalog.toml",
    catalog={"payments": (Instance("payments", "h1", "10.0.0.1:9000", tags=("blue",)),)},
    policy_path="/policy.toml",
    policy=Policy(services={"payments": ServicePolicy(allow=(Rule(("*",), (), (), "p:1"),))}),
)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    directory = str(tmp_path / "state")
    save(directory, KEPT)
    assert load(directory) == KEPT
    assert stat.S_IMODE(os.stat(path_in(directory)).st_mode) == 0o600
    assert os.listdir(directory) == ["last-good.msgpack"]


def test_many_services_and_a_large_one_come_back_too(tmp_path: Path) -> None:
    def instances(name: str, count: int) -> tuple[Instance, ...]:
        return tuple(Instance(name, f"h{number}", f"10.0.0.1:{number}") for number in range(count))

    catalog = {f"s{size}": instances(f"s{size}", size) for size in (*range(40), 255, 256, 257, 70_000)}
    kept = msgspec.structs.replace(KEPT, catalog=catalog)
    save(str(tmp_path), kept)
    assert load(str(tmp_path)) == kept


def test_what_cannot_be_used_is_nothing(tmp_path: Path) -> None:
    directory = str(tmp_path)
    assert load(directory) is None
    Path(path_in(directory)).write_bytes(b"\x81\xa1")
    assert load(directory) is None
    save(directory, msgspec.structs.replace(KEPT, format=kept_module.FORMAT + 1))
    assert load(directory) is None


def test_the_keeper_writes_the_newest_and_not_the_same_again(reactor: TurnedReactor, tmp_path: Path) -> None:
    directory = str(tmp_path / "state")
    keeper = Keeper(reactor, directory)
    replace = msgspec.structs.replace
    keeper.keep(KEPT)
    keeper.keep(replace(KEPT, saved=13.0, catalog={}))
    last = replace(KEPT, saved=14.0, catalog_path="/other")
    keeper.keep(last)
    reactor.until(lambda: load(directory) == KEPT)
    reactor.until(reactor.getDelayedCalls)
    (pause,) = reactor.getDelayedCalls()
    pause.reset(0)
    reactor.until(lambda: load(directory) == last)
    reactor.until(reactor.getDelayedCalls)
    (pause,) = reactor.getDelayedCalls()
    pause.reset(0)
    reactor.turns()
    before = os.stat(path_in(directory)).st_mtime_ns
    keeper.keep(replace(last, saved=99.0))
    reactor.turns()
    assert os.stat(path_in(directory)).st_mtime_ns == before
    assert keeper.problem == ""


def test_a_directory_that_cannot_be_written_is_a_problem_and_no_more(reactor: TurnedReactor, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    keeper = Keeper(reactor, str(blocked))
    keeper.keep(KEPT)
    reactor.until(lambda: keeper.problem)
    assert str(blocked) in keeper.problem
