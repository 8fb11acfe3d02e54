"""Routes as the requests of local apps meet them: real listeners, connections and instances, one worker's tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from hostproxy.mesh.retries import Retry
from hostproxy.mesh.routes import Match, Route, Share
from hostproxy.snapshot import Service
from tests.datapath import Host, make_host, place, service, snapshot
from tests.support import Listening, Loop, Peer, loop

__all__ = ["loop", "make_host"]

Make = Callable[..., Host]

END = b"\r\n\r\n"


class Origin:
    """An instance that answers with its name when told to."""

    def __init__(self, loop: Loop, name: str) -> None:
        self.name = name
        self.listening = Listening(loop)
        self.peers: list[Peer] = []

    def requested(self) -> Peer | None:
        """A connection with a whole request on it."""
        if (fresh := self.listening.pending()) is not None:
            self.peers.append(fresh)
        for peer in self.peers:
            peer.read()
            if END in peer.received:
                peer.until(END)
                return peer
        return None

    def answer(self, peer: Peer, status: bytes = b"200 OK") -> None:
        body = self.name.encode()
        peer.send(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))


class Mesh:
    """The service payments with the subsets v1 and v2, and one instance of each; ``whole`` is a third."""

    def __init__(self, loop: Loop, make: Make, *routes: Route, **policy: Any) -> None:
        self.loop = loop
        self.origins = {name: Origin(loop, name) for name in ("whole", "v1", "v2")}
        self.policy = policy
        self.host = make(snapshot(tuple(self.services(*routes).values())))
        self.address = self.host.listen("proxy")
        self.client = self.host.client(self.address)

    def services(self, *routes: Route, **changed: Any) -> dict[str, Service]:
        """As compiled from a policy with these routes."""
        at = {name: place(one.listening.address, secure=False) for name, one in self.origins.items()}
        policy = {**self.policy, **changed}
        return {
            "payments": service("payments", at["whole"], routes=routes, **policy),
            "v1.payments": service("payments", at["v1"], subset="v1", **policy),
            "v2.payments": service("payments", at["v2"], subset="v2", **policy),
        }

    def send(self, target: str = "/", *fields: str, name: str = "payments", method: str = "GET") -> None:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {name}", *fields, "", ""]
        self.client.send("\r\n".join(lines).encode())

    def asked(self) -> tuple[Origin, Peer]:
        """Who got the request, and on which connection."""

        def found() -> tuple[Origin, Peer] | None:
            for origin in self.origins.values():
                if (peer := origin.requested()) is not None:
                    return origin, peer
            return None

        return self.loop.until(found)

    def call(self, target: str = "/", *fields: str, **more: str) -> str:
        """Send a request; who answered it."""
        self.send(target, *fields, **more)
        origin, peer = self.asked()
        origin.answer(peer)
        assert self.client.until(END).startswith(b"HTTP/1.1 200 ")
        return self.client.until(len(origin.name)).decode()


def to(*subsets: str, **parts: Any) -> Route:
    """A route to these subsets, in equal parts."""
    more = {key: parts.pop(key) for key in ("timeout", "retry", "name", "source") if key in parts}
    return Route(Match(**parts), tuple(Share(subset) for subset in subsets), **more)


CANARY = to("v2", headers=(("x-canary", "yes"),), name="canary")


def test_requests_go_where_the_first_matching_route_says(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(loop, make_host, CANARY, to("v1", path_prefix="/old/"), to("v2", path_prefix="/old/v2/"))
    assert mesh.call("/", "X-Canary: yes") == "v2"
    assert mesh.call("/old/v2/x") == "v1"
    assert mesh.call("/old/v2/x", "X-Canary: yes") == "v2"
    assert mesh.call("/", "X-Canary: no") == "whole"
    assert mesh.call("/") == "whole"


def test_a_split_divides_requests_as_its_weights_say(make_host: Make, loop: Loop) -> None:
    split = Route(split=(Share("v2", 10), Share("v1", 90)), name="canary")
    mesh = Mesh(loop, make_host, split)
    answers = Counter(mesh.call() for _ in range(2000))
    assert set(answers) == {"v1", "v2"}
    assert 120 <= answers["v2"] <= 280, "six standard deviations around 200"
    counted = {
        subset: mesh.host.metrics.requests("outbound", "cart", "payments", "canary", False, subset).codes
        for subset in ("v1", "v2")
    }
    assert counted == {subset: {(b"GET", 200, "-"): answers[subset]} for subset in ("v1", "v2")}
    assert mesh.host.traffic._tables is not None
    assert mesh.host.traffic._tables.used() == ("payments",)


def test_who_names_a_subset_has_chosen(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(loop, make_host, to("v2"))
    assert mesh.call(name="v1.payments") == "v1"
    assert mesh.call() == "v2"
    upstream = mesh.host.client(mesh.host.listen("upstream", "v1.payments"))
    upstream.send(b"GET / HTTP/1.1\r\nHost: payments\r\n\r\n")
    assert mesh.asked()[0].name == "v1"


def test_an_upstream_to_the_service_is_routed(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(loop, make_host, CANARY)
    upstream = mesh.host.client(mesh.host.listen("upstream", "payments"))
    upstream.send(b"GET / HTTP/1.1\r\nHost: whatever\r\nX-Canary: yes\r\n\r\n")
    assert mesh.asked()[0].name == "v2"


def test_log_and_counters_name_route_and_subset(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(loop, make_host, CANARY, to(path="/slow", source="payments.toml:20", timeout=9.0))
    mesh.call("/", "X-Canary: yes")
    mesh.call("/slow")
    mesh.call("/")
    mesh.call(name="v1.payments")
    expected = [("canary", "v2"), ("payments.toml:20", ""), ("", ""), ("", "v1")]
    assert [(one.route, one.subset) for one in mesh.host.records.lines] == expected
    assert {one.dest for one in mesh.host.records.lines} == {"payments"}
    for route, subset in [("canary", "v2"), ("", "v1")]:
        series = mesh.host.metrics.requests("outbound", "cart", "payments", route, False, subset)
        assert sum(series.codes.values()) == 1
    # The number of a line is no label: with the next edit it would be that of another route.
    series = mesh.host.metrics.requests("outbound", "cart", "payments", "", False, "")
    assert sum(series.codes.values()) == 2


# Timeouts


def waits(mesh: Mesh, seconds: float) -> bool:
    """Whether the request under way is still waited for so much later."""
    mesh.host.later(seconds)
    mesh.client.read()
    return not mesh.client.received


@pytest.mark.parametrize(
    ("of_service", "of_route", "lasts", "ends"),
    [(0.0, 2.0, 1.0, 3.0), (2.0, 5.0, 4.0, 6.0), (5.0, 2.0, 1.0, 3.0), (2.0, None, 1.0, 3.0)],
)
def test_the_timeout_of_a_route_holds_instead_of_the_service_s(
    make_host: Make, loop: Loop, of_service: float, of_route: float | None, lasts: float, ends: float
) -> None:
    mesh = Mesh(loop, make_host, to("v2", timeout=of_route, name="canary"), timeout=of_service)
    mesh.send()
    mesh.asked()
    assert waits(mesh, lasts)
    mesh.host.later(ends - lasts)
    assert mesh.client.until(END).startswith(b"HTTP/1.1 504 ")
    (record,) = mesh.host.records.lines
    assert (record.flags, record.route, record.subset) == ("UT", "canary", "v2")


def test_a_route_may_have_no_timeout(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(loop, make_host, to("v2", timeout=0.0), timeout=2.0)
    mesh.send()
    origin, peer = mesh.asked()
    assert waits(mesh, 30.0)
    origin.answer(peer)
    assert mesh.client.until(END).startswith(b"HTTP/1.1 200 ")


def test_requests_without_a_route_keep_the_service_s_timeout(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(loop, make_host, to("v2", timeout=60.0, path="/x"), timeout=2.0)
    for name in ("payments", "v2.payments"):
        mesh.send(name=name)
        mesh.asked()
        mesh.host.later(3.0)
        assert mesh.client.until(END).startswith(b"HTTP/1.1 504 ")
        mesh.client = mesh.host.client(mesh.address)


# Retries


def tries(mesh: Mesh, *fields: str, name: str = "payments") -> int:
    """How often a request is sent that is answered 503 each time."""
    mesh.client = mesh.host.client(mesh.address)
    mesh.send("/", *fields, name=name)
    count = 0
    while True:
        found = mesh.loop.until(
            lambda: mesh.client.read() or next((one for one in map(_asked, mesh.origins.values()) if one), None)
        )
        if isinstance(found, bytes):
            return count
        origin, peer = found
        count += 1
        origin.answer(peer, b"503 Busy")


def _asked(origin: Origin) -> tuple[Origin, Peer] | None:
    peer = origin.requested()
    return (origin, peer) if peer is not None else None


def quick(attempts: int) -> Retry:
    return Retry(attempts=attempts, backoff=0.001, backoff_limit=0.001)


def test_retries_of_a_route_hold_instead_of_the_service_s(make_host: Make, loop: Loop) -> None:
    own = to("v2", headers=(("x-often", "*"),), retry=quick(4))
    mesh = Mesh(loop, make_host, own, to("v1", headers=(("x-v1", "*"),)), retry=quick(2))
    assert tries(mesh, "X-Often: 1") == 5
    assert tries(mesh, "X-V1: 1") == 3
    assert tries(mesh) == 3
    assert tries(mesh, "X-Often: 1", name="v2.payments") == 3


def test_a_retry_goes_to_where_the_instances_have_moved(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(loop, make_host, CANARY, retry=Retry(backoff=0.001, backoff_limit=0.001))
    mesh.send("/", "X-Canary: yes")
    origin, peer = mesh.asked()
    elsewhere = Origin(loop, "new")
    mesh.origins["new"] = elsewhere
    at = place(elsewhere.listening.address, secure=False)
    mesh.host.change(services={"v2.payments": service("payments", at, subset="v2")})
    origin.answer(peer, b"503 Busy")
    origin, peer = mesh.asked()
    assert origin is elsewhere
    origin.answer(peer)
    assert mesh.client.until(b"new").startswith(b"HTTP/1.1 200 ")


def test_without_a_policy_of_retries_an_answer_is_an_answer(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(loop, make_host, CANARY)
    assert tries(mesh, "X-Canary: yes") == 1


# When there is nobody


def test_a_subset_without_an_instance_is_no_reason_to_go_elsewhere(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(loop, make_host, CANARY)
    mesh.host.change(services={"v2.payments": service("payments", subset="v2", obstacle="no instance is in v2")})
    mesh.send("/", "X-Canary: yes")
    assert mesh.client.until(END).startswith(b"HTTP/1.1 503 ")
    assert b"no instance is in v2" in mesh.client.until(b"\n")
    (record,) = mesh.host.records.lines
    assert (record.flags, record.route, record.subset) == ("UH", "canary", "v2")
    assert mesh.call() == "whole"


def test_a_subset_that_nobody_knows(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(loop, make_host, CANARY)
    mesh.host.change(services={"v2.payments": None})
    mesh.send("/", "X-Canary: yes")
    assert mesh.client.until(END).startswith(b"HTTP/1.1 503 ")
    assert mesh.host.flags() == ["UH"]


# Changes


def test_a_change_of_routes_is_for_the_next_request(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(loop, make_host, CANARY)
    mesh.send("/", "X-Canary: yes")
    origin, peer = mesh.asked()
    moved = mesh.services(to("v1", headers=(("x-canary", "yes"),), name="moved"))
    mesh.host.change(services={"payments": moved["payments"]})
    origin.answer(peer)
    assert mesh.client.until(END).startswith(b"HTTP/1.1 200 ")
    assert mesh.client.until(2) == b"v2"
    assert mesh.call("/", "X-Canary: yes") == "v1"
    mesh.host.change(services={"payments": mesh.services()["payments"]})
    assert mesh.call("/", "X-Canary: yes") == "whole"
    named = [(record.route, record.subset) for record in mesh.host.records.lines]
    assert named == [("canary", "v2"), ("moved", "v1"), ("", "")]


def test_instances_of_a_subset_come_and_go_under_its_routes(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(loop, make_host, CANARY)
    assert mesh.call("/", "X-Canary: yes") == "v2"
    elsewhere = Origin(loop, "new")
    mesh.origins["new"] = elsewhere
    at = place(elsewhere.listening.address, secure=False)
    mesh.host.change(services={"v2.payments": service("payments", at, subset="v2")})
    assert mesh.call("/", "X-Canary: yes") == "new"


def test_routes_that_come_with_the_first_use_of_a_service_hold_for_who_waited(make_host: Make, loop: Loop) -> None:
    mesh = Mesh(loop, make_host)
    services = mesh.services(CANARY)
    mesh.host.apply(services={}, first_use=2.0)
    mesh.send("/", "X-Canary: yes")
    assert mesh.host.asked == ["payments"]
    mesh.host.change(services=services)
    origin, peer = mesh.asked()
    origin.answer(peer)
    assert mesh.client.until(b"v2").startswith(b"HTTP/1.1 200 ")
