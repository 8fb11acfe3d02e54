from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hostproxy.identity import workload
from hostproxy.identity.sockets import Owner, Unknown
from hostproxy.identity.workload import NO_SERVICE, Workloads
from tests.identity.calling import Call, Listening, call, listen, make_cgroup, needs_cgroups, needs_root
from tests.support import descriptors

__all__ = ["call", "listen", "make_cgroup"]

Listen = Callable[..., Listening]
MakeCgroup = Callable[[str], str]


class Is(NamedTuple):
    service: str
    unit: str = ""
    user: int | None = None


@pytest.fixture
def decide() -> Iterator[Callable[..., Workloads]]:
    made: list[Workloads] = []

    def make(*rules: Is) -> Workloads:
        made.append(Workloads(rules, lambda: 0.0))
        return made[-1]

    yield make
    for one in made:
        one.close()


Decide = Callable[..., Workloads]

ABSTRACT = f"hostproxytest-{os.getpid()}"  # a Unix socket without a file, so that every user may connect


@needs_root
def test_services_by_user(decide: Decide, listen: Listen, call: Call) -> None:
    workloads = decide(Is("cart", user=4001), Is("payments", user=4002))
    server = listen()
    for uid, service in ((4001, "cart"), (4002, "payments"), (4003, "")):
        call(server.address, uid)
        verdict = workloads.caller(server.accept())
        assert (verdict.service, verdict.uid) == (service, uid)
    assert verdict.reason == NO_SERVICE
    assert "user 4003" in verdict.text


@needs_cgroups
@pytest.mark.parametrize("unix", [False, True])
def test_services_by_unit(decide: Decide, listen: Listen, call: Call, make_cgroup: MakeCgroup, unix: bool) -> None:
    workloads = decide(
        Is("cart", "cart.service"),
        Is("payments", "payments@.service"),
        Is("web", user=4001),
        Is("x", "x.service", 4002),
    )
    server = listen(socket.AF_UNIX, f"\0{ABSTRACT}") if unix else listen()
    address = f"@{ABSTRACT}" if unix else server.address
    for path, uid, service in (
        ("cart.service", 4001, "cart"),  # the unit wins over the user
        ("cart.service/payload", 4001, "cart"),
        ("payments@2.service", 4003, "payments"),
        ("user@4003.service/cart.service", 4003, ""),  # not the cart, although it says so
        ("other.service", 4001, "web"),
        ("other.service", 4003, ""),
        ("x.service", 4002, "x"),
        ("x.service", 4003, ""),
        ("x.service", 4001, "web"),
    ):
        call(address, uid, make_cgroup(path))
        verdict = workloads.caller(server.accept())
        assert (verdict.service, verdict.uid) == (service, uid), path


@needs_root
def test_a_unix_socket_by_user(decide: Decide, listen: Listen, call: Call) -> None:
    workloads = decide(Is("cart", user=4001))
    server = listen(socket.AF_UNIX, f"\0{ABSTRACT}")
    call(f"@{ABSTRACT}", 4001)
    assert workloads.caller(server.accept()).service == "cart"
    call(f"@{ABSTRACT}", 4002)
    assert workloads.caller(server.accept()).reason == NO_SERVICE


class Diag:
    """A kernel that says this."""

    def __init__(self, owner: Owner | Unknown) -> None:
        self._owner = owner
        self.closed = False

    def owner(self, accepted: socket.socket) -> Owner:
        if isinstance(self._owner, Unknown):
            raise self._owner
        return self._owner

    def close(self) -> None:
        self.closed = True


def told(owner: Owner | Unknown, *rules: Is, root: str = "") -> workload.Verdict:
    with socket.socket() as sock:
        diag: Any = Diag(owner)
        return Workloads(rules, lambda: 0.0, diag, lambda: root).caller(sock)


def test_nothing_is_guessed() -> None:
    user, unit = Is("web", user=4001), Is("cart", "cart.service")
    assert told(Owner(4001, 0), user).service == "web"
    # It could be the cart, so that it is the web cannot be said.
    assert told(Owner(4001, 0), user, unit, root="/sys").reason == "cgroups"
    assert told(Owner(4001, 7), user, unit).reason == "cgroups"
    verdict = told(Unknown("gone", "it went"), user)
    assert verdict == ("", -1, "", "gone", "it went")


def test_the_most_exact_rule_wins(tmp_path: Path) -> None:
    directory = tmp_path / "system.slice" / "php@1.service"
    directory.mkdir(parents=True)
    number = directory.stat().st_ino
    rules = [
        Is("both", "php@1.service", 4001),
        Is("unit", "php@1.service"),
        Is("some", "php@.service", 4002),
        Is("template", "php@.service"),
        Is("user", user=4001),
    ]
    found = []
    while rules:
        found.append([told(Owner(uid, number), *rules, root=str(tmp_path)).service for uid in (4001, 4002)])
        del rules[0]
    assert found == [["both", "unit"], ["unit", "unit"], ["template", "some"], ["template"] * 2, ["user", ""]]


def test_a_host_without_the_hierarchy_says_so() -> None:
    diag: Any = Diag(Owner(1, 1))
    workloads = Workloads([Is("cart", "cart.service")], lambda: 0.0, diag, lambda: "")
    assert "cgroup v2" in workloads.problem
    workloads.change([Is("cart", user=1)])
    assert not workloads.problem
    assert workloads.active
    workloads.change([])
    assert not workloads.active


@pytest.mark.parametrize("unix", [False, True])
def test_nothing_stays_open(listen: Listen, call: Call, unix: bool) -> None:
    server = listen(socket.AF_UNIX, f"\0{ABSTRACT}") if unix else listen()
    call(f"@{ABSTRACT}" if unix else server.address)
    accepted = server.accept()
    before = descriptors()
    workloads = Workloads([Is("cart", user=os.getuid()), Is("web", "web.service")], lambda: 0.0)
    for _ in range(3):
        workloads.caller(accepted)
    workloads.close()
    assert descriptors() == before
