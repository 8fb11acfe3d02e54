"""Bytes for the TCP relays: a server that sends without end, and a client that throws away what comes.

Both are cheaper than any relay between them: the server sends pages of a file in memory (``sendfile``), the
client has the kernel drop the bytes (``MSG_TRUNC``) instead of copying them.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time

from tests.bench.origin import accepts
from tests.bench.processes import Failed, Processes, wait_until

CONNECTIONS = 4
_FILE_SIZE = 1 << 20  # bytes; a multiple of 256, so that the pattern of bytes goes on across its end
_PATTERN = bytes(range(256))
_CHECKED = 3 * _FILE_SIZE + 12_345  # bytes that are compared, in each relay, before it is measured


def serve(address: str, port: int) -> None:
    """Send the pattern to everybody who connects, until they close."""
    content = os.memfd_create("pump")
    os.write(content, _PATTERN * (_FILE_SIZE // len(_PATTERN)))
    listener = socket.create_server((address, port), backlog=128)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    offsets: dict[int, int] = {}
    open_connections: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == listener.fileno():
                connection, _ = listener.accept()
                connection.setblocking(False)
                open_connections[connection.fileno()] = connection
                offsets[connection.fileno()] = 0
                poll.register(connection, select.EPOLLOUT)
                continue
            try:
                offset = offsets[descriptor]
                sent = os.sendfile(descriptor, content, offset, _FILE_SIZE - offset)
                offsets[descriptor] = (offset + sent) % _FILE_SIZE
            except BlockingIOError:
                continue
            except OSError:
                poll.unregister(descriptor)
                open_connections.pop(descriptor).close()


def flows(address: str, port: int) -> bool:
    """Whether bytes come through by now."""
    try:
        with socket.create_connection((address, port), timeout=1) as connection:
            return bool(connection.recv(1))
    except OSError:
        return False


def check(address: str, port: int) -> None:
    """:class:`Failed` unless the relay at ``address`` delivers the server's very bytes."""
    with socket.create_connection((address, port), timeout=5) as connection:
        expected = _PATTERN * (_CHECKED // len(_PATTERN) + 1)
        received = bytearray()
        while len(received) < _CHECKED:
            chunk = connection.recv(262_144)
            if not chunk:
                raise Failed(f"the relay closed after {len(received)} bytes")
            received += chunk
        if received[:_CHECKED] != expected[:_CHECKED]:
            raise Failed("the relay changed bytes on their way")


def receive(address: str, port: int, seconds: float) -> tuple[int, float]:
    """Take bytes over :data:`CONNECTIONS` connections; return how many came, in how many seconds."""
    poll = select.epoll()
    connections = {}
    for _ in range(CONNECTIONS):
        connection = socket.create_connection((address, port), timeout=5)
        connection.setblocking(False)
        connections[connection.fileno()] = connection
        poll.register(connection, select.EPOLLIN)
    dropped = bytearray(_FILE_SIZE)
    total = 0
    start = time.perf_counter()
    try:
        while (elapsed := time.perf_counter() - start) < seconds:
            ready = poll.poll(1.0)
            if not ready:
                raise Failed(f"the relay stood still for a second after {total} bytes")
            for descriptor, _ in ready:
                count = connections[descriptor].recv_into(dropped, _FILE_SIZE, socket.MSG_TRUNC)
                if not count:
                    raise Failed(f"the relay closed a connection after {total} bytes")
                total += count
    finally:
        poll.close()
        for connection in connections.values():
            connection.close()
    return total, elapsed


def start(processes: Processes, address: str, port: int, core: int) -> None:
    """Start the server as a process of its own."""
    program = processes.start(
        "pump",
        [sys.executable, "-m", "tests.bench.pump", address, str(port)],
        core,
        processes.directory / "pump.log",
    )

    wait_until(lambda: accepts(address, port), [program], "the byte pump")


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
