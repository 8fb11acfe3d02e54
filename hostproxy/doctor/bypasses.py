"""Ways around the proxy: instances that other hosts reach directly, and programs here that call others directly."""

from __future__ import annotations

import ipaddress
import os

from hostproxy.doctor import peers, sockets
from hostproxy.doctor.findings import Around, Group, some
from hostproxy.doctor.sockets import Owner, Socket
from hostproxy.mesh.addresses import ANY, UNIX, is_unix


def examine(group: Group, around: Around) -> None:
    """Look for both."""
    _instances(group, around)
    _calls(group, around)


def _instances(group: Group, around: Around) -> None:
    """Where the instances of this host listen."""
    wanted = [(service.name, address) for service in around.config.services for address in service.instances]
    if not wanted:
        group.ok("instances", "no service has an instance here")
        return
    listening = list(sockets.table(around.proc, (sockets.LISTEN,)))
    found = {address: _of(address, listening) for _, address in wanted}
    owners, _ = sockets.owners(around.proc, {each.inode for several in found.values() for each in several})
    good = []
    for name, address in wanted:
        if is_unix(address):
            path = address.removeprefix(UNIX)
            if not os.path.exists(path):
                group.warn("instances", f"{name}: there is no {path}", "start it, or take it out of [[service]]")
            continue
        if not found[address]:
            group.warn("instances", f"{name}: nobody listens on {address}", "start it, or take it out of [[service]]")
            continue
        open_to = [each for each in found[address] if _reachable(each.ip)]
        for each in open_to:
            port = each.port
            found_text = f"{name}: {_who(each, owners)} listens on {each.address}: others reach it without mutual TLS"
            fix = f"have it listen on 127.0.0.1:{port}, or drop what comes to port {port} from elsewhere (nft)"
            group.warn("instances", found_text, fix)
        if not open_to:
            good.append(f"{name} on {address}")
    if good:
        group.ok("instances", f"only on this host: {some(good)}")


def _of(address: str, listening: list[Socket]) -> list[Socket]:
    """The sockets that connections to ``address`` can come to."""
    return [] if is_unix(address) else [each for each in listening if sockets.covers(each.address, address)]


def _reachable(ip: str) -> bool:
    return ip in ANY or not ipaddress.ip_address(ip).is_loopback


def _who(each: Socket, owners: dict[int, list[Owner]]) -> str:
    return str(owners[each.inode][0]) if each.inode in owners else f"a process of user {each.uid}"


def _calls(group: Group, around: Around) -> None:
    """Connections to instances of other hosts that are not the daemon's."""
    known = peers.catalog(around)
    if known is None:
        group.skip("calls", "where instances are, only the daemon knows, and it does not answer")
        return
    local = {address for service in around.config.services for address in service.instances}
    far = {
        each.address: each
        for each in known
        if each.host != around.config.host.name and not is_unix(each.address) and each.address not in local
    }
    open_now = [each for each in sockets.table(around.proc, (sockets.ESTABLISHED,)) if each.peer in far and each.inode]
    owners, everything = sockets.owners(around.proc, {each.inode for each in open_now})
    ours = around.processes()
    found: dict[str, dict[str, None]] = {}
    hidden = 0
    for each in open_now:
        holders = owners.get(each.inode, [])
        if any(owner.pid in ours for owner in holders):
            continue
        if not holders and not everything and each.uid == around.user.uid:
            hidden += 1  # it may be the daemon's
            continue
        who = str(holders[0]) if holders else f"a process of user {each.uid}"
        found.setdefault(who, {})[f"{far[each.peer].service} at {each.peer}"] = None
    for who, targets in found.items():
        text = f"{who} is connected to {some(list(targets))} around the proxy"
        group.warn("calls", text, "have it call through an [[outbound.upstream]] port or the HTTP proxy port")
    if hidden:
        group.skip("calls", f"only root can see whose {hidden} connections to instances are", "run it as root")
    elif not found:
        group.ok("calls", f"no program is connected to any of {len(far)} instances of other hosts")
