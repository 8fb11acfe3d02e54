"""What all cases share: processes, ports, origin, certificates; and a proxy put to work on it."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from tests.bench import load, origin, pump
from tests.bench.cases import INSTANCES, ORDINARY, SERVICES, UPDATE_INSTANCES, UPDATE_SERVICES, Case
from tests.bench.peers.peer import Peer, Work
from tests.bench.peers.site import DOMAIN, TARGET, Certificates, Services, Site
from tests.bench.processes import Failed, Processes, wait_until

HOST = f"{TARGET}.{DOMAIN}"
_REQUEST_ID = "x_request_id=7f3c9a52-0d1e-4b6f-8a27-000000000001"


@dataclass(frozen=True, slots=True)
class Stage:
    """The ground on which proxies are measured."""

    processes: Processes
    certificates: Certificates
    ports: origin.Ports
    origin_port: int
    pump_port: int
    load_core: int
    proxy_core: int
    descriptors: int  # RLIMIT_NOFILE

    def services(self, count: int, instances: int) -> Services:
        """``count`` services with ``instances`` each, the target among them; all lead to the origin."""
        addresses = tuple(f"{address}:{self.origin_port}" for address in origin.ADDRESSES[:instances])
        return dict.fromkeys(service_names(count), addresses)

    def site(self, peer: Peer, case: Case) -> Site:
        """The set-up that ``case`` wants of ``peer``, on ports of its own."""
        services = self.services(SERVICES, INSTANCES)
        if case.kind == "tcp":
            services = {TARGET: (f"{origin.ADDRESSES[0]}:{self.pump_port}",)}
        elif case.kind == "update":
            services = self.services(UPDATE_SERVICES, UPDATE_INSTANCES)
        take = self.ports.take
        return Site(
            directory=self.processes.directory / f"{case.name}-{peer.name}",
            protocol=case.protocol,
            listen=f"127.0.1.1:{take()}",
            mesh=f"127.0.1.2:{take()}",
            admins=(f"127.0.1.1:{take()}", f"127.0.1.2:{take()}"),
            spare=f"127.0.1.1:{take()}",
            services=services,
            certificates=self.certificates,
            hops=case.hops,
        )

    def start(self, peer: Peer, case: Case) -> Work:
        """Start the proxy, see that it does the work that is asked of it, and let it fill its pools."""
        work = Work(peer, self.site(peer, case), self.processes, self.proxy_core)
        try:
            if case.kind == "tcp":
                wait_until(lambda: pump.flows(*work.client), work.programs, f"a byte through {peer.name}")
                pump.check(*work.client)
            else:
                _check_work(work)
                load.paced(*work.client, ORDINARY, seconds=0.3)
        except BaseException:
            work.stop()
            raise
        return work


def service_names(count: int) -> list[str]:
    """The target, and others beside it."""
    return [TARGET, *(f"service-{number:03d}" for number in range(1, count))]


def _check_work(work: Work) -> None:
    """:class:`Failed` unless what reaches the origin shows the work that every proxy is to do."""
    wait_until(lambda: bool(_seen(work)), work.programs, f"a response through {work.peer.name}")
    seen = _seen(work)
    missing = [field for field in (f"host={HOST}", _REQUEST_ID) if field not in seen]
    missing += [field for field in ("x_forwarded_for=", "x_forwarded_proto=") if field in seen]
    if work.site.hops == 2 and all(f"{field}=" in seen for field in origin.IDENTITY_FIELDS):
        missing.append("the caller's identity")
    if missing:
        raise Failed(f"the origin saw {seen}, which lacks {missing}")


def _seen(work: Work) -> list[str]:
    """Header fields as they reach the origin; empty while the proxy is not ready."""
    request = load.request_bytes(load.Workload(origin.ECHO_PATH, 0), 1)
    try:
        with socket.create_connection(work.client, timeout=5) as connection:
            return load.exchange(connection, request).decode().splitlines()
    except (Failed, OSError):
        return []
