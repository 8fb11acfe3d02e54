"""The agent of Consul: whether it answers, what the token may do, and whether it has what this host registers."""

from __future__ import annotations

import json
import os
import ssl
import time
from typing import Any

from hostproxy.doctor import http
from hostproxy.doctor.findings import Around, Group, some
from hostproxy.mesh.addresses import split

OLDEST = (1, 8)  # the oldest version that was tried
MORE_WATCHES = 4  # connections beside those of watches
BEHIND = 60.0  # seconds since somebody confirmed what is known


class Unusable(Exception):
    """The agent can't be asked, or has no answer of use. The message says why."""


class Agent:
    """Asks it as the daemon does."""

    def __init__(self, around: Around) -> None:
        """Raises :class:`Unusable` when not even the question can be put."""
        self._around = around
        self._config = around.config.discovery.consul
        self._headers: dict[str, str] = {}
        self._context: ssl.SSLContext | None = None
        self.obstacle = ""  # why there is no token
        self._take_token()
        if self._config.address.startswith("https://"):
            try:
                self._context = ssl.create_default_context(cafile=self._config.ca or None)
                if self._config.certificate:
                    self._context.load_cert_chain(self._config.certificate, self._config.key, "")
            except (OSError, ValueError) as error:
                raise Unusable(f"its ca, certificate or key cannot be used: {error}") from None

    @property
    def has_token(self) -> bool:
        """Whether a token is sent."""
        return "X-Consul-Token" in self._headers

    def _take_token(self) -> None:
        from hostproxy.discovery.consul.errors import AgentError
        from hostproxy.discovery.consul.token import Token

        if self._config.token_credential and "CREDENTIALS_DIRECTORY" not in os.environ:
            self.obstacle = "the token is a credential of the unit, which only the daemon has"
            return
        token = Token(self._config, os.environ, time.monotonic)
        try:
            value = token()
        except AgentError:
            self.obstacle = token.problem
        else:
            if value:
                self._headers["X-Consul-Token"] = value

    def get(self, path: str, body: object = None) -> http.Answer:
        """Raises :class:`Unusable` when nothing comes."""
        content = None if body is None else json.dumps(body).encode()
        try:
            return http.ask(
                self._config.address,
                path,
                self._around.left(),
                headers=self._headers,
                body=content,
                context=self._context,
            )
        except http.NoAnswer as error:
            raise Unusable(str(error)) from None


def examine(group: Group, around: Around) -> None:
    """Ask the agent."""
    if around.config.discovery.backend != "consul":
        group.skip("agent", "services are known from a file")
        return
    address = around.config.discovery.consul.address
    try:
        agent = Agent(around)
        answer = agent.get("/v1/status/leader")
    except Unusable as unusable:
        group.fail("agent", f"{address}: {unusable}", "systemctl start consul, or correct [discovery.consul] address")
        _freshness(group, around)
        return
    if answer.status != 200 and not isinstance(answer.json(), str):
        group.fail("agent", f"{address}: status {answer.status}", "is this an agent of Consul?")
        return
    group.ok("agent", f"{address} answers in {answer.seconds * 1000:.0f} ms")
    if answer.json():
        group.ok("leader", f"{answer.json()} leads")
    else:
        group.fail("leader", "the servers have no leader", "consul operator raft list-peers; see the servers' logs")
    _freshness(group, around)
    try:
        _rights(group, around, agent)
        _version(group, around, agent)
        _registered(group, around, agent)
    except Unusable as unusable:
        group.fail("agent", f"{address}: {unusable}", "journalctl -u consul says why")


def _rights(group: Group, around: Around, agent: Agent) -> None:
    if agent.obstacle:
        group.skip("token", agent.obstacle, "run it as root")
        return
    config = around.config
    questions = []
    if config.discovery.consul.register:
        names = [service.name for service in config.services if service.register and service.instances]
        questions = [("service", name, "write") for name in ("hostproxy", *names)]
    wanted = sorted({upstream.service for upstream in config.outbound.upstreams})
    # A name that nobody gives a right to alone: only a right to all names covers it.
    anything = "hostproxy-doctor-asks-about-any-name"
    questions += [("service", name, "read") for name in (*wanted, anything)]
    questions += [("node", anything, "read")]
    body = [{"Resource": kind, "Segment": name, "Access": access} for kind, name, access in questions]
    answer = agent.get("/v1/internal/acl/authorize", body)
    if answer.status == 401 or b"ACL support disabled" in answer.body:
        group.ok("token", "ACLs are off: everybody may do everything")
        return
    if answer.status == 403:
        what = answer.body[:200].decode("utf-8", "replace").strip()
        group.fail("token", f"it is refused: {what}", "put a valid one into [discovery.consul] token_file")
        return
    allowed = answer.json()
    if answer.status != 200 or not isinstance(allowed, list) or len(allowed) != len(questions):
        group.skip("rights", f"this version of Consul does not say what a token may do (status {answer.status})")
        return
    group.ok("token", "Consul knows it" if agent.has_token else "there is none: rights are those of anybody")
    missing = [question for question, entry in zip(questions, allowed, strict=True) if not entry.get("Allow")]
    _missing(group, missing, anything)


def _missing(group: Group, missing: list[tuple[str, str, str]], anything: str) -> None:
    for kind, name, access in missing:
        rule = f'{kind} "{name}" {{ policy = "{access}" }}'
        if kind == "node":
            rule = 'node_prefix "" { policy = "read" }'
            found = "the token may not read the nodes: no service seems to have an instance"
            group.fail("rights", found, f"add {rule}")
        elif name == anything:
            rule = 'service_prefix "" { policy = "read" }'
            found = "the token may read only some services: others seem not to exist"
            group.warn("rights", found, f"add {rule}")
        elif access == "write":
            group.fail("rights", f"the token may not register {name}", f"add {rule}")
        else:
            group.fail("rights", f"the token may not read {name}, which an upstream names", f"add {rule}")
    if not missing:
        group.ok("rights", "the token may read services and nodes, and register what runs here")


def _version(group: Group, around: Around, agent: Agent) -> None:
    config = around.config.discovery.consul
    answer = agent.get("/v1/agent/self")
    document = answer.json()
    if answer.status != 200 or not isinstance(document, dict):
        group.skip("version", "the token may not ask for it (agent:read), and need not")
        return
    own = document.get("Config", {})
    version, node, datacenter = str(own.get("Version", "")), own.get("NodeName", ""), own.get("Datacenter", "")
    numbers = tuple(int(part) for part in version.split("+")[0].split("-")[0].split(".")[:2] if part.isdecimal())
    if len(numbers) == 2 and numbers < OLDEST:
        group.warn("version", f"Consul {version} is older than any that was tried", "take 1.8.7 or newer")
    else:
        group.ok("version", f"Consul {version}, node {node}, datacenter {datacenter}")
    if node and node != config.node:
        found = f"the agent is node {node}, and conf.toml says {config.node}: round-trip times are missing"
        group.warn("node", found, f'[discovery.consul] node = "{node}"')
    if datacenter and datacenter != config.datacenter:
        found = f"the agent is in {datacenter}, and conf.toml says {config.datacenter}"
        group.fail("node", found, f'[discovery.consul] datacenter = "{datacenter}"')
    most = document.get("DebugConfig", {}).get("HTTPMaxConnsPerClient", 0)
    if most and config.watches + MORE_WATCHES > most:
        found = f"the agent takes {most} connections, and watches = {config.watches} may need more"
        group.warn("connections", found, "raise limits.http_max_conns_per_client of the agent, or lower watches")


def _registered(group: Group, around: Around, agent: Agent) -> None:
    from hostproxy.discovery.consul.definition import definitions

    config = around.config
    if not config.discovery.consul.register:
        group.skip("registered", "[discovery.consul] register is false")
        return
    if around.status is None or not around.status["ready"]:
        group.skip("registered", "the daemon registers what runs here once it is ready")
        return
    answer = agent.get("/v1/agent/services")
    there: Any = answer.json()
    if answer.status != 200 or not isinstance(there, dict):
        group.skip("registered", f"the agent does not say (status {answer.status})")
        return
    wanted = definitions(config.services, config.host, split(config.mesh.listen)[1], around.status["version"])
    missing = [ident for ident in wanted if ident not in there]
    if missing:
        why = around.status["discovery"]["registration_problem"] or "the next comparison is within a minute"
        group.fail("registered", f"not at the agent: {some(missing)}", why)
    else:
        group.ok("registered", f"{len(wanted)} instances, with hostproxy itself")


def _freshness(group: Group, around: Around) -> None:
    """How old what the daemon knows is."""
    if around.status is None:
        return
    known = around.status["discovery"]
    now = around.now()
    oldest = known["oldest_confirmed"]
    if known["problem"]:
        found = f"no news for {max(0.0, now - known['since']):.0f} s: {known['problem']}"
        group.warn("freshness", found, "the last known instances stay in use; see hostproxy services")
    elif oldest is not None and now - oldest > around.config.discovery.consul.wait * 17 / 16 + BEHIND:
        group.warn("freshness", f"some service was last confirmed {now - oldest:.0f} s ago", "see hostproxy services")
    else:
        group.ok("freshness", "what the daemon knows is confirmed")
    if known["held"]:
        found = f"Consul has no instance any more of {some(known['held'])}; the last ones are kept for a while"
        group.warn("freshness", found, "see hostproxy services")
