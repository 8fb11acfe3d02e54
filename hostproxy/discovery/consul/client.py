"""py-consul's interface on Twisted: each method returns a Deferred of what it returns elsewhere.

Importing this imports py-consul, and with it ``requests``: only for who registers, and never in a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from consul import base
from consul.std import parse_duration
from twisted.internet.defer import Deferred

from hostproxy.discovery.consul.errors import AgentError
from hostproxy.discovery.consul.transport import Agent, Reply

__all__ = ("Agent", "AgentError", "Reply", "TxConsul", "TxHTTPClient", "endpoint_name")

TIMEOUT = 10.0  # seconds for an answer that needs no waiting
LONGEST = 600.0  # seconds: Consul lets no blocking query wait longer
MARGIN = 17 / 16  # and adds a sixteenth at random

# What may follow /v1/ in the name of an endpoint: the rest are names and identifiers of a user's things, of which
# metrics had no end.
_WORDS = {
    "agent": {
        "service": {"register", "deregister", "maintenance"},
        "check": {"register", "deregister", "pass", "warn", "fail", "update"},
    },
    "health": {"service", "node", "checks", "state"},
    "catalog": {"service", "services", "node", "nodes", "datacenters"},
    "session": {"create", "destroy", "info", "node", "list", "renew"},
    "status": {"leader", "peers"},
    "coordinate": {"nodes", "datacenters"},
}


class TxHTTPClient(base.HTTPClient):  # type: ignore[misc]  # py-consul has no types
    """py-consul's transport over :class:`Agent`. Fails with :class:`AgentError` or py-consul's own exceptions."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self._agent = agent

    def get(
        self, callback: Any, path: str, params: Any = None, headers: Any = None, raw: bool = False
    ) -> Deferred[Any]:
        """GET. With ``raw``, ``callback`` gets the body as bytes."""
        return self._request("GET", callback, path, params, "", headers, raw)

    def put(
        self, callback: Any, path: str, params: Any = None, data: str | bytes = "", headers: Any = None
    ) -> Deferred[Any]:
        """PUT."""
        return self._request("PUT", callback, path, params, data, headers)

    def delete(
        self, callback: Any, path: str, params: Any = None, data: str | bytes = "", headers: Any = None
    ) -> Deferred[Any]:
        """DELETE."""
        return self._request("DELETE", callback, path, params, data, headers)

    def post(
        self, callback: Any, path: str, params: Any = None, data: str | bytes = "", headers: Any = None
    ) -> Deferred[Any]:
        """POST."""
        return self._request("POST", callback, path, params, data, headers)

    def close(self) -> Deferred[None]:
        """Close the :class:`Agent`."""
        return self._agent.close()

    def _request(
        self,
        method: str,
        callback: Callable[[base.Response], Any],
        path: str,
        params: Sequence[tuple[str, Any]] | None,
        data: str | bytes,
        headers: Any,
        raw: bool = False,
    ) -> Deferred[Any]:
        if headers:
            raise ValueError("the token is the configured one, and no other headers are sent")
        pairs = [(name, str(value).lower() if isinstance(value, bool) else str(value)) for name, value in params or ()]
        options = dict(pairs)
        blocking = "index" in options
        timeout = TIMEOUT
        if blocking:
            timeout += MARGIN * min(parse_duration(options.get("wait", "5m")), LONGEST)
        answer = self._agent.request(
            method,
            path,
            pairs,
            data if isinstance(data, bytes) else data.encode(),
            timeout=timeout,
            persistent=not blocking,
            what=endpoint_name(path),
        )
        return answer.addCallback(lambda reply: callback(_response(reply, raw)))


class TxConsul(base.Consul):  # type: ignore[misc]
    """The whole of py-consul's interface: ``agent.service.register``, ``agent.check.ttl_pass``, ``kv``, ``session``...

    Address, token and TLS are those of the :class:`Agent`. The environment (CONSUL_HTTP_TOKEN and its like), which
    py-consul follows otherwise, has no say.
    """

    def __init__(self, agent: Agent, datacenter: str = "") -> None:
        """``datacenter`` is asked about unless a call names another; "" is the agent's own."""
        self._transport = agent
        # With all of these given, nothing but the token is taken from the environment.
        super().__init__("", 0, "", "http", "default", datacenter or None, True)
        self.token = None

    def http_connect(self, *_: object, **__: object) -> TxHTTPClient:
        """What py-consul sends requests with."""
        return TxHTTPClient(self._transport)


def endpoint_name(path: str) -> str:
    """What a path is called in metrics: ``/v1/agent/check/pass/ID`` is ``agent_check_pass``."""
    first, *rest = path.removeprefix("/v1/").split("/")
    name, words = [first], _WORDS.get(first, ())
    for word in rest:
        if word not in words:
            break
        name.append(word)
        words = words[word] if isinstance(words, dict) else ()
    return "_".join(name)


def _response(reply: Reply, raw: bool) -> base.Response:
    # py-consul looks for this one header, in this spelling.
    headers = {} if reply.index is None else {"X-Consul-Index": str(reply.index)}
    return base.Response(reply.status, headers, reply.body if raw else reply.body.decode("utf-8", "replace"))
