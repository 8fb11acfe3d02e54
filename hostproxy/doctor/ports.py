"""Who listens on the addresses of conf.toml: the daemon while it runs, nobody while it does not."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence

from hostproxy.config import Config
from hostproxy.config_controller import MODE
from hostproxy.doctor import remains, sockets
from hostproxy.doctor.findings import SHOWN, Around, Group, number_in, some
from hostproxy.mesh.addresses import UNIX, is_unix, split

CAP_NET_BIND_SERVICE = 10
UNPRIVILEGED = 1024  # the kernel's default for the first port that anybody may listen on
HANDED_OVER = "systemctl start hostproxy: they hand over to it, and no connection is lost"
SYSTEMD = 1  # opens the sockets of hostproxy.socket, and keeps them


def examine(group: Group, around: Around) -> None:
    """Look at all of them."""
    wanted = list(listeners(around.config))
    silent = around.status is None
    supervisor = remains.supervisor(around) if silent else None
    remaining = remains.workers(around) if silent else frozenset()
    held = _tcp(group, around, [each for each in wanted if not is_unix(each[1])], supervisor, remaining)
    held += _unix(group, around, [each for each in wanted if is_unix(each[1])], supervisor, remaining)
    if held and supervisor is not None:
        group.ok("listeners", f"{some(held)}: held by hostproxy, though process {supervisor} does not answer")
    elif held:
        pids = ", ".join(map(str, sorted(remaining)[:SHOWN]))
        found = f"{some(held)}: held by workers that a supervisor has left behind (pid {pids}); they serve on"
        group.warn("listeners", found, HANDED_OVER)
    _low(group, around, [each for each in wanted if not is_unix(each[1])])


def listeners(config: Config) -> Iterator[tuple[str, str]]:
    """Every address that the daemon listens on, with its key."""
    yield "[mesh] listen", config.mesh.listen
    yield "[admin] listen", config.admin.listen
    if config.outbound.listen:
        yield "[outbound] listen", config.outbound.listen
    for upstream in config.outbound.upstreams:
        yield f"[[outbound.upstream]] {upstream.service}", upstream.listen
    if config.identity.mode == MODE:
        yield "[controller] listen", config.controller.listen


def _tcp(
    group: Group,
    around: Around,
    wanted: Sequence[tuple[str, str]],
    supervisor: int | None,
    remaining: frozenset[int],
) -> list[str]:
    """Returns what processes of hostproxy hold for which no supervisor answers."""
    taken = list(sockets.table(around.proc, (sockets.LISTEN,)))
    found = {key: [each for each in taken if _overlap(each.address, address)] for key, address in wanted}
    owners, everything = sockets.owners(around.proc, {each.inode for several in found.values() for each in several})
    ours, running = around.processes() | {SYSTEMD}, around.status is not None
    kin = remaining if supervisor is None else remaining | {supervisor}
    good, unknown, held = [], [], []
    for key, address in wanted:
        mine, related, strange, hidden = False, False, [], False
        for each in found[key]:
            holders = owners.get(each.inode, [])
            if any(owner.pid in ours for owner in holders):
                mine = True
            elif any(owner.pid in kin for owner in holders):
                related = True
            elif holders:
                strange.append(str(holders[0]))
            else:
                hidden = True
        if mine or (not found[key] and not running):
            good.append(address)
        elif related and not strange:
            held.append(address)
        elif strange:
            fix = f"end it, or give {key} another address"
            group.fail("listeners", f"{key} = {address} is taken by {', '.join(dict.fromkeys(strange))}", fix)
        elif hidden:
            unknown.append(address)
        else:
            group.fail("listeners", f"nobody listens on {key} = {address}, though the daemon runs", _not_open(around))
    if unknown:
        who = "somebody" if everything else "somebody whom only root can see"
        found_text = f"{who} listens on {some(unknown)}"
        if running and not everything and set(unknown) <= _said(around):
            group.ok("listeners", f"the daemon says that it listens on {some(unknown)}")
        else:
            group.skip("listeners", found_text, "run it as root")
    if good:
        group.ok("listeners", f"{some(good)}: {'held by the daemon' if running else 'free'}")
    return held


def _not_open(around: Around) -> str:
    if around.status is not None and not around.status["ready"]:
        return "it is not ready: see the group daemon"
    return "reload it, and see its log: journalctl -u hostproxy"


def _said(around: Around) -> set[str]:
    """What the daemon says that it listens on; of the admin address it is known, as it has answered."""
    assert around.status is not None
    return {listener["address"] for listener in around.status["listeners"]} | {around.config.admin.listen}


def _unix(
    group: Group,
    around: Around,
    wanted: Sequence[tuple[str, str]],
    supervisor: int | None,
    remaining: frozenset[int],
) -> list[str]:
    """Returns what processes of hostproxy hold for which no supervisor answers."""
    held = []
    for key, address in wanted:
        path = address.removeprefix(UNIX)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(around.left(1.0))
            try:
                sock.connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                if around.status is None:
                    group.ok("listeners", f"{path}: free")
                else:
                    group.fail("listeners", f"nobody listens on {key} = {address}", _not_open(around))
            except PermissionError:
                group.skip("listeners", f"{path} cannot be tried", "run it as root")
            except OSError as error:
                group.warn("listeners", f"{path}: {error.strerror or error}", "see whether its queue is full: ss -lx")
            else:
                if around.status is not None:
                    group.ok("listeners", f"{path}: taken by the daemon")
                elif supervisor is not None or (remaining and _orphan(around, sock, remaining)):
                    held.append(address)
                else:
                    group.fail("listeners", f"{key} = {address} is taken by another program", "end it, or name another")
    return held


def _orphan(around: Around, sock: socket.socket, remaining: frozenset[int]) -> bool:
    """Whether a worker has the other end: the kernel tells who opened it, which may be the supervisor that is dead."""
    pid, _, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII")))
    return pid in remaining or not os.path.exists(f"{around.proc}/{pid}")


def _low(group: Group, around: Around, wanted: Sequence[tuple[str, str]]) -> None:
    first = number_in(f"{around.proc}/sys/net/ipv4/ip_unprivileged_port_start")
    first = UNPRIVILEGED if first is None else first
    low = [address for _, address in wanted if split(address)[1] < first]
    if not low:
        group.ok("low ports", f"none is below {first}: no privilege is needed")
    elif around.user.uid == 0 or _capable(around):
        group.ok("low ports", f"the daemon may listen on {some(low)}")
    elif around.status is not None or around.unit.get("LoadState") == "loaded":
        found = f"user {around.user.name} may not listen on {some(low)}, below {first}"
        group.fail("low ports", found, "AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, or a socket unit")
    else:
        group.skip("low ports", f"{some(low)} need a privilege, and there is neither a daemon nor a unit to ask")


def _capable(around: Around) -> bool:
    if "cap_net_bind_service" in around.unit.get("AmbientCapabilities", ""):
        return True
    if around.status is None:
        return False
    try:
        with open(os.path.join(around.proc, str(around.status["pid"]), "status"), encoding="utf-8") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
    except OSError:
        return False
    return bool(int(fields.get("CapEff", "0"), 16) >> CAP_NET_BIND_SERVICE & 1)


def _overlap(listening: str, wanted: str) -> bool:
    return sockets.covers(listening, wanted) or sockets.covers(wanted, listening)
