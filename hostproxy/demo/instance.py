"""An instance of the demo's payments service: answers with its name, and with who it was told is calling.

SIGTERM ends it as a good service ends: it says that it is not well any more, and serves on until everybody knows.
"""

from __future__ import annotations

import argparse
import json
import signal
import socketserver
import threading
from http.server import BaseHTTPRequestHandler

# Seconds from SIGTERM to the end: the demo asks how it is five times a second, and two bad answers decide.
LEAVE = 2.0


class Payments(BaseHTTPRequestHandler):
    """POST /make-payment, and GET /health."""

    protocol_version = "HTTP/1.1"
    name = ""
    leaving = False

    def do_POST(self) -> None:
        """Take a payment."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(200, {"instance": self.name, "peer": self.headers.get("X-Forwarded-Client-Cert", "")})

    def do_GET(self) -> None:
        """Say whether it is well."""
        self._answer(503 if self.leaving else 200, {"instance": self.name})

    def _answer(self, status: int, content: dict[str, str]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the screen clean."""


class Server(socketserver.ThreadingTCPServer):
    """A thread per connection: hostproxy keeps a handful."""

    allow_reuse_address = True
    daemon_threads = True
    disable_nagle_algorithm = True
    request_queue_size = 128


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    Payments.name = arguments.name
    # One send per response: with two, delayed acknowledgements would cost 40 ms each.
    Payments.wbufsize = -1
    with Server((arguments.address, arguments.port), Payments) as server:

        def leave(number: int, frame: object) -> None:
            Payments.leaving = True
            threading.Timer(LEAVE, server.shutdown).start()

        signal.signal(signal.SIGTERM, leave)
        server.serve_forever()


if __name__ == "__main__":
    main()
