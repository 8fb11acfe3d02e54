from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from hostproxy import config
from hostproxy.config import Config
from hostproxy.mesh import storage
from hostproxy.mesh.messages import Confirm, Figures, HostReport, decode, encode
from hostproxy.steering.steering import Steering
from tests.discovery.conftest import Loop
from tests.fakes.fake_controller import FakeController
from tests.integration.host import free_port

CONF = """
[host]
name = "web-1"
address = "127.0.0.1"
state_directory = "state"
[mesh]
trust_domain = "corp.example"
[outbound]
caller = "cart"
[[service]]
name = "cart"
[[service]]
name = "web"
[identity]
mode = "controller"
[controller]
url = "{url}"
ca_fingerprint = "{fingerprint}"
join_token_file = "token"
listen = "127.0.0.1:{port}"
interval = "1h"
"""


class Scene:
    """A host, its controller, and a reactor."""

    def __init__(self, loop: Loop, path: Path) -> None:
        self.loop = loop
        self.path = path
        self.controller = FakeController(loop.reactor, path / "authority")
        self.controller.listen()
        self.port = free_port("127.0.0.1")
        self.shift = 0.0  # of the host's wall clock
        self.host: Steering | None = None
        self.token = path / "token"
        self.write_token("a-token-of-16-bytes")

    def write_token(self, text: str) -> None:
        self.token.write_text(text + "\n")
        os.chmod(self.token, 0o600)

    def config(self, **changes: str) -> Config:
        fields = {"url": self.controller.url, "fingerprint": self.controller.authority.fingerprint, "port": self.port}
        file = self.path / "conf.toml"
        conf = changes.pop("conf", CONF)
        file.write_text(conf.format(**(fields | changes)))
        return config.load(str(file))

    def start(self, **changes: str) -> Steering:
        """Start the host."""
        self.host = Steering(
            self.loop.reactor, self.config(**changes), Figures, lambda: 0.0, lambda: time.time() + self.shift
        )
        self.host.start()
        return self.host

    def stop(self) -> None:
        if self.host is not None:
            self.host.stop()
            self.host = None

    def again(self) -> Steering:
        """Stop and start."""
        self.stop()
        self.loop.run_for(0.05)
        return self.start()

    def ready(self) -> Steering:
        """Start, and wait until it has everything."""
        self.controller.offer()
        host = self.start()
        self.loop.until(lambda: host.state().state == "applied" and len(host.identities.value.by_name) == 3)
        self.loop.until(lambda: host.state().connected)
        return host

    def ask(self) -> None:
        """Let it ask the controller now, and wait for the end of that."""
        host = self.host
        assert host is not None
        self.loop.until(lambda: not host._asking)
        host._schedule(0.0)
        self.loop.until(lambda: host._asking)
        self.loop.until(lambda: not host._asking)

    def push(self, bundle: bytes) -> HostReport:
        """Bring a bundle, as the controller does; returns the report."""
        return self.tell("PUT", "/v1/bundle", bundle)

    def confirm(self, generation: int, digest: str) -> HostReport:
        """Tell it to stay with what it has."""
        return self.tell("POST", "/v1/confirm", encode(Confirm(epoch=1, generation=generation, digest=digest)))

    def tell(self, method: str, path: str, body: bytes) -> HostReport:
        self.loop.until(lambda: self.host and self.host.state().listening)
        told = self.aside(lambda: self.controller.tell(self.port, method, path, body))
        assert told[0] == 200, told[1]
        return decode(told[1], HostReport)

    def wait(self, coroutine: Any) -> Any:
        """What something of the reactor's comes to."""
        done: list[Any] = []
        Deferred.fromCoroutine(coroutine).addBoth(done.append)
        self.loop.until(lambda: done, 10.0)
        if isinstance(done[0], Failure):
            done[0].raiseException()
        return done[0]

    def aside(self, work: Callable[[], Any]) -> Any:
        """Run something that waits, beside the reactor."""
        done: list[Any] = []

        def run() -> None:
            try:
                done.append(work())
            except Exception as error:
                done.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        self.loop.until(lambda: done, 10.0)
        thread.join()
        if isinstance(done[0], Exception):
            raise done[0]
        return done[0]

    def problem(self, text: str, seconds: float = 5.0) -> str:
        """Wait until the host has a problem that says this."""
        host = self.host
        assert host is not None
        try:
            self.loop.until(lambda: any(text in each for each in host.state().problems), seconds)
        except AssertionError:
            raise AssertionError(host.state().problems) from None
        return next(each for each in host.state().problems if text in each)


class Full:
    """A disk that takes nothing while it is ``on``."""

    on = False


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Full:
    full = Full()
    write = storage.write

    def refuse(path: str, content: bytes, mode: int) -> None:
        if full.on:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content, mode)

    monkeypatch.setattr(storage, "write", refuse)
    return full


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def scene(loop: Loop, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(loop, tmp_path)
    yield scene
    scene.stop()
    scene.controller.close()
    loop.run_for(0.05)
