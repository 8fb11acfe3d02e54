"""A connection to the stub of Consul: requests out of bytes, and answers as Go sends them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote

import msgspec

PIECE = b'[{"Node":{"Node":"n"},"Service":{"Service":"huge"},"Checks":[]},' + b" " * 65_000  # of a huge body

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_TOKEN = re.compile(rb"\r\nx-consul-token: *([^\r]*)", re.IGNORECASE)


class Recorded(msgspec.Struct):
    """A request as it came."""

    method: str
    path: str
    params: dict[str, str]
    token: str
    time: float  # of the monotonic clock, which all processes have in common
    connection: int  # number of the connection


class Request(NamedTuple):
    """A request that is being answered."""

    recorded: Recorded
    body: bytes

    @property
    def control(self) -> bool:
        """Whether it is for the stub itself."""
        return self.recorded.path.startswith("/_stub/")


class Owner(Protocol):
    """Whoever answers."""

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None: ...

    def asked(self, connection: Connection, request: Request) -> None: ...


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.number = 0
        self.transport: Any = None
        self.request: Request | None = None  # being answered
        self.key = ("", "")  # of the owner's
        self.poured = 0  # bytes of a huge body
        self._data = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._pouring: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._writable.set()
        self.owner.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.cancel()
        self.owner.closed(self)
        if self._pouring is not None:
            self._pouring.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._next()

    def _next(self) -> None:
        if self.request is not None or (end := self._data.find(b"\r\n\r\n")) < 0:
            return
        head = bytes(self._data[: end + 2])
        length = _LENGTH.search(head)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(self._data) < whole:
            return
        body = bytes(self._data[end + 4 : whole])
        del self._data[:whole]
        method, target, _ = head[: head.index(b"\r\n")].decode("latin-1").split(" ", 2)
        path, _, query = target.partition("?")
        token = _TOKEN.search(head)
        recorded = Recorded(
            method,
            unquote(path),
            dict(parse_qsl(query, keep_blank_values=True)),
            token[1].decode("latin-1") if token else "",
            time.monotonic(),
            self.number,
        )
        self.request = Request(recorded, body)
        self.owner.asked(self, self.request)

    def later(self, delay: float, act: Callable[[], object]) -> None:
        """Do something, if the connection is still there then, and nothing else comes in between."""
        self.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay, act)

    def cancel(self) -> None:
        """Forget what was to be done later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def send(self, status: int, headers: dict[str, str], body: bytes, truncate: int = -1) -> None:
        """Answer, as Go does: what has more than 2048 bytes comes in one chunk."""
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{n}: {v}" for n, v in headers.items())]
        if len(body) > 2048:
            lines.append("Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        if truncate >= 0:
            self.transport.write(head + body[:truncate])
            self.transport.close()
            return
        self.transport.writelines((head, body))
        self.request = None
        self._next()

    def pour(self, headers: dict[str, str], size: int) -> None:
        """Answer with a body of that size."""
        self._pouring = asyncio.get_running_loop().create_task(self._pour(headers, size))

    async def _pour(self, headers: dict[str, str], size: int) -> None:
        lines = ["HTTP/1.1 200 OK", *(f"{n}: {v}" for n, v in headers.items()), f"Content-Length: {size}"]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        while size > 0:
            await self._writable.wait()
            self.transport.write(PIECE[:size])
            self.poured += len(PIECE[:size])
            size -= len(PIECE)
        self.request = None
        self._next()
