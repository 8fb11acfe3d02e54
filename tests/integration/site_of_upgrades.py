"""A host under a service manager, with a link to its code that can be switched, steady load, and long sessions."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.client import connect, receive_until
from tests.fakes.manager import Manager, alive, ended
from tests.fakes.origin import Connection, Origin
from tests.integration.host import Host, certificates, eventually
from tests.integration.mesh import CALLER

GRANT = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
ASK = (
    b"GET /chat HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

# What the console script of an installed release does.
SCRIPT = """#!{python}
import sys
from hostproxy.__main__ import main
sys.exit(main())
"""


def echo(connection: Connection) -> None:
    """Every byte back."""
    with contextlib.suppress(OSError):
        while part := connection.sock.recv(65536):
            connection.sock.sendall(part)


def switch(connection: Connection) -> None:
    """Grant an upgrade, then every byte back."""
    with contextlib.suppress(OSError):
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.sock.recv(65536)
            if not part:
                return
            data += part
        connection.sock.sendall(GRANT)
        echo(connection)


class Session:
    """A long connection: sends a line ten times a second, and expects it back."""

    def __init__(self, address: str, websocket: bool) -> None:
        self.failure = ""
        self.exchanged = 0
        self.born = time.monotonic()
        self._websocket = websocket
        self._sock = connect(address, 20)
        if websocket:
            self._sock.sendall(ASK)
            data = receive_until(self._sock, b"\r\n\r\n")
            assert data.startswith(b"HTTP/1.1 101"), data
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.1):
                line = b"%08d" % self.exchanged
                self._sock.sendall(line)
                got = b""
                while len(got) < len(line):
                    part = self._sock.recv(len(line) - len(got))
                    if not part:
                        raise ConnectionResetError("ended")
                    got += part
                if got != line:
                    raise ValueError(f"{got!r} instead of {line!r}")
                self.exchanged += 1
        except (OSError, ValueError) as error:
            kind = "websocket" if self._websocket else "tcp"
            self.failure = f"{kind}, {time.monotonic() - self.born:.1f} s: {error!r}"

    def close(self) -> str:
        """End it; why it broke before, if it did."""
        self._stop.set()
        self._thread.join(25)
        self._sock.close()
        return self.failure


class Site:
    """One host. ``switch_code`` puts another release in place."""

    def __init__(self, directory: Path, drain: str = "30s", workers: int = 2, watchdog: float = 0.0) -> None:
        self.directory = directory
        certificates(directory / "pki", "alpha", CALLER)
        self.origins = {"web": Origin(), "lines": Origin(), "chat": Origin()}
        self.origins["lines"].handle = echo
        self.origins["chat"].handle = switch
        self.host = Host(directory / "host", "alpha", certificates=directory / "pki", workers=workers)
        self.host.conf["limits"] = {"drain": drain}
        self.host.conf["service"].append({"name": CALLER, "instances": []})
        self.addresses = {}
        for name, origin in self.origins.items():
            self.addresses[name] = self.host.add_upstream(name)
            protocol = "tcp" if name == "lines" else "http"
            self.host.policy["service"][name] = {"protocol": protocol, "permissive": True}
            self.host.catalog.append({"service": name, "host": f"legacy-{name}", "address": origin.address})
        self.host.write()
        self.conf = str(self.host.directory / "conf.toml")
        self.current = directory / "current"
        self.release("good", SCRIPT)
        self.switch_code("good")
        environment = {"WATCHDOG_USEC": str(int(watchdog * 1e6))} if watchdog else {}
        self.manager = Manager(
            directory,
            [str(self.current / "bin" / "hostproxy"), "run", "-c", self.conf],
            self.host.directory / "output.log",
            environment,
        )

    def release(self, name: str, script: str) -> None:
        """Install one."""
        path = self.directory / name / "bin" / "hostproxy"
        path.parent.mkdir(parents=True)
        path.write_text(script.format(python=sys.executable))
        path.chmod(0o755)

    def switch_code(self, name: str) -> None:
        """Let the link lead to another release."""
        new = self.directory / "current.new"
        new.symlink_to(name)
        new.rename(self.current)

    def start(self) -> Site:
        """Start the service and wait until it says that it is ready."""
        since = time.monotonic()
        self.manager.start()
        self.host._sessions.append(self.manager.main)
        self.manager.wait_ready(since)
        self.host.process = self.manager.process
        return self

    def restart(self) -> None:
        """As systemctl restart."""
        self.manager.restart()
        self.host._sessions.append(self.manager.main)
        self.host.process = self.manager.process

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the release that works."""
        script = str(self.directory / "good" / "bin" / "hostproxy")
        return subprocess.run(
            [script, *words, "-c", self.conf], capture_output=True, text=True, timeout=90, check=False
        )

    def upgrade(self) -> None:
        """One that has to succeed."""
        before = self.manager.main
        done = self.command("upgrade")
        assert done.returncode == 0, done.stdout + done.stderr + self.host.output()
        eventually(lambda: self.manager.main != before, 5, "the service manager was not told of the new main process")
        eventually(lambda: not alive(before), 5, "the old supervisor does not leave")

    def reload(self) -> None:
        """One that has to succeed."""
        done = self.command("reload", "--wait")
        assert done.returncode == 0, done.stdout + done.stderr

    def session(self, websocket: bool) -> Session:
        """A long connection."""
        return Session(self.addresses["chat" if websocket else "lines"], websocket)

    @contextmanager
    def sessions(self, count: int = 2) -> Iterator[list[Session]]:
        """``count`` of each kind, none of which may break."""
        found = [self.session(kind) for kind in (False, True) for _ in range(count)]
        try:
            yield found
        finally:
            failures = [failure for failure in [each.close() for each in found] if failure]
        assert failures == []

    def close(self) -> None:
        """End everything."""
        with contextlib.suppress(AssertionError):
            ended(self.manager.main, signal.SIGKILL, 5)
        self.host.stop()
        self.manager.close()
        for origin in self.origins.values():
            origin.stop()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def listening(address: str) -> socket.socket:
    """A socket as a socket unit would have it."""
    host, _, port = address.rpartition(":")
    return socket.create_server((host, int(port)), backlog=128)
