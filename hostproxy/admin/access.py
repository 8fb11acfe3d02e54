"""Who may do more than look at what any program of this host may know: see live requests, change the log's level.

On a Unix socket, whoever its mode lets in. On a TCP port of this host anybody gets in, so there it is root and the
daemon's own user, by the word of the kernel about the socket at the other end.
"""

from __future__ import annotations

import os
import socket

from hostproxy.identity.sockets import SocketDiag, Unknown


class Access:
    """Asks the kernel."""

    def __init__(self, diag: SocketDiag | None = None, own: int | None = None) -> None:
        """``own`` is the user that may, beside root; ours if not given."""
        self._diag = diag if diag is not None else SocketDiag()
        self._allowed = (0, os.geteuid() if own is None else own)

    def objection(self, sock: socket.socket) -> str:
        """Why who is at the other end may not; empty: he may."""
        if sock.family == socket.AF_UNIX:
            return ""
        try:
            uid = self._diag.owner(sock).uid
        except (Unknown, OSError) as error:
            return f"it can't be known who asks: {error}"
        if uid in self._allowed:
            return ""
        return f"user {uid} may not: try as root, or as the daemon's user, or have [admin] listen on a Unix socket"

    def close(self) -> None:
        """Ask no more."""
        self._diag.close()
