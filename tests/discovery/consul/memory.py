"""The part of an agent of Consul that registration uses, in memory. It does what 1.8.7 was seen to do."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from twisted.internet.defer import Deferred, fail, succeed

from hostproxy.discovery.consul.errors import AgentError
from hostproxy.discovery.consul.transport import Reply


class MemoryAgent:
    """Stands where :class:`hostproxy.discovery.consul.transport.Agent` does."""

    def __init__(self) -> None:
        self.services: dict[str, dict[str, Any]] = {}
        self.checks: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.newer = False  # answers of a later version
        self.acl = False
        self.refused: set[str] = set()  # names of services that the token may not write
        self.broken: AgentError | Reply | None = None  # the answer to everything
        self.hold = False  # carry out, and answer, only when released
        self.held: list[tuple[Deferred[Reply], tuple[Any, ...]]] = []
        self.most = 0  # under way at the same time

    # The transport

    def request(self, method: str, path: str, params: Any = (), body: bytes = b"", **_: Any) -> Deferred[Reply]:
        options = dict(params)
        self.requests.append((method, path, options))
        if isinstance(self.broken, AgentError):
            return fail(self.broken)
        if self.broken is not None:
            return succeed(self.broken)
        arguments = (method, path, options, body)
        if not self.hold:
            return succeed(self._answer(*arguments))
        waiting: Deferred[Reply] = Deferred()
        self.held.append((waiting, arguments))
        self.most = max(self.most, len(self.held))
        return waiting

    def release(self) -> None:
        """Answer what is held now; what comes because of that is held again."""
        held, self.held = self.held, []
        for waiting, arguments in held:
            if not waiting.called:
                waiting.callback(self._answer(*arguments))

    def release_all(self) -> None:
        """Until nothing is held any more."""
        while self.held:
            self.release()

    # Looking at it

    def take(self) -> list[str]:
        """What was written since the last time: ``register web``, ``pass hostproxy:x``."""
        found = [
            path.removeprefix("/v1/agent/").removeprefix("service/").removeprefix("check/").replace("/", " ")
            for method, path, _ in self.requests
            if method == "PUT"
        ]
        self.requests.clear()
        return found

    def notes(self, check: str) -> list[str]:
        """The reasons that were given with reports."""
        return [options.get("note", "") for _, path, options in self.requests if path.endswith("/" + check)]

    def status(self, check: str) -> str:
        """Of a check."""
        return str(self.checks[check]["Status"])

    def forget(self) -> None:
        """As after a restart without a disk."""
        self.services.clear()
        self.checks.clear()

    # What it does

    def _answer(self, method: str, path: str, options: dict[str, str], body: bytes) -> Reply:
        words = unquote(path).removeprefix("/v1/agent/").split("/")
        if method == "GET":
            everything = {"services": self.services, "checks": self.checks}
            return Reply(status=200, body=json.dumps(everything[words[0]]).encode())
        kind, action, *rest = words
        status, text = getattr(self, f"_{kind}_{action}")(*rest, body or options)
        return Reply(status=status, body=text.encode())

    def _service_register(self, body: bytes) -> tuple[int, str]:
        given = json.loads(body)
        ident = given["id"]
        if given["name"] in self.refused:
            return 403, f"Permission denied: Missing service:write on {given['name']}"
        self.services[ident] = {
            "ID": ident,
            "Service": given["name"],
            "Tags": given.get("tags") or [],
            "Meta": given.get("meta") or {},
            "Port": given.get("port", 0),
            "Address": given.get("address", ""),
            "TaggedAddresses": {"lan_ipv4": {"Address": given.get("address", ""), "Port": given.get("port", 0)}},
            "Weights": given.get("weights") or {"Passing": 1, "Warning": 1},
            "EnableTagOverride": False,
        }
        for check in given.get("checks", ()):
            known = self.checks.get(check["CheckID"])
            self.checks[check["CheckID"]] = {
                "Node": "h1",
                "CheckID": check["CheckID"],
                "Name": check["Name"],
                # A check that it has keeps its status.
                "Status": known["Status"] if known else check.get("Status", "critical"),
                "Notes": check["Notes"],
                "Output": known["Output"] if known else "",
                "ServiceID": ident,
                "ServiceName": given["name"],
                "Type": "ttl" if "TTL" in check else "http" if "HTTP" in check else "tcp",
                "Definition": {},
                "Given": check,
            }
        return 200, ""

    def _service_deregister(self, ident: str, _: object) -> tuple[int, str]:
        if ident not in self.services:
            if self.acl:
                return 500, f'Unknown service "{ident}"'
            return 404, f'No service registered with ID "{ident}"'
        del self.services[ident]
        self.checks = {key: each for key, each in self.checks.items() if each["ServiceID"] != ident}
        return 200, ""

    def _service_maintenance(self, ident: str, options: dict[str, str]) -> tuple[int, str]:
        if ident not in self.services:
            return 404, f'No service registered with ID "{ident}"'
        check = f"_service_maintenance:{ident}"
        if options["enable"].lower() == "true":
            self.checks[check] = {
                "CheckID": check,
                "Status": "critical",
                "Notes": options["reason"],
                "Output": "",
                "ServiceID": ident,
            }
        else:
            self.checks.pop(check, None)
        return 200, ""

    def _check_deregister(self, check: str, _: object) -> tuple[int, str]:
        self.checks.pop(check, None)
        return 200, ""

    def _check_pass(self, check: str, options: Any) -> tuple[int, str]:
        return self._report(check, "passing", options)

    def _check_fail(self, check: str, options: Any) -> tuple[int, str]:
        return self._report(check, "critical", options)

    def _report(self, check: str, status: str, options: Any) -> tuple[int, str]:
        known = self.checks.get(check)
        if known is None or known["Type"] != "ttl":
            if self.newer:
                return 404, f'Unknown check ID "{check}". Ensure that the check ID is passed, not the check name.'
            return 500, f'Unknown check "{check}"' if self.acl else f'CheckID "{check}" does not have associated TTL'
        known["Status"] = status
        known["Output"] = options.get("note", "") if isinstance(options, dict) else ""
        return 200, ""
