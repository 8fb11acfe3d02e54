"""kill -9 at every step of taking a bundle: afterwards it is the old one or the new one, never none, never older."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock

from hostproxy.mesh.bundle import raw_public_key
from hostproxy.mesh.policy import parse_files
from hostproxy.steering.bundles import Bundles
from hostproxy.steering.keeper import Keeper
from hostproxy.steering.record import Disk, Record
from tests.fakes.fake_controller import ALLOW, DENY, HOST, MESH, FakeController

STEPS = ("open", "fchmod", "fsync", "rename", "unlink", "link", "makedirs")


def host(directory: Path) -> tuple[Keeper, Bundles]:
    """What a host has after a start."""
    disk = Disk(str(directory))
    keeper = Keeper(disk, execute)
    keeper.start()
    bundles = Bundles(Clock(), keeper, disk, parse_files, time.time, execute, lambda: None)
    bundles.start()
    return keeper, bundles


def fresh(directory: Path, fake: FakeController) -> Bundles:
    keeper, bundles = host(directory)
    record = Record(
        trust_domain=MESH, host=HOST, roots=fake.authority.roots, signers=(raw_public_key(fake.signer),)
    )
    done(keeper.change(lambda _: record))
    return bundles


def done(deferred: Deferred[Any]) -> Any:
    """Nothing here waits for anything."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert len(results) == 1
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return results[0]


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Do it in a process of its own that dies before its ``step``-th system call; whether it got to the end."""
    child = os.fork()
    if child == 0:
        left = step

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def counting(*args: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **options)

            return counting

        try:
            for name in STEPS:
                setattr(os, name, counted(getattr(os, name)))
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status)


def test_a_kill_at_every_step(tmp_path: Path) -> None:
    fake = FakeController(None, tmp_path / "authority")
    older, old = fake.seal(ALLOW), fake.seal(DENY)
    new = fake.seal(ALLOW)
    step, died, generations = 0, 0, []
    while True:
        directory = tmp_path / f"state-{step}"
        bundles = fresh(directory, fake)
        done(bundles.take(old))
        said = tmp_path / "said"
        said.write_bytes(b"")

        def work() -> None:
            _, child = host(directory)  # noqa: B023
            descriptor = os.open(said, os.O_WRONLY)  # noqa: B023
            child.policy.subscribe(lambda _: os.write(descriptor, b"in force"))
            done(child.take(new))

        ended = killed_at(step, work)
        _, after = host(directory)
        assert after.current is not None, f"nothing is left after step {step}"
        generation = after.current.bundle.manifest.generation
        assert generation in (2, 3)
        assert after.policy.value.default_access == ("allow" if generation == 3 else "deny")
        if said.read_bytes():
            assert generation == 3, f"what was in force is lost after step {step}"
        done(after.take(older))
        assert after.state == "refused", f"an older one is taken after step {step}"
        done(after.take(new))
        assert after.state == "applied"
        assert not [path for path in directory.rglob(".*") if path.is_file()], "something is left over"
        generations.append(generation)
        died += not ended
        step += 1
        if ended:
            break
    assert died >= 20
    assert generations == sorted(generations), "once it is the new one it stays"
    assert set(generations) == {2, 3}


def test_a_kill_while_going_back(tmp_path: Path) -> None:
    fake = FakeController(None, tmp_path / "authority")
    old, trial = fake.seal(DENY), fake.seal(ALLOW, confirm_within=0.001)
    step = 0
    while True:
        directory = tmp_path / f"state-{step}"
        bundles = fresh(directory, fake)
        done(bundles.take(old))
        done(bundles.take(trial))
        time.sleep(0.002)
        ended = killed_at(step, lambda: host(directory) and None)  # noqa: B023
        for _ in range(2):
            _, after = host(directory)
            assert after.policy.value.default_access == "deny"
            assert after.state == "reverted"
        done(after.take(trial))
        assert after.state == "refused"
        step += 1
        if ended:
            break
    assert step > 10
