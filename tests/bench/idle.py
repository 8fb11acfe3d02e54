"""Many keep-alive connections that do nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.load import Workload, exchange, request_bytes
from tests.bench.processes import Failed

_PER_SOURCE = 2_500  # connections from one source address, far from its 28,000 ephemeral ports
_PROBES = 100  # connections that have to answer once more after the wait


@contextmanager
def held(address: str, port: int, workload: Workload, count: int) -> Iterator[list[socket.socket]]:
    """``count`` connections, each of which has had one response."""
    connections: list[socket.socket] = []
    request = request_bytes(workload, 1)
    try:
        for number in range(count):
            connection = socket.socket()
            connections.append(connection)
            connection.settimeout(5)
            connection.bind((f"127.0.3.{1 + number // _PER_SOURCE}", 0))
            connection.connect((address, port))
            exchange(connection, request)
        yield connections
    except OSError as error:
        raise Failed(f"connection {len(connections)} of {count}: {error}") from error
    finally:
        for connection in connections:
            connection.close()


def check_alive(connections: list[socket.socket], workload: Workload) -> None:
    """:class:`Failed` if one was closed, or if one of a sample does not answer any more."""
    for connection in connections:
        connection.setblocking(False)
        try:
            if not connection.recv(1, socket.MSG_PEEK):
                raise Failed("the proxy closed an idle connection")
            raise Failed("the proxy sent something on an idle connection")
        except BlockingIOError:
            connection.settimeout(5)
    for connection in connections[:: max(len(connections) // _PROBES, 1)]:
        exchange(connection, request_bytes(workload, 2))
