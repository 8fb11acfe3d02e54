"""Listening sockets that this process was born with: from socket units, and those that systemd kept over a restart.

They are told apart by the address that they are bound to. Names are for people only: two sockets may have the same.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from twisted.logger import Logger

FIRST = 3  # SD_LISTEN_FDS_START
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

_log = Logger()


def inherited(environment: MutableMapping[str, str], first: int = FIRST) -> dict[str, socket.socket]:
    """Take the sockets that were passed to this process, by address; no other process inherits them or their names."""
    values = [environment.pop(name, "") for name in _VARIABLES]
    pid, count, names = values[0], values[1], values[2].split(":")
    if pid != str(os.getpid()) or not count.isascii() or not count.isdigit():
        return {}
    found: dict[str, socket.socket] = {}
    for number, descriptor in enumerate(range(first, first + int(count))):
        name = names[number] if number < len(names) else ""
        try:
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
        except OSError as error:
            _log.warn("descriptor {number} ({name}) that was passed is no socket: {error}", number=descriptor,
                      name=name or "unnamed", error=error.strerror)  # fmt: skip
            continue
        address = listening_address(sock)
        if address and address not in found:
            if os.get_blocking(descriptor):
                # It is a property of the socket, which workers of a supervisor before us may be accepting on.
                _log.warn(
                    "the socket {name} for {address} was passed without NonBlocking=yes in the service: workers that a"
                    " killed supervisor left behind hang while the next one starts",
                    name=name or "unnamed",
                    address=address,
                )
            sock.setblocking(False)
            found[address] = sock
            continue
        if not address:
            _log.warn(
                "the socket {name} that was passed is closed: it does not listen for streams at an IP address or path",
                name=name or "unnamed",
            )
        sock.close()
    return found


def listening_address(sock: socket.socket) -> str:
    """Where a stream socket listens, as conf.toml has it; empty when it does not."""
    try:
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return ""
        name = sock.getsockname()
    except OSError:
        return ""
    if sock.family == socket.AF_UNIX:
        # Abstract names are bytes, and a socket without a name has an empty one.
        return f"unix:{name}" if isinstance(name, str) and name.startswith("/") else ""
    if sock.family == socket.AF_INET6:
        return f"[{name[0]}]:{name[1]}"
    return f"{name[0]}:{name[1]}" if sock.family == socket.AF_INET else ""
