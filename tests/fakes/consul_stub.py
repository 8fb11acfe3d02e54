"""A scripted Consul agent, for what a real one can't be made to do, or not at this size.

It is a process of its own, because it has to answer while a test blocks; :class:`ConsulStub` starts and controls it.
By hand, or from a benchmark::

    python -m tests.fakes.consul_stub --port 8500 &
    curl -X PUT '127.0.0.1:8500/_stub/service/web' -d '[{"address": "10.0.0.1", "port": 80, "status": "passing"}]'
    curl -X PUT '127.0.0.1:8500/_stub/fault' -d '{"path": "/v1/health/*", "status": 500}'

What can be said about an instance is in consul_catalog.Instance, about faults in consul_faults.Fault, and what else
can be asked of it in consul_control.Control. Answers are those of Consul 1.8.7 without ``?pretty``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from tests.fakes.consul_connection import Recorded
from tests.fakes.consul_faults import Fault
from tests.fakes.consul_server import serve

ROOT = Path(__file__).parents[2]
LIMIT = 30.0  # seconds for anything that is asked of it
_PR_SET_PDEATHSIG = 1


class ConsulStub:
    """The process, and the way to control it. It ends with this one, however that ends."""

    def __init__(self, *, datacenter: str = "dc1", node: str = "node-1", port: int = 0) -> None:
        self.datacenter, self.node, self.port = datacenter, node, port
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """As ``[discovery.consul] address`` has it. The port stays the same when it is started again."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> ConsulStub:
        """Start it, without any service."""
        assert self.process is None
        command = [sys.executable, "-m", "tests.fakes.consul_stub", "--parent", str(os.getpid())]
        command += ["--port", str(self.port), "--datacenter", self.datacenter, "--node", self.node]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=ROOT)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.stop()
            raise AssertionError("the stub of Consul has not started")
        self.port = int(line)
        return self

    def stop(self) -> None:
        """End it at once; connections are reset. Nothing of its state is kept."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait(LIMIT)
            assert process.stdout is not None
            process.stdout.close()

    def __enter__(self) -> ConsulStub:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def pause(self, stopped: bool) -> None:
        """Freeze it, or let it go on: connections stay, and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP if stopped else signal.SIGCONT)

    # What there is

    def set(self, service: str, *instances: Mapping[str, Any], datacenter: str = "") -> None:
        """Replace all instances of a service. The index moves even when they are the same."""
        self._control("PUT", f"service/{service}", {"dc": datacenter}, instances)

    def change(self, service: str, instance: str, *, datacenter: str = "", **changes: Any) -> None:
        """Change some fields of the instance with that ID."""
        self._control("PATCH", f"service/{service}/{instance}", {"dc": datacenter}, changes)

    def fill(self, services: int, instances: int, prefix: str = "service") -> None:
        """Have services PREFIX-0 and so on, each with instances of the IDs PREFIX-0-0 and so on."""
        self._control("PUT", "fill", {"services": services, "instances": instances, "prefix": prefix})

    def flap(self, service: str, instance: str, rate: float) -> None:
        """Let an instance pass and fail in turn, so many times a second; 0 ends that."""
        self._control("PUT", f"flap/{service}/{instance}", {"rate": rate})

    def restore(self, index: int) -> None:
        """Go on from another index, as when a snapshot is restored; who waits gets an answer."""
        self._control("PUT", "index", {"index": index})

    def coordinates(self, *nodes: Mapping[str, Any]) -> None:
        """Have these in /v1/coordinate/nodes."""
        self._control("PUT", "coordinates", {}, nodes)

    def settings(self, **settings: Any) -> None:
        """``leader``, ``connections`` (the most; 0 is any number), ``unknown_check`` (the status for it)."""
        self._control("PUT", "settings", settings)

    def forget_registrations(self) -> None:
        """The agent loses all that was registered with it."""
        self._control("DELETE", "agent")

    # What goes wrong

    def fault(self, path: str = "*", **fault: Any) -> None:
        """Something goes wrong from now on; see :class:`Fault`. What is told last comes first."""
        self._control("PUT", "fault", {}, Fault(path=path, **fault))

    def heal(self) -> None:
        """Nothing goes wrong any more. What hangs goes on hanging."""
        self._control("DELETE", "fault")

    # What it sees

    def requests(self, path: str = "*") -> list[Recorded]:
        """All requests with such a path since the start, or since :meth:`forget`."""
        recorded = msgspec.convert(self._control("GET", "requests"), list[Recorded])
        return [one for one in recorded if fnmatchcase(one.path, path)]

    def forget(self) -> None:
        """Begin a new list of requests."""
        self._control("DELETE", "requests")

    def state(self) -> dict[str, int]:
        """``index``; how many are ``blocked`` (queries), ``connections``, ``requests`` and ``poured`` (bytes)."""
        return dict(self._control("GET", "state"))

    def until(self, condition: Callable[[dict[str, int]], object], limit: float = 5.0) -> None:
        """Wait for a state. Not in the thread of a client's reactor."""
        end = time.monotonic() + limit
        while not condition(state := self.state()):
            assert time.monotonic() < end, f"it did not happen: {state}"
            time.sleep(0.01)

    def _control(self, method: str, path: str, params: Mapping[str, Any] | None = None, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        with contextlib.closing(connection):
            target = f"/_stub/{quote(path)}?{urlencode(params or {})}"
            connection.request(method, target, msgspec.json.encode(body))
            answer = connection.getresponse()
            content = answer.read()
        assert answer.status == 200, f"{method} {target}: {content.decode(errors='replace')}"
        return msgspec.json.decode(content)


def main() -> None:
    """Serve, and write the port on standard output once that has begun."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8500, help="0: a free one")
    parser.add_argument("--datacenter", default="dc1")
    parser.add_argument("--node", default="node-1", help="the name of the agent")
    parser.add_argument("--parent", type=int, default=0, help="end with this process, which has started it")
    options = parser.parse_args()
    if options.parent:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != options.parent:
            return  # it has ended before
    with contextlib.suppress(KeyboardInterrupt):
        ready = lambda port: print(port, flush=True)  # noqa: E731
        asyncio.run(serve(options.host, options.port, options.datacenter, options.node, ready))


if __name__ == "__main__":
    main()
