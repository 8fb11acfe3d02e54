"""The operators' interface of a controller that says what a test wants, on a Unix socket."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

Answer = tuple[int, Any]  # status, and a document or the octets of the body


class FakeApi(socketserver.ThreadingUnixStreamServer):
    """``answers`` by "METHOD /path?query"; a list is answered one by one, the last for ever. None: silence."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Handler)
        self.address = f"unix:{path}"
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []  # "METHOD /path?query", and the body
        self.hosts: set[str | None] = set()
        self.released = threading.Event()

    def bodies(self, what: str) -> list[Any]:
        """What was sent with each request of this kind."""
        return [body for asked, body in self.asked if asked == what]

    def answer(self, what: str, body: Any) -> Answer | None:
        self.asked.append((what, body))
        found = self.answers.get(what, (404, {"error": "there is no such path"}))
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found


class _Handler(BaseHTTPRequestHandler):
    server: FakeApi
    timeout = 10

    def _respond(self) -> None:
        self.server.hosts.add(self.headers["Host"])
        octets = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        found = self.server.answer(f"{self.command} {self.path}", json.loads(octets) if octets else None)
        if found is None:
            self.server.released.wait(10)
            return
        status, document = found
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _respond

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextlib.contextmanager
def serving(path: Path) -> Iterator[FakeApi]:
    """One, until the end."""
    with FakeApi(path) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def host(name: str, state: str = "SYNCED", **more: Any) -> dict[str, Any]:
    """A row of GET /v1/hosts."""
    return {
        "name": name,
        "state": state,
        "denied": False,
        "denied_because": "",
        "address": "10.0.0.1",
        "version": "0.1.0",
        "epoch": 1,
        "generation": 3,
        "wanted": 3,
        "confirmed": True,
        "reported": 1000.0,
        "certificate_ends": 5000.0,
        "enrolled": 10.0,
        "problems": [],
        "push_problem": "",
        **more,
    }


def rollout(phase: str = "running", **more: Any) -> dict[str, Any]:
    """The answer to GET /v1/rollout."""
    found = {
        "version": {"epoch": 1, "generation": 4},
        "before": {"epoch": 1, "generation": 3},
        "plan": {},
        "actor": "uid 0 (root)",
        "began": 900.0,
        "waves": [["db-1"], ["db-2", "web-1"]],
        "wave": 0,
        "wave_began": 900.0,
        "phase": phase,
        "ended": 0.0,
        "reason": "the first wave was told",
        **more,
    }
    return {"rollout": found, "now": 1000.0}
