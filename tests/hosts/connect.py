"""``ProxyCommand`` for ssh, started on the wire: hands ssh a connection, with ``ProxyUseFdpass yes``."""

from __future__ import annotations

import socket
import sys

if __name__ == "__main__":
    with (
        socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as connection,
        socket.socket(fileno=1) as ssh,
    ):
        connection.settimeout(None)
        socket.send_fds(ssh, [b"\0"], [connection.fileno()])
