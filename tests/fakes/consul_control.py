"""How a test controls the stub of Consul: ``METHOD /_stub/WORD`` is ``_method_word`` here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from tests.fakes.consul_catalog import Instance, encode
from tests.fakes.consul_connection import Recorded, Request
from tests.fakes.consul_faults import Fault

if TYPE_CHECKING:
    from tests.fakes.consul_server import Server


class Control:
    """What can be asked of the stub."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._catalog = server.catalog
        self._flapping: dict[tuple[str, str], asyncio.TimerHandle] = {}

    def obey(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        """Do it; returns status, headers and body of the answer."""
        word, _, rest = request.recorded.path.removeprefix("/_stub/").partition("/")
        command = getattr(self, f"_{request.recorded.method.lower()}_{word}", None)
        try:
            if command is None:
                raise LookupError(f"there is no {request.recorded.method} /_stub/{word}")
            result = command(rest, request.recorded.params, request.body)
            return 200, {"Content-Type": "application/json"}, encode(result)
        except (LookupError, msgspec.MsgspecError, AssertionError) as error:
            return 400, {"Content-Type": "text/plain"}, str(error).encode()

    def _put_service(self, name: str, params: dict[str, str], body: bytes) -> None:
        """Replace the instances of a service; ``?dc=`` may be a new datacenter."""
        instances = msgspec.json.decode(body, type=list[Instance])
        self._catalog.set(params.get("dc") or self._catalog.datacenter, name, instances)

    def _patch_service(self, rest: str, params: dict[str, str], body: bytes) -> None:
        """Change one instance: /_stub/service/NAME/ID."""
        name, _, key = rest.partition("/")
        self._catalog.change(params.get("dc") or self._catalog.datacenter, name, key, msgspec.json.decode(body))

    def _put_fill(self, _: str, params: dict[str, str], body: bytes) -> None:
        """Many services with many instances each: prefix-N with instances on nodes node-M, all addresses different."""
        number = 0
        for service in range(int(params["services"])):
            name = f"{params.get('prefix', 'service')}-{service}"
            instances = []
            for one in range(int(params["instances"])):
                number += 1
                address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
                instances.append(
                    Instance(
                        id=f"{name}-{one}",
                        node=f"node-{one}",
                        address=address,
                        port=9000,
                        tags=["v1"],
                        meta={"mesh_port": "15443", "version": "1", "zone": f"zone-{one % 3}"},
                        status="passing",
                        node_address=address,
                    )
                )
            self._catalog.set(self._catalog.datacenter, name, instances)

    def _put_flap(self, rest: str, params: dict[str, str], body: bytes) -> None:
        """An instance (/_stub/flap/NAME/ID) passes and fails in turn, ``?rate=`` times a second; 0 ends that."""
        name, _, key = rest.partition("/")
        rate = float(params["rate"])
        timer = self._flapping.pop((name, key), None)
        if timer is not None:
            timer.cancel()
        if not rate:
            return
        loop = asyncio.get_running_loop()
        datacenter = self._catalog.datacenter
        due = loop.time()

        def flap() -> None:
            nonlocal due
            status = self._catalog.datacenters[datacenter][name].instances[key].status
            self._catalog.change(datacenter, name, key, {"status": "passing" if status != "passing" else "critical"})
            due += 1 / rate
            self._flapping[name, key] = loop.call_at(due, flap)

        flap()

    def _put_index(self, _: str, params: dict[str, str], body: bytes) -> None:
        """Go on from that index, as after restoring a snapshot."""
        self._catalog.restore(int(params["index"]))

    def _put_coordinates(self, _: str, params: dict[str, str], body: bytes) -> None:
        """What /v1/coordinate/nodes answers."""
        self._catalog.coordinates = msgspec.json.decode(body, type=list[Any])
        self._catalog.index += 1
        self._catalog.coordinates_index = self._catalog.index
        self._server.changed(self._catalog.datacenter, "/v1/coordinate/nodes")

    def _put_settings(self, _: str, params: dict[str, str], body: bytes) -> None:
        """leader, connections (the most; 0 is any number), unknown_check (a status)."""
        self._server.leader = params.get("leader", self._server.leader)
        self._server.most = int(params.get("connections", self._server.most))
        self._server.agent.unknown_check = int(params.get("unknown_check", self._server.agent.unknown_check))

    def _delete_agent(self, _: str, params: dict[str, str], body: bytes) -> None:
        """The agent forgets what was registered with it."""
        self._server.agent.forget()

    def _put_fault(self, _: str, params: dict[str, str], body: bytes) -> None:
        """From now on this goes wrong; what is told last comes first."""
        fault = msgspec.json.decode(body, type=Fault)
        self._server.faults.insert(0, fault)
        waiting = [one for each in self._server.waiting.values() for one in each] if fault.wake else []
        for connection in waiting:
            recorded = connection.request.recorded if connection.request is not None else None
            if recorded is not None and fault.concerns(recorded.method, recorded.path, recorded.params):
                self._server.woken(connection)

    def _delete_fault(self, _: str, params: dict[str, str], body: bytes) -> None:
        """Nothing goes wrong any more. What hangs goes on hanging."""
        self._server.faults.clear()

    def _get_requests(self, _: str, params: dict[str, str], body: bytes) -> list[Recorded]:
        return list(self._server.requests)

    def _delete_requests(self, _: str, params: dict[str, str], body: bytes) -> None:
        self._server.requests.clear()

    def _get_state(self, _: str, params: dict[str, str], body: bytes) -> dict[str, int]:
        return {
            "index": self._catalog.index,
            "blocked": sum(len(each) for each in self._server.waiting.values()),
            "connections": len(self._server.connections),
            "requests": len(self._server.requests),
            "poured": sum((one.poured for one in self._server.connections), self._server.poured),
        }
