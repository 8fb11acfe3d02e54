"""What no key of conf.toml can say alone: combinations that could not work, or not as they seem to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hostproxy.mesh import addresses
from hostproxy.mesh.document import key_text
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.scan import Path

if TYPE_CHECKING:
    from hostproxy.config import Config

HOST_IDENTITY = "host"  # as a caller: the host itself, no service of it


def check(config: Config, findings: Findings) -> None:
    """Note every combination that is refused. Values that were refused before are blank, and pass."""
    _check_versions(config, findings)
    _check_callers(config, findings)
    _check_services(config, findings)
    _check_listeners(config, findings)
    _check_discovery(config, findings)
    _check_limits(config, findings)


def _check_versions(config: Config, findings: Findings) -> None:
    if config.discovery.backend == "consul":
        findings.add(("discovery", "backend"), '"consul" is not in this version', 'use "file"')
    if config.identity.mode == "controller":
        findings.add(("identity", "mode"), '"controller" is not in this version', 'use "files"')


def _check_callers(config: Config, findings: Findings) -> None:
    local = {service.name for service in config.services} | {HOST_IDENTITY, ""}
    callers: list[tuple[Path, str]] = [(("outbound", "caller"), config.outbound.caller)]
    for index, upstream in enumerate(config.outbound.upstreams):
        callers.append((("outbound", "upstream", index, "caller"), upstream.caller))
    for path, caller in callers:
        if caller not in local:
            findings.add(path, f'"{caller}" is no service of this host', f'add a [[service]] "{caller}"')


def _check_services(config: Config, findings: Findings) -> None:
    first: dict[str, int] = {}
    for index, service in enumerate(config.services):
        if service.name and first.setdefault(service.name, index) != index:
            line, _ = findings.document.place(("service", first[service.name], "name"))
            findings.add(
                ("service", index, "name"),
                f'"{service.name}" is declared at line {line} already',
                "list all its instances there",
            )


def _listeners(config: Config) -> Iterator[tuple[Path, str]]:
    """Yield the addresses that the daemon listens on."""
    yield ("mesh", "listen"), config.mesh.listen
    yield ("admin", "listen"), config.admin.listen
    yield ("outbound", "listen"), config.outbound.listen
    for index, upstream in enumerate(config.outbound.upstreams):
        yield ("outbound", "upstream", index, "listen"), upstream.listen


def _check_listeners(config: Config, findings: Findings) -> None:
    if config.admin.listen and not addresses.is_local(config.admin.listen):
        findings.add(
            ("admin", "listen"),
            f'"{config.admin.listen}" can be reached from other hosts, and shows them everything',
            'use a loopback address or "unix:/path"',
        )
    taken: dict[
        str, list[tuple[Path, str]]
    ] = {}  # by port, so that a thousand upstreams are no million pairs
    for path, address in _listeners(config):
        if not address:
            continue
        for other_path, other in taken.setdefault(_port(address), []):
            if addresses.overlap(address, other):
                later, earlier = _in_order(path, other_path, findings)
                findings.add(later, f'"{address}" is taken', f"{_named(earlier, findings)} listens there")
                break
        taken[_port(address)].append((path, address))
    for index, service in enumerate(config.services):
        for number, instance in enumerate(service.instances):
            for path, address in taken.get(_port(instance), ()):
                if instance and addresses.overlap(instance, address):
                    findings.add(
                        ("service", index, "instances", number),
                        f'"{instance}" is hostproxy itself: traffic would go round in circles',
                        f"{_named(path, findings)} listens there",
                    )


def _check_discovery(config: Config, findings: Findings) -> None:
    path = ("discovery", "file", "path")
    if config.discovery.backend != "file" or config.discovery.file_path or findings.blames(path):
        return
    if config.outbound.upstreams:
        findings.add(path, "is missing", "[[outbound.upstream]] needs a catalog that says where services run")
    elif config.outbound.listen:
        findings.warn(path, "is not set", "without a catalog no service can be reached from this host")


def _check_limits(config: Config, findings: Findings) -> None:
    limits = config.limits
    for part, whole, why in (
        ("request_line", "head_size", "a head holds its request line"),
        ("header_size", "head_size", "a head holds its header fields"),
    ):
        blamed = findings.blames(("limits", part)) or findings.blames(("limits", whole))
        if not blamed and getattr(limits, part) > getattr(limits, whole):
            given = part if part in findings.document.data.get("limits", {}) else whole
            findings.add(("limits", given), f"{part} is more than {whole}", why)


def _port(address: str) -> str:
    return address if addresses.is_unix(address) else address.rpartition(":")[2]


def _in_order(one: Path, other: Path, findings: Findings) -> tuple[Path, Path]:
    """Return the later in the file first; a key that isn't there, whose default counts, is never to blame."""
    one_given, other_given = findings.document.has(one), findings.document.has(other)
    if one_given and other_given:
        place = findings.document.place
        return (one, other) if place(one) > place(other) else (other, one)
    return (one, other) if one_given else (other, one)


def _named(path: Path, findings: Findings) -> str:
    """Return a key as a message refers to it from elsewhere in the file."""
    if findings.document.has(path):
        return f"{key_text(path)} at line {findings.document.place(path)[0]}"
    return f"{key_text(path)} (by default)"
