"""In whose name a local connection calls, when conf.toml says which units and users are which services."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from hostproxy.snapshot import Local, Workload
from tests.datapath import Host, make_host, place, service, snapshot
from tests.identity.crafting import TRUST_DOMAIN
from tests.support import Listening, Loop, loop

__all__ = ["loop", "make_host"]

Make = Callable[..., Host]

END = b"\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n"
WE = os.getuid()
WEB = Workload("web", user=WE)
OTHERS = Workload("web", user=WE + 1)


def near(make_host: Make, loop: Loop, *workloads: Workload, protocol: str = "http") -> tuple[Host, Listening]:
    origin = Listening(loop)
    far = make_host(snapshot(locals_=(Local("payments", protocol, (origin.address,)),), names=("host", "payments")))
    there = service("payments", place(f"127.0.0.1:{far.listen('mesh')[1]}"), protocol=protocol)
    return make_host(snapshot((there,), names=("host", "cart", "web"), workloads=workloads)), origin


@pytest.mark.parametrize("path", [False, True])
def test_the_kernel_says_who_calls_whatever_the_port(make_host: Make, loop: Loop, tmp_path, path: bool) -> None:  # type: ignore[no-untyped-def]
    host, origin = near(make_host, loop, WEB)
    client = host.client(host.listen("proxy", caller="cart", path=str(tmp_path / "s") if path else ""))
    client.send(REQUEST)
    head = origin.accept().until(END)
    assert f"URI=spiffe://{TRUST_DOMAIN}/service/web\r\n".encode() in head
    assert host.counts("caller_lookups_total") == {("ok",): 1}


def test_who_is_no_service_is_refused(make_host: Make, loop: Loop) -> None:
    host, _ = near(make_host, loop, OTHERS)
    client = host.client(host.listen("proxy", caller=""))
    client.send(REQUEST)
    answer = client.until(b"(UAEX)\n")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert f"user {WE}".encode() in answer
    client.send(REQUEST)
    assert client.until(END).startswith(b"HTTP/1.1 403 ")
    assert host.flags() == ["UAEX", "UAEX"]
    assert host.counts("caller_lookups_total") == {("no-service",): 1}


def test_a_port_for_known_callers_lets_nobody_in_when_none_can_be_known(make_host: Make, loop: Loop) -> None:
    """As with a service whose user this host doesn't have."""
    host, _ = near(make_host, loop)
    client = host.client(host.listen("proxy", caller=""))
    client.send(REQUEST)
    assert client.until(END).startswith(b"HTTP/1.1 403 ")


def test_a_connection_of_no_service_is_closed(make_host: Make, loop: Loop) -> None:
    host, _ = near(make_host, loop, OTHERS, protocol="tcp")
    client = host.client(host.listen("upstream", "payments", caller=""))
    loop.until(lambda: host.flags() == ["UAEX"])
    client.read()
    assert client.end == "reset"
    (record,) = host.records.lines
    assert (record.dir, record.source, record.dest) == ("outbound", "unknown", "payments")


def test_who_is_no_service_is_the_plain_choice_of_the_port(make_host: Make, loop: Loop) -> None:
    host, origin = near(make_host, loop, OTHERS)
    client = host.client(host.listen("proxy", caller="cart"))
    client.send(REQUEST)
    assert f"URI=spiffe://{TRUST_DOMAIN}/service/cart\r\n".encode() in origin.accept().until(END)


def test_changed_units_and_users_hold_for_new_connections(make_host: Make, loop: Loop) -> None:
    host, _ = near(make_host, loop, WEB)
    address = host.listen("proxy", caller="")
    host.apply(workloads=(OTHERS,))
    client = host.client(address)
    client.send(REQUEST)
    assert client.until(END).startswith(b"HTTP/1.1 403 ")
