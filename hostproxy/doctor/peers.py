"""The mesh ports of a few peers, reached as this host reaches them: with its own certificate."""

from __future__ import annotations

import random
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from hostproxy.doctor import certificates
from hostproxy.doctor.findings import Around, Group, some
from hostproxy.identity.contexts import client_context
from hostproxy.identity.peer import REMEDIES, PeerRefused, handshake_failure_reason, peer_identity
from hostproxy.mesh.addresses import split
from hostproxy.mesh.document import Invalid
from hostproxy.mesh.spiffe import ALPN_HTTP1, ALPN_TCP, ServerName, SpiffeId

SAMPLE = 8  # mesh ports
SLOW = 0.5  # seconds for a handshake
ALERT = 0.25  # seconds in which a peer that refuses our certificate has said so


class Instance(NamedTuple):
    """One of the catalog, as far as it matters here."""

    service: str
    host: str
    address: str
    mesh: str
    datacenter: str
    protocol: str


class Tried(NamedTuple):
    """How it went with one."""

    instance: Instance
    seconds: float
    problem: str = ""
    fix: str = ""


def examine(group: Group, around: Around) -> None:
    """Try some."""
    known = catalog(around)
    if known is None:
        group.skip("catalog", "where peers are, only the daemon knows, and it does not answer")
        return
    # One service of each mesh port; those of other hosts first.
    ports = {each.mesh: each for each in known if each.mesh}
    others = [each for each in ports.values() if each.host != around.config.host.name]
    # The own one only while it should be open.
    running = around.status is not None
    own = [each for each in ports.values() if running and each.host == around.config.host.name][:1]
    if not ports:
        group.skip("mesh ports", "the catalog has none")
        return
    chosen = random.sample(others, min(SAMPLE, len(others))) + own
    if not chosen:
        group.skip("mesh ports", "the catalog has only that of this host, and no daemon runs here")
        return
    held = certificates.load(around, [])
    if "host" not in held.identities:
        why = held.hidden or "the certificate of this host cannot be used: see the group certificates"
        group.skip("handshake", f"{why}; only connecting was tried", "run it as root")
        tried = _all(chosen, lambda each: _connect(each, around))
    else:
        tried = _all(chosen, lambda each: _shake(each, around, held))
    _report(group, tried, len(ports), "host" in held.identities)


def _all(chosen: list[Instance], act: Callable[[Instance], Tried]) -> list[Tried]:
    with ThreadPoolExecutor(SAMPLE + 1) as pool:
        return list(pool.map(act, chosen))


def _report(group: Group, tried: list[Tried], count: int, handshakes: bool) -> None:
    for each in tried:
        if each.problem:
            found = f"{each.instance.host} at {each.instance.mesh}: {each.problem}"
            group.fail("mesh ports", found, each.fix)
    good = [each for each in tried if not each.problem]
    slow = [each for each in good if each.seconds > SLOW]
    if slow:
        names = some([f"{each.instance.host} {each.seconds * 1000:.0f} ms" for each in slow])
        group.warn("latency", f"slow: {names}", "see the network in between, and the load of those hosts")
    if good:
        worst = max(good, key=lambda each: each.seconds)
        what = "mutual TLS with" if handshakes else "connected to"
        text = f"{what} {len(good)} of {count}, at most {worst.seconds * 1000:.0f} ms ({worst.instance.host})"
        group.ok("mesh ports", text)


def _connect(instance: Instance, around: Around) -> Tried:
    start = time.monotonic()
    try:
        socket.create_connection(split(instance.mesh), around.left(2.0)).close()
    except OSError as error:
        return _unreachable(instance, start, error)
    return Tried(instance, time.monotonic() - start)


def _unreachable(instance: Instance, start: float, error: OSError) -> Tried:
    what = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
    fix = f"is hostproxy running on {instance.host}, and does a firewall let this host to {instance.mesh}?"
    return Tried(instance, time.monotonic() - start, f"{what} to a connection", fix)


def _shake(instance: Instance, around: Around, held: certificates.Held) -> Tried:
    domain = around.config.mesh.trust_domain
    alpn = ALPN_HTTP1 if instance.protocol == "http" else ALPN_TCP
    datacenter = instance.datacenter or around.config.host.datacenter
    context = client_context(held.identities["host"], held.authorities, (alpn,))
    start = time.monotonic()
    try:
        sock = socket.create_connection(split(instance.mesh), around.left(2.0))
    except OSError as error:
        return _unreachable(instance, start, error)
    try:
        name = str(ServerName(instance.service, datacenter, domain))
        with sock, context.wrap_socket(sock, server_hostname=name) as tls:
            seconds = time.monotonic() - start
            expected = str(SpiffeId.service(domain, instance.service))
            peer_identity(tls.getpeercert(binary_form=True), domain, expected)
            tls.settimeout(ALERT)
            try:
                # In TLS 1.3 its verdict about our certificate comes after the handshake, as an alert.
                if not tls.recv(1):
                    raise ssl.SSLEOFError("it closed the connection")
            except TimeoutError:
                pass
    except (OSError, PeerRefused, ValueError) as error:
        reason = "no-answer" if isinstance(error, TimeoutError) else handshake_failure_reason(error)
        detail = error.detail if isinstance(error, PeerRefused) else f"the handshake failed: {reason}"
        fix = REMEDIES.get(reason, "see the log there: journalctl -u hostproxy")
        return Tried(instance, time.monotonic() - start, detail, fix)
    return Tried(instance, seconds)


def catalog(around: Around) -> list[Instance] | None:
    """What the daemon knows, else what the file of the catalog says; None: neither."""
    document = around.ask("/catalog", "services")
    if document is not None:
        return [
            Instance(
                name, each["host"], each["address"], each["mesh"], each["datacenter"], entry["protocol"] or "http"
            )
            for name, entry in document["services"].items()
            for each in entry["instances"]
        ]
    path = around.config.discovery.file_path
    if around.config.discovery.backend != "file" or not path:
        return None
    from hostproxy.discovery.catalog import load

    try:
        found = load(path)
    except Invalid:
        return None  # the group configuration says what is wrong with it
    protocols = _protocols(around)
    return [
        Instance(name, each.host, each.address, each.mesh, each.datacenter, protocols.get(name, "http"))
        for name, several in found.items()
        for each in several
    ]


def _protocols(around: Around) -> Mapping[str, str]:
    """What each service speaks, as policy says, or conf.toml of those that run here."""
    from hostproxy.mesh import policy

    found = {service.name: service.protocol for service in around.config.services}
    if around.config.policy.path:
        try:
            services = policy.load(around.config.policy.path).services
        except Invalid:
            return found
        found |= {name: rules.protocol for name, rules in services.items() if rules.protocol}
    return found
