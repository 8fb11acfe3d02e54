from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hostproxy.identity import processes
from hostproxy.identity.processes import Cgroups, hierarchy, template, unit_of, unit_of_process
from hostproxy.identity.sockets import Unknown
from tests.identity.calling import ROOT, Call, Listening, call, listen, make_cgroup, needs_cgroups

__all__ = ["call", "listen", "make_cgroup"]


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/payments.service", "payments.service"),
        ("/system.slice/payments.service/payload", "payments.service"),
        ("/system.slice/system-payments.slice/payments@1.service", "payments@1.service"),
        ("/init.scope", "init.scope"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        # What a user, a container or a delegated service calls payments.service is not that unit.
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/payments.service", "user@1000.service"),
        ("/machine.slice/systemd-nspawn@x.service/payload/system.slice/payments.service", "systemd-nspawn@x.service"),
        ("/docker/0123/system.slice/payments.service", ""),
        ("/../system.slice/payments.service", ""),
        ("/system.slice/_cpu.service", "cpu.service"),
        ("/system.slice/payments.service (deleted)", ""),
        ("/system.slice", ""),
        ("/", ""),
        ("", ""),
    ],
)
def test_the_unit_of_a_path(path: str, unit: str) -> None:
    assert unit_of(path) == unit


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        ("payments@1.service", "payments@.service"),
        ("payments@1.2@3.service", "payments@.service"),
        ("payments.service", ""),
        ("", ""),
    ],
)
def test_the_template_of_an_instance(unit: str, name: str) -> None:
    assert template(unit) == name


@pytest.mark.parametrize(
    ("mounts", "root"),
    [
        ("83 140 0:38 / /sys/fs/cgroup rw,nosuid shared:16 - cgroup2 cgroup rw\n", "/sys/fs/cgroup"),
        (
            "1 2 0:9 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n3 1 0:8 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            "/sys/fs/cgroup/unified",
        ),
        ("3 1 0:8 / /mnt/a\\040b rw shared:1 master:2 - cgroup2 none rw\n", "/mnt/a b"),
        ("3 1 0:8 /user.slice /mnt rw - cgroup2 none rw\n", ""),
        ("3 1 0:8 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n", ""),
        ("", ""),
    ],
)
def test_where_the_hierarchy_is(tmp_path: Path, mounts: str, root: str) -> None:
    (tmp_path / "mountinfo").write_text(mounts)
    assert hierarchy(str(tmp_path / "mountinfo")) == root
    assert hierarchy(str(tmp_path / "none")) == ""


class Tree:
    """A hierarchy of ordinary directories, and how often it was looked at."""

    def __init__(self, root: Path, *wanted: str) -> None:
        self.root = root
        self.now = 100.0
        self.cgroups = Cgroups(wanted, str(root), lambda: self.now)

    def make(self, path: str) -> int:
        whole = self.root / path
        whole.mkdir(parents=True)
        return whole.stat().st_ino

    def unit(self, cgroup: int, uid: int = 1000) -> str:
        return self.cgroups.unit(cgroup, uid)


def test_cgroups_of_units(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "payments.service", "cart@.service")
    payments = tree.make("system.slice/payments.service")
    below = tree.make("system.slice/payments.service/payload/deep")
    cart = tree.make("system.slice/system-cart.slice/cart@1.service")
    of_cart = tree.make("system.slice/system-cart.slice/cart@1.service/cart.service")
    assert [tree.unit(number) for number in (payments, below, cart, of_cart)] == [
        "payments.service",
        "payments.service",
        "cart@1.service",
        "cart@1.service",
    ]


def test_a_unit_that_is_made_within_another_is_not_that_unit(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "payments.service")
    forged = tree.make("user.slice/user-1000.slice/user@1000.service/app.slice/payments.service")
    other = tree.make("user.slice/user-1000.slice/user@1000.service/system.slice/payments.service")
    assert tree.unit(forged) == tree.unit(other) == ""


def test_units_that_start_later_are_found(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "payments.service")
    first = tree.make("system.slice/payments.service")
    assert tree.unit(first) == "payments.service"
    (tmp_path / "system.slice/payments.service").rename(tmp_path / "gone")
    assert tree.unit(tree.make("system.slice/payments.service")) == "payments.service"


def test_what_is_known_costs_no_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(tmp_path, "payments.service")
    payments = tree.make("system.slice/payments.service")
    tree.unit(payments)
    tree.unit(12345)
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail("looked again"))
    assert tree.unit(payments) == "payments.service"
    assert tree.unit(12345) == ""


def test_new_cgroups_of_one_user_do_not_take_the_looks_of_others(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "payments.service")
    for number in range(processes.LOOKS):
        assert tree.unit(900_000 + number) == ""
    payments = tree.make("system.slice/payments.service")
    with pytest.raises(Unknown) as raised:
        tree.unit(payments)
    assert raised.value.reason == "busy"
    assert tree.unit(payments, uid=4001) == "payments.service"
    tree.now += 1.0
    assert tree.unit(tree.make("system.slice/payments.service/new")) == "payments.service"


def test_numbers_that_are_remembered_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAX_OTHERS", 3)
    tree = Tree(tmp_path, "payments.service")
    for number in range(10):
        tree.unit(900_000 + number)
    assert len(tree.cgroups._others) <= 3


def test_a_unit_with_too_many_cgroups_does_not_hide_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAX_BELOW", 5)
    tree = Tree(tmp_path, "a.service", "b.service")
    for number in range(20):
        tree.make(f"system.slice/a.service/{number}")
    below = tree.make("system.slice/b.service/payload")
    assert tree.unit(below) == "b.service"
    assert len(tree.cgroups._units) == 2 + 5 + 1


def test_without_a_hierarchy_nothing_is_known() -> None:
    with pytest.raises(Unknown) as raised:
        Cgroups(("payments.service",), "", lambda: 0.0).unit(5, 1000)
    assert raised.value.reason == "cgroups"


@needs_cgroups
def test_cgroups_of_the_kernel(make_cgroup: Callable[[str], str]) -> None:
    cgroups = Cgroups(("hostproxytest.service",), ROOT, lambda: 0.0)
    for path in ("hostproxytest.service", "hostproxytest.service/payload"):
        assert cgroups.unit(os.stat(make_cgroup(path)).st_ino, 0) == "hostproxytest.service"


# Processes


@pytest.fixture
def descriptor() -> Iterator[Callable[[int], int]]:
    opened: list[int] = []

    def open_(pid: int) -> int:
        opened.append(os.pidfd_open(pid))
        return opened[-1]

    yield open_
    for one in opened:
        os.close(one)


@needs_cgroups
@pytest.mark.parametrize("with_descriptor", [True, False])
def test_the_unit_of_a_process(
    listen: Callable[..., Listening],
    call: Call,
    make_cgroup: Callable[[str], str],
    descriptor: Callable[[int], int],
    with_descriptor: bool,
) -> None:
    path = make_cgroup("payments.service/payload")
    server = listen()
    pid = call(server.address, 4001, path).pid
    assert unit_of_process(pid, 4001, descriptor(pid) if with_descriptor else None) == "payments.service"


def reason(pid: int, uid: int, descriptor: int | None = None) -> str:
    with pytest.raises(Unknown) as raised:
        unit_of_process(pid, uid, descriptor)
    return raised.value.reason


def test_who_has_gone_is_nobody(descriptor: Callable[[int], int]) -> None:
    process = subprocess.Popen(["sleep", "100"])
    pidfd = descriptor(process.pid)
    unit_of_process(process.pid, os.getuid(), pidfd)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert reason(process.pid, os.getuid(), pidfd) == "gone"  # a zombie still has its number
    process.wait()
    assert reason(process.pid, os.getuid()) == "gone"


def test_another_process_with_the_number_is_not_taken_for_it(descriptor: Callable[[int], int]) -> None:
    process = subprocess.Popen(["sleep", "100"])
    pidfd = descriptor(process.pid)
    process.kill()
    process.wait()
    ours = os.getpid()  # as if it had got the number
    assert reason(ours, os.getuid(), pidfd) == "gone"
    assert reason(ours, os.getuid() + 1) == "gone"  # older kernels: only its user gives it away


def test_a_process_of_another_namespace() -> None:
    assert reason(0, 1000) == "namespace"
