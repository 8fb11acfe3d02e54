"""Calls that go on while hosts are changed: many short ones, and one connection that stays open."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.hosts.bed import Host
from tests.hosts.machine import Failed

# A service that answers at once, and grants WebSocket connections, on which it sends back every line.
SERVICE = r"""
import base64, hashlib, http.server

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        if self.headers.get("Upgrade") is None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")
            return
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "websocket")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while line := self.rfile.readline():
            self.wfile.write(line)

http.server.ThreadingHTTPServer(("127.0.0.1", 9001), Handler).serve_forever()
"""

# Until its input ends; the last line that it prints says how it went. Every second call is on a new connection.
_CALLER = r"""
import http.client, json, socket, sys, threading, time
proxy, url = ("127.0.0.1", 15001), "http://payments/"
done = threading.Event()
said = {"calls": 0, "failures": [], "lines": 0, "broken": ""}

def call():
    kept = http.client.HTTPConnection(*proxy, timeout=30)

    def failed(connection, error):
        what = "kept" if connection is kept else "new"
        said["failures"].append(f"{time.time() % 60:.3f} {what} {error!r}")
        connection.close()

    while not done.is_set():
        for connection in (kept, http.client.HTTPConnection(*proxy, timeout=30)):
            try:
                connection.request("GET", url)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    said["failures"].append(f"{answer.status} {answer.getheader('X-Hostproxy-Reason')}")
            except OSError as error:
                failed(connection, error)
            except http.client.HTTPException as error:
                failed(connection, error)
            said["calls"] += 1
            if connection is not kept:
                connection.close()
        time.sleep(0.02)

def stay():
    ask = (f"GET {url} HTTP/1.1\r\nHost: payments\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
           "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    try:
        with socket.create_connection(proxy, 30) as sock:
            lines = sock.makefile("rb")
            sock.sendall(ask.encode())
            while (head := lines.readline().strip()):
                if head.startswith(b"HTTP/") and b" 101 " not in head:
                    raise OSError(head.decode())
            while not done.wait(0.1):
                line = b"%d\n" % said["lines"]
                sock.sendall(line)
                if (back := lines.readline()) != line:
                    raise OSError(f"{back!r} for {line!r}")
                said["lines"] += 1
    except OSError as error:
        said["broken"] = f"{time.strftime('%X')} {error!r} after {said['lines']} lines"

threads = [threading.Thread(target=each) for each in (call, call, stay)]
for each in threads:
    each.start()
print("begun", flush=True)
sys.stdin.read()
done.set()
for each in threads:
    each.join()
print(json.dumps(said), flush=True)
"""


@dataclass
class Calls:
    """How it went, once they have ended."""

    calls: int = 0
    lines: int = 0  # there and back on the connection that stays open
    problems: str = ""  # empty: no call failed, and that connection did not break


@contextmanager
def calling(host: Host) -> Iterator[Calls]:
    """Call payments from ``host`` as long as it is open. Raises Failed when that can't be begun."""
    said = Calls()
    pipe = subprocess.PIPE
    with subprocess.Popen(host.command("python3", "-c", _CALLER), stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "begun\n":
            raise Failed(f"{host.name}: the calls have not begun")
        try:
            yield said
        finally:
            process.stdin.close()
            line = process.stdout.readline()
    if not line:
        raise Failed(f"{host.name}: the calls have ended before they were to")
    found = json.loads(line)
    said.calls, said.lines = found["calls"], found["lines"]
    failures = found["failures"]
    problems = [f"{len(failures)} of {said.calls} calls failed: {'; '.join(failures[:5])}"] if failures else []
    problems += [f"the open connection broke: {found['broken']}"] if found["broken"] else []
    if not said.calls or not said.lines:
        problems.append(f"there were {said.calls} calls, and {said.lines} lines on the open connection")
    said.problems = "; ".join(problems)
