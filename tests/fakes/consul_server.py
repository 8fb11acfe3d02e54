"""The HTTP interface of the stub of Consul.

One process, one thread: nothing in it waits for anything but the clock and its connections.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.fakes.consul_agent import LocalAgent, Refusal, seconds
from tests.fakes.consul_catalog import Catalog, encode
from tests.fakes.consul_connection import Connection, Recorded, Request
from tests.fakes.consul_control import Control
from tests.fakes.consul_faults import Fault

WAIT, LONGEST_WAIT = 300.0, 600.0  # seconds that a blocking query lasts, and the most that can be asked for
RECORDED = 200_000  # requests
COORDINATES = "/v1/coordinate/nodes"

_OF_SERVERS = ("/v1/health/", "/v1/catalog/", "/v1/coordinate/")  # what the agent passes on to them
_INDEX = re.compile(r"[0-9]{1,20}")


class Answer(NamedTuple):
    """An answer that is not sent yet."""

    body: bytes = b""
    index: int | None = None  # of what can be waited for
    consistency: bool = False  # it says which server answered
    status: int = 200


def waits(params: Mapping[str, str]) -> tuple[int, float]:
    """Index and wait of a blocking query; index 0 for others. Without the sixteenth that Consul adds at random."""
    index, wait = params.get("index", ""), params.get("wait", "")
    if index and not _INDEX.fullmatch(index):
        raise Refusal(400, "Invalid index")
    try:
        return int(index or 0), min(seconds(wait) if wait else WAIT, LONGEST_WAIT)
    except Refusal:
        raise Refusal(400, "Invalid wait time") from None


class Server:
    """The whole stub."""

    def __init__(self, datacenter: str, node: str) -> None:
        self.catalog = Catalog(datacenter, node, self.changed)
        self.agent = LocalAgent(self.catalog)
        self.leader = "127.0.0.1:8300"
        self.faults: list[Fault] = []
        self.requests: deque[Recorded] = deque(maxlen=RECORDED)
        self.connections: set[Connection] = set()  # those that were used for more than to control this
        self.waiting: dict[tuple[str, str], dict[Connection, None]] = {}  # by datacenter and service, "" for any
        self.most = 0  # connections; 0: any number
        self.poured = 0  # bytes of huge bodies, over connections that are closed
        self._numbers = 0
        self._control = Control(self)

    # What happens

    def opened(self, connection: Connection) -> None:
        """There is a connection more."""
        self._numbers += 1
        connection.number = self._numbers

    def closed(self, connection: Connection) -> None:
        """There is one less."""
        self.connections.discard(connection)
        self.poured += connection.poured
        self._release(connection)

    def changed(self, datacenter: str, name: str) -> None:
        """A service has changed: wake who waits for it, or for any."""
        for key in ((datacenter, name), (datacenter, "")):
            for connection in list(self.waiting.get(key, ())):
                self.woken(connection)

    def woken(self, connection: Connection) -> None:
        """Answer a blocking query as it is now."""
        self._release(connection)
        self.answer(connection, block=False)

    def _release(self, connection: Connection) -> None:
        connection.cancel()
        waiting = self.waiting.get(connection.key)
        if waiting is not None:
            waiting.pop(connection, None)
            if not waiting:
                del self.waiting[connection.key]

    def asked(self, connection: Connection, request: Request) -> None:
        """Begin with a request."""
        if request.control:
            connection.send(*self._control.obey(request))
            return
        self.requests.append(request.recorded)
        if self.most and connection not in self.connections and len(self.connections) >= self.most:
            connection.transport.abort()  # as Consul does with too many
            return
        self.connections.add(connection)
        self.answer(connection, block=True)

    def answer(self, connection: Connection, block: bool) -> None:
        """Answer a request, or let it wait for news if ``block``."""
        request = connection.request
        assert request is not None
        recorded = request.recorded
        concerning = (f for f in self.faults if f.concerns(recorded.method, recorded.path, recorded.params))
        fault = next(concerning, None)
        try:
            index, wait = waits(recorded.params)
            answer = self._route(request)
            if block and not (fault and fault.at_once) and answer.index is not None and index >= answer.index:
                self._block(connection, request, wait)
                return
        except Refusal as refusal:
            answer = Answer(str(refusal).encode(), status=refusal.status)
        if fault is None:
            connection.send(answer.status, self._headers(request, answer), answer.body)
            return
        fault.count()
        if fault.delay:
            connection.later(fault.delay, lambda: self._fail(connection, request, answer, fault))
        else:
            self._fail(connection, request, answer, fault)

    def _block(self, connection: Connection, request: Request, wait: float) -> None:
        datacenter = self._datacenter(request)
        path = request.recorded.path
        name = path.removeprefix("/v1/health/service/")
        if path == COORDINATES:
            connection.key = datacenter, COORDINATES
        else:
            # As with Consul, about a service that there isn't it is news when there is news about any.
            connection.key = datacenter, name if name in self.catalog.datacenters[datacenter] else ""
        self.waiting.setdefault(connection.key, {})[connection] = None
        connection.later(wait, lambda: self.woken(connection))

    def _fail(self, connection: Connection, request: Request, answer: Answer, fault: Fault) -> None:
        if fault.hang:
            return
        if fault.drop:
            connection.transport.abort()
            return
        if fault.status:
            answer = answer._replace(status=fault.status)
        if fault.body is not None:
            answer = answer._replace(body=fault.body)
        headers = self._headers(request, answer)
        fault.apply(headers)
        if fault.huge:
            connection.pour(headers, fault.huge)
        else:
            connection.send(answer.status, headers, answer.body, fault.truncate)

    # What Consul answers

    def _headers(self, request: Request, answer: Answer) -> dict[str, str]:
        good = answer.status == 200
        headers = {"Vary": "Accept-Encoding", "Date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())}
        if answer.body:
            headers["Content-Type"] = "application/json" if good else "text/plain; charset=utf-8"
        if answer.consistency and good:
            stale = "stale" in request.recorded.params
            headers["X-Consul-Effective-Consistency"] = "stale" if stale else "leader"
        failed = answer.status == 500 and request.recorded.path.startswith(_OF_SERVERS)
        if failed or (good and answer.index is not None):
            headers["X-Consul-Index"] = "1" if failed else str(answer.index)
            headers["X-Consul-Knownleader"] = "false" if failed else "true"
            headers["X-Consul-Lastcontact"] = "0"
        return headers

    def _datacenter(self, request: Request) -> str:
        datacenter = request.recorded.params.get("dc") or self.catalog.datacenter
        if datacenter not in self.catalog.datacenters:
            raise Refusal(500, "No path to datacenter")
        return datacenter

    def _route(self, request: Request) -> Answer:
        recorded = request.recorded
        path, get = recorded.path, recorded.method == "GET"
        catalog, agent = self.catalog, self.agent
        if path.startswith("/v1/agent/") and not get:
            return self._of_agent(request)
        if not get:
            raise Refusal(405, f"method {recorded.method} not allowed")
        if path.startswith("/v1/health/service/"):
            body, index = catalog.health(self._datacenter(request), path.removeprefix("/v1/health/service/"))
            return Answer(body, index, consistency=True)
        if path == "/v1/catalog/services":
            return Answer(encode(catalog.names(self._datacenter(request))), catalog.index, consistency=True)
        if path == "/v1/catalog/datacenters":
            return Answer(encode(sorted(catalog.datacenters)))
        if path == COORDINATES:
            return Answer(encode(catalog.coordinates), catalog.coordinates_index)
        if path == "/v1/status/leader":
            return Answer(encode(self.leader))
        if path == "/v1/agent/services":
            return Answer(encode(dict(sorted(agent.services.items()))))
        if path == "/v1/agent/checks":
            return Answer(encode(dict(sorted(agent.checks.items()))))
        raise Refusal(404, "")

    def _of_agent(self, request: Request) -> Answer:
        params, agent = request.recorded.params, self.agent
        what, _, rest = request.recorded.path.removeprefix("/v1/agent/").partition("/")
        word, _, key = rest.partition("/")
        if request.recorded.method != "PUT":
            raise Refusal(405, f"method {request.recorded.method} not allowed")
        if (what, word) == ("service", "register"):
            agent.register(request.body, params.get("replace-existing-checks", "false") not in ("false", "0"))
        elif (what, word) == ("service", "deregister"):
            agent.deregister(key)
        elif (what, word) == ("service", "maintenance"):
            agent.maintenance(key, params.get("enable"), params.get("reason", ""))
        elif what == "check" and word in ("pass", "warn", "fail", "update"):
            agent.report(key, word, params.get("note", ""), request.body)
        else:
            raise Refusal(404, "")
        return Answer()


async def serve(host: str, port: int, datacenter: str, node: str, ready: Callable[[int], object]) -> None:
    """Serve until the process ends. ``ready`` is told the port."""
    server = Server(datacenter, node)
    listening = await asyncio.get_running_loop().create_server(
        lambda: Connection(server), host, port, backlog=1024, reuse_address=True
    )
    ready(listening.sockets[0].getsockname()[1])
    await listening.serve_forever()
