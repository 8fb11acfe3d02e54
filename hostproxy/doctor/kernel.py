"""What the kernel, the system and Python have to give."""

from __future__ import annotations

import os
import select
import socket
import ssl
import sys
from importlib import metadata

from hostproxy.doctor.findings import Around, Group, number_in

SOMAXCONN = 1024  # connections that wait to be accepted; less is reached by an ordinary burst
PORTS = 10_000  # of outgoing connections to one address
DESCRIPTORS = 4096  # what a worker is of use with
OWN_DESCRIPTORS = 64  # listeners, channel, logs, pipes
CONNTRACK_WARN, CONNTRACK_FULL = 0.75, 0.95


def examine(group: Group, around: Around) -> None:
    """Look at all of it."""
    _features(group, around)
    _descriptors(group, around)
    _sysctls(group, around)
    _conntrack(group, around)
    _python(group, around)
    _unit(group, around)


def _features(group: Group, around: Around) -> None:
    select.epoll().close()
    there = [f"Linux {os.uname().release}", "epoll"]
    read, write = os.pipe()
    try:
        splice = getattr(os, "splice", None)
        if splice is None:
            raise OSError("Python has no os.splice")
        os.write(write, b".")
        with open("/dev/null", "wb") as sink:
            splice(read, sink.fileno(), 1)
        there.append("splice")
    except OSError as error:
        group.warn("features", f"no splice ({error}): TCP costs more", "let the unit use it: SystemCallFilter")
    finally:
        os.close(read)
        os.close(write)
    asked_for = [service.name for service in around.config.services if service.known_by_kernel]
    problem = _diagnosis()
    if not problem:
        there.append("sock_diag")
    elif asked_for:
        fix = "modprobe tcp_diag, and AF_NETLINK in RestrictAddressFamilies= of the unit"
        group.fail("features", f"callers of {', '.join(asked_for)} cannot be told apart: {problem}", fix)
    else:
        group.skip("features", f"sock_diag: {problem}; nothing here needs it")
    group.ok("features", ", ".join(there))


def _diagnosis() -> str:
    """Why the kernel does not say who connects, or an empty string: asked about a connection of our own."""
    from hostproxy.identity.sockets import SocketDiag, Unknown

    diagnosis = SocketDiag()
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 1.0):
            accepted, _ = server.accept()
            with accepted:
                diagnosis.owner(accepted)
    except (Unknown, OSError) as error:
        return str(error)
    finally:
        diagnosis.close()
    return ""


def _descriptors(group: Group, around: Around) -> None:
    """Each connection may need a second one to an endpoint."""
    limits = around.config.limits
    have, whose = limit(around)
    if have is None:
        group.skip("descriptors", f"the limit of {whose} cannot be read", "run it as root")
        return
    wanted = 2 * limits.connections + OWN_DESCRIPTORS
    text = f"{have:,} for each process ({whose})"
    if have < min(DESCRIPTORS, wanted):
        group.fail("descriptors", f"{text}: too few to carry traffic", f"LimitNOFILE={max(wanted, 65536)} in the unit")
    elif have < wanted:
        found = f"{text}, and [limits] connections = {limits.connections} needs {wanted:,}"
        group.warn("descriptors", found, f"LimitNOFILE={wanted} in the unit, or a lower [limits] connections")
    else:
        group.ok("descriptors", text)


def limit(around: Around) -> tuple[int | None, str]:
    """The most open files of a worker, and whose limit that is."""
    if around.status is not None:
        pid = max(around.processes())
        try:
            with open(f"{around.proc}/{pid}/limits", encoding="ascii") as file:
                line = next(line for line in file if line.startswith("Max open files"))
        except (OSError, StopIteration):
            return None, f"process {pid}"
        return _number(line.split()[4]), f"process {pid}"
    if around.unit.get("LoadState") == "loaded":
        return _number(around.unit.get("LimitNOFILE", "")), "the unit hostproxy.service"
    import resource

    # The daemon takes all that it may.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return (sys.maxsize if hard == resource.RLIM_INFINITY else hard), "here, as no daemon runs"


def _number(text: str) -> int | None:
    if text in ("unlimited", "infinity"):
        return sys.maxsize
    return int(text) if text.isdecimal() else None


def _sysctls(group: Group, around: Around) -> None:
    waiting = number_in(f"{around.proc}/sys/net/core/somaxconn")
    if waiting is None:
        group.skip("backlog", "net.core.somaxconn cannot be read")
    elif waiting < SOMAXCONN:
        found = f"net.core.somaxconn is {waiting}: a burst of more connections is refused"
        group.warn("backlog", found, "sysctl -w net.core.somaxconn=4096")
    else:
        group.ok("backlog", f"net.core.somaxconn is {waiting:,}")
    try:
        with open(f"{around.proc}/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            low, high = map(int, file.read().split())
    except (OSError, ValueError):
        group.skip("local ports", "net.ipv4.ip_local_port_range cannot be read")
        return
    if high - low + 1 < PORTS:
        found = f"{high - low + 1:,} ports for outgoing connections to one address ({low}-{high})"
        group.warn("local ports", found, 'sysctl -w net.ipv4.ip_local_port_range="32768 60999"')
    else:
        group.ok("local ports", f"{high - low + 1:,} for outgoing connections ({low}-{high})")


def _conntrack(group: Group, around: Around) -> None:
    count = number_in(f"{around.proc}/sys/net/netfilter/nf_conntrack_count")
    most = number_in(f"{around.proc}/sys/net/netfilter/nf_conntrack_max")
    if count is None or not most:
        group.ok("conntrack", "connections are not tracked")
        return
    text, fix = f"{count:,} of {most:,} connections are tracked", f"sysctl -w net.netfilter.nf_conntrack_max={most * 4}"
    if count > CONNTRACK_FULL * most:
        group.fail("conntrack", f"{text}: new ones are dropped", fix)
    elif count > CONNTRACK_WARN * most:
        group.warn("conntrack", text, fix)
    else:
        group.ok("conntrack", text)


def _python(group: Group, around: Around) -> None:
    version = sys.version.split()[0]
    if not ssl.HAS_TLSv1_3:
        found = f"Python {version} with {ssl.OPENSSL_VERSION} has no TLS 1.3"
        group.fail("python", found, "install OpenSSL 1.1.1 or newer")
    else:
        group.ok("python", f"Python {version}, {ssl.OPENSSL_VERSION}")
    if around.config.discovery.backend == "consul":
        try:
            old = metadata.version("python-consul")
        except metadata.PackageNotFoundError:
            return
        found = f"python-consul {old} is installed, which has the import name of py-consul"
        group.fail("python", found, "pip uninstall python-consul && pip install --force-reinstall py-consul")


def _unit(group: Group, around: Around) -> None:
    unit = around.unit
    if not unit:
        group.skip("systemd", "no systemd runs here")
        return
    state = unit.get("LoadState")
    if state == "not-found":
        group.skip("systemd", "there is no unit hostproxy.service")
        return
    if state != "loaded":
        group.fail("systemd", f"hostproxy.service is {state}", "systemctl status hostproxy; systemd-analyze verify it")
        return
    active = f"{unit.get('ActiveState')} ({unit.get('SubState')})"
    if unit.get("ActiveState") != "active":
        found = f"hostproxy.service is {active}, result {unit.get('Result')}"
        group.fail("systemd", found, "journalctl -u hostproxy says why; systemctl restart hostproxy")
    else:
        group.ok("systemd", f"hostproxy.service is {active}")
    if unit.get("NeedDaemonReload") == "yes":
        group.warn("systemd", "the unit has changed on disk", "systemctl daemon-reload")
    if unit.get("UnitFileState") not in ("enabled", "static", "enabled-runtime"):
        found = f"hostproxy.service is {unit.get('UnitFileState')}: a reboot does not start it"
        group.warn("systemd", found, "systemctl enable hostproxy")
    if unit.get("WatchdogUSec") in (None, "0", "infinity", ""):
        group.warn("systemd", "no watchdog: a daemon that hangs is not restarted", "WatchdogSec=15s in the unit")
    restarts = unit.get("NRestarts", "0")
    if restarts not in ("0", ""):
        group.warn("systemd", f"systemd restarted it {restarts} times", "journalctl -u hostproxy says why")
