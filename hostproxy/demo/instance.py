"""An instance of the demo's payments service: answers with its name, and with who it was told is calling."""

from __future__ import annotations

import argparse
import json
import socketserver
from http.server import BaseHTTPRequestHandler


class Payments(BaseHTTPRequestHandler):
    """POST /make-payment."""

    protocol_version = "HTTP/1.1"
    name = ""

    def do_POST(self) -> None:
        """Take a payment."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        told = {"instance": self.name, "peer": self.headers.get("X-Forwarded-Client-Cert", "")}
        body = json.dumps(told).encode()
        self.send_response(200)
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
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    Payments.name = arguments.name
    # One send per response: with two, delayed acknowledgements would cost 40 ms each.
    Payments.wbufsize = -1
    with Server(("127.0.1.2", arguments.port), Payments) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
