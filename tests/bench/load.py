"""Load for HTTP: wrk as hard as it goes, and a client that sends at a fixed rate whatever comes back."""

from __future__ import annotations

import gc
import re
import select
import socket
import subprocess
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import percentile
from tests.bench.peers.site import DOMAIN, TARGET
from tests.bench.processes import Failed, settle_on

CONNECTIONS = 32
RATE = 1_000  # requests per second of the paced client
_SCRIPT = Path(__file__).with_name("requests.lua")
_SUMMARY = re.compile(r"^SUMMARY (.*)$", re.MULTILINE)
_CONTENT_LENGTH = re.compile(rb"^content-length:[ \t]*([0-9]+)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of request."""

    path: str
    response_size: int  # bytes of the response's body
    host: str = f"{TARGET}.{DOMAIN}"
    method: str = "GET"
    request_size: int = 0  # bytes of the request's body
    close: bool = False  # a new connection for each request


@dataclass(frozen=True, slots=True)
class Load:
    """What the client saw."""

    requests: int
    seconds: float
    p50: float  # seconds
    p99: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def wrk(address: str, port: int, workload: Workload, seconds: int, core: int) -> Load:
    """Full load over :data:`CONNECTIONS` connections; :class:`Failed` if a single request failed."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "5s", "-s", str(_SCRIPT)]
    command += [f"http://{address}:{port}{workload.path}", "--"]
    command += [workload.method, workload.path, workload.host, str(workload.request_size)]
    command += ["close" if workload.close else "keep"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds + 20,
        preexec_fn=settle_on(core),
    )
    return parse_wrk(done.stdout, done.stderr, workload.response_size)


def parse_wrk(output: str, errors: str, response_size: int) -> Load:
    """Read the line that requests.lua prints. Any failed request is :class:`Failed`."""
    found = _SUMMARY.search(output)
    if found is None:
        raise Failed(f"wrk printed no summary: {(errors or output).strip()[-500:]}")
    figures = {key: int(value) for key, value in (part.split("=") for part in found.group(1).split())}
    failures = {
        key: figures[key] for key in ("connect", "read", "write", "timeout", "status") if figures[key]
    }
    if failures:
        told = ", ".join(f"{count} {key}" for key, count in failures.items())
        raise Failed(f"failed requests at full load: {told} of {figures['requests']}")
    if not figures["requests"]:
        raise Failed("not one request was answered at full load")
    if figures["bytes"] < figures["requests"] * response_size:
        raise Failed(f"short responses: {figures['bytes']} bytes for {figures['requests']} x {response_size}")
    return Load(
        figures["requests"], figures["microseconds"] / 1e6, figures["p50"] / 1e6, figures["p99"] / 1e6
    )


def request_bytes(workload: Workload, number: int) -> bytes:
    """The same ten header fields as requests.lua sends; three of them vary with ``number``."""
    fields = [
        f"{workload.method} {workload.path} HTTP/1.1",
        f"Host: {workload.host}",
        "Connection: keep-alive",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        "Accept: application/json, text/plain;q=0.9, */*;q=0.8",
        "Accept-Language: en-GB,en;q=0.7,de;q=0.3",
        "Accept-Encoding: gzip, deflate, br",
        f"Cookie: session={number * 7919:032x}; theme=dark",
        "Authorization: Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJjYXJ0In0.MEUCIQDx5uS7c0ZB1r9v",
        f"X-Request-Id: 7f3c9a52-0d1e-4b6f-8a27-{number:012x}",
        f"Traceparent: 00-4bf92f3577b34da6a3ce929d{number:08x}-00f067aa{number:08x}-01",
    ]
    if workload.request_size:
        fields.append(f"Content-Length: {workload.request_size}")
    return ("\r\n".join(fields) + "\r\n\r\n").encode() + b"x" * workload.request_size


def response_length(data: bytes) -> int | None:
    """Bytes of the first response in ``data``, which may not all be there yet; None before its head's end.

    :class:`Failed` unless it is a 200 with a Content-Length.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[: end + 2]
    length = _CONTENT_LENGTH.search(head)
    if not head.startswith(b"HTTP/1.1 200 ") or length is None:
        raise Failed(f"not a plain 200: {head[:120]!r}")
    return end + 4 + int(length.group(1))


def exchange(connection: socket.socket, request: bytes) -> bytes:
    """Send one request on a blocking connection and return the body of its response."""
    connection.sendall(request)
    data = b""
    while (length := response_length(data)) is None or len(data) < length:
        chunk = connection.recv(262_144)
        if not chunk:
            raise Failed(f"connection closed after {len(data)} bytes of a response")
        data += chunk
    return data[data.find(b"\r\n\r\n") + 4 :]


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    intended: float = 0.0  # when the request under way should have been sent
    received: bytes = b""
    left: int = -1  # bytes of the response still to come; -1 before the end of its head


def paced(address: str, port: int, workload: Workload, seconds: float, rate: int = RATE) -> Load:
    """An open loop: a request every ``1 / rate`` seconds, due whether or not earlier ones were answered.

    Latency runs from the moment at which a request was due, so that a stall counts against every request
    that it delayed, not only against the one that was under way (no coordinated omission). When more than
    :data:`CONNECTIONS` are under way, the next ones wait for a connection, and that wait counts too.
    """
    requests = [request_bytes(workload, number) for number in range(500)]
    poll = select.epoll()
    connections: dict[int, _Connection] = {}
    for _ in range(CONNECTIONS):
        opened = socket.create_connection((address, port), timeout=5)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        exchange(opened, requests[0])
        opened.setblocking(False)
        connections[opened.fileno()] = _Connection(opened)
        poll.register(opened.fileno(), select.EPOLLIN)
    try:
        return _run(poll, connections, requests, int(seconds * rate), rate)
    finally:
        poll.close()
        for connection in connections.values():
            connection.socket.close()


def _run(
    poll: select.epoll, connections: dict[int, _Connection], requests: list[bytes], total: int, rate: int
) -> Load:
    idle = deque(connections.values())
    latencies: list[float] = []
    clock = time.perf_counter
    gc.collect()
    gc.disable()
    try:
        start = clock() + 0.005
        deadline = start + total / rate + 5.0
        sent = 0
        while len(latencies) < total:
            now = clock()
            if now > deadline:
                raise Failed(f"{total - len(latencies)} of {total} paced requests had no answer after 5 s")
            while sent < total and idle and start + sent / rate <= now:
                connection = idle.popleft()
                connection.intended = start + sent / rate
                connection.socket.send(requests[sent % len(requests)])
                sent += 1
            # select, because epoll_wait of Python rounds its timeout up to whole milliseconds
            wait = start + sent / rate - clock() if idle and sent < total else 0.1
            if not select.select([poll], [], [], max(wait, 0.0))[0]:
                continue
            for descriptor, _ in poll.poll(0):
                connection = connections[descriptor]
                if _receive(connection):
                    latencies.append(clock() - connection.intended)
                    idle.append(connection)
        elapsed = clock() - start
    finally:
        gc.enable()
    return Load(total, elapsed, percentile(latencies, 0.5), percentile(latencies, 0.99))


def _receive(connection: _Connection) -> bool:
    """Take what has come; true at the end of the response."""
    chunk = connection.socket.recv(262_144)
    if not chunk:
        raise Failed("the proxy closed a connection under a paced request")
    if connection.left < 0:
        connection.received += chunk
        length = response_length(connection.received)
        if length is None:
            return False
        connection.left = length - len(connection.received)
        connection.received = b""
    else:
        connection.left -= len(chunk)
    if connection.left < 0:
        raise Failed(f"{-connection.left} bytes too many in a response")
    if connection.left == 0:
        connection.left = -1
        return True
    return False
