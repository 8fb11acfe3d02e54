"""The whole corpus through whole proxies: nothing smuggled, nothing legal refused, nothing cut short completed."""

from __future__ import annotations

import pytest

from tests.fakes import replay
from tests.fakes.delivery import Delivery
from tests.fakes.hostile_corpus import REQUESTS_BY_TOPIC, RESPONSES
from tests.integration.host import Host, descriptors, eventually
from tests.integration.mesh import BENT, Mesh

DELIVERIES = pytest.mark.parametrize("delivery", list(Delivery), ids=lambda delivery: delivery.value)


@DELIVERIES
@pytest.mark.parametrize("topic", list(REQUESTS_BY_TOPIC))
def test_requests(mesh: Mesh, topology: str, topic: str, delivery: Delivery) -> None:
    failures = replay.run(mesh.lanes(topology), REQUESTS_BY_TOPIC[topic], delivery)
    assert not failures, "\n".join(["", *failures])


@DELIVERIES
def test_responses(mesh: Mesh, topology: str, delivery: Delivery) -> None:
    failures = replay.run(mesh.lanes(topology), RESPONSES, delivery)
    assert not failures, "\n".join(["", *failures])


# Between hosts there has to be room for what the first host adds to a message that is just within the limits, so what
# is just beyond them may pass there. The cases far beyond them stay.
JUST_OVER = {"limit-count-over", "limit-field-over", "limit-head-over"}


@pytest.mark.parametrize("topic", list(REQUESTS_BY_TOPIC))
def test_requests_of_a_peer(mesh: Mesh, topic: str) -> None:
    """A verified peer is not a trusted one: the mesh port refuses what the outbound side would have refused.

    Without the cases that end their side: half a TLS connection is an attack, not a message.
    """
    cases = [case for case in REQUESTS_BY_TOPIC[topic] if not case.half_close and case.name not in JUST_OVER]
    failures = replay.run(mesh.direct_lanes(), cases, Delivery.WHOLE)
    assert not failures, "\n".join(["", *failures])


def test_responses_of_a_peer(mesh: Mesh) -> None:
    cases = [case for case in RESPONSES if case.name not in JUST_OVER]
    failures = replay.run(mesh.lanes(BENT), cases, Delivery.WHOLE)
    assert not failures, "\n".join(["", *failures])


def test_proxies_are_whole_afterwards(mesh: Mesh) -> None:
    """Nothing is left of all that: no request counted as under way, no connection, no descriptor, no traceback."""
    for service in mesh.services.values():
        service.origin.disconnect()
    for host in (mesh.alpha, mesh.beta):
        assert "Traceback" not in host.output()
        assert host.ask("/ready")[0] == 200
        (worker,) = host.workers()

        def left(host: Host = host) -> int:
            description = host.ask_json("/workers")["workers"][0]["description"]
            pooled = len(mesh.services) if host is mesh.beta else 0  # connections that alpha keeps to it
            busy: int = description["requests"] + description["tunnels"] + description["handshakes"]
            connections: int = description["connections"]
            return busy + max(0, connections - pooled)

        eventually(lambda left=left: left() == 0, 4, f"{host.name}: {left()} left")
        assert host.metric("requests_in_flight") == 0
        more = descriptors(worker) - mesh.descriptors[host.name]
        assert more <= len(mesh.services), more  # a few pooled connections between the hosts; a leak is hundreds
