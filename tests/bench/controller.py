"""How soon a policy is on all hosts, and what that costs the controller: ``python -m tests.bench.controller``.

The controller is the real one, on one core; the hosts are those of :mod:`tests.bench.hosts`, on another, and so is
Consul, if it is the store.
Exit status: 0 measured; 4 something did not happen.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import msgspec

from tests.bench.hosts import Storm, Task
from tests.bench.measure import Watch, cpu_time, memory, percentile
from tests.bench.processes import Failed, Processes, Program, raise_descriptor_limit, wait_until
from tests.consul import Consul

DOMAIN = "bench.example"
DNS = "controller.bench.example"
ADDRESS = "127.0.1.1"
PORT = 15009  # of every host
FILES = 20  # of the policy
SERVICE_SIZE = 512  # bytes of it
ARRIVALS = 50.0  # hosts a second that come first
LOOKS = 5  # at each of what operators ask for
LIMIT = 300.0  # seconds for anything
MIB = 1024 * 1024


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.controller", description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000, help="1000")
    parser.add_argument("--services", type=int, default=200, help="in the policy, of 512 bytes each (200)")
    parser.add_argument("--parallel", type=int, default=64, help="[push] parallel (64)")
    parser.add_argument("--rounds", type=int, default=3, help="policies that are applied (3)")
    parser.add_argument("--waves", default="100%", help='as for "policy apply --waves"; "100%%"')
    parser.add_argument("--storm", type=int, default=500, help="hosts that come back at once (500)")
    parser.add_argument("--store", choices=("sqlite", "consul"), default="sqlite", help="sqlite")
    parser.add_argument("--profile", metavar="FILE", help="have cProfile write there what the controller did")
    arguments = parser.parse_args(argv)
    cores = sorted(os.sched_getaffinity(0))
    raise_descriptor_limit()
    watch = Watch()
    try:
        # Programs that are not told where to run stay here, beside the hosts.
        os.sched_setaffinity(0, {cores[0]})
        with Processes() as processes, _consul(processes, arguments.store) as consul:
            _Measurement(processes, arguments, consul, cores[0], cores[-1]).run()
    except Failed as error:
        print(error, file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        return 130
    disturbance = watch.disturbance()
    print(f"Others used {disturbance.others:.0%} of the processors' time, {disturbance.stolen:.0%} was stolen.")
    return 0


@contextmanager
def _consul(processes: Processes, store: str) -> Iterator[str]:
    """The address of one that runs, if there is to be one."""
    if store != "consul":
        yield ""
        return
    consul = Consul(processes.directory / "consul").start()
    try:
        yield consul.address
    finally:
        consul.stop()


class _Measurement:
    def __init__(
        self, processes: Processes, arguments: argparse.Namespace, consul: str, hosts_core: int, core: int
    ) -> None:
        """``consul`` is its address; "" without one."""
        self._processes = processes
        self._arguments = arguments
        self._consul = consul
        self._hosts_core = hosts_core
        self._core = core
        self._directory = processes.directory / "controller"
        self._controller: Program
        self._hosts: Program
        self._read = 0  # bytes of what the hosts told
        self._news: list[dict[str, Any]] = []

    def run(self) -> None:
        """Measure, and print as it comes."""
        arguments = self._arguments
        self._start_controller()
        tokens = self._tokens(arguments.hosts)
        self._apply(0)
        before = self._used()
        self._start_hosts(tokens)
        enrolled = self._wait_for("enrolled")
        print(f"{arguments.hosts} hosts enrolled in {enrolled['seconds']:.1f} s, {self._cost(before)}", flush=True)
        self._show("arrived", "came first", arguments.hosts, self._used())
        for number in range(1, arguments.rounds + 1):
            self._push(number)
        self._look()
        for storm in self._storms():
            before = self._used()
            self._hosts.process.send_signal(signal.SIGUSR1)
            what = "restarted" if storm.restarted else "reported"
            self._show("storm", f"{what} over {storm.spread:g} s", storm.hosts, before)

    # The parts

    def _push(self, number: int) -> None:
        time.sleep(2.0)
        before, began = self._used(), time.monotonic()
        generation = self._apply(number)
        answered = time.monotonic() - began
        taken: dict[str, float] = {}
        wait_until(
            lambda: len(self._collect(taken, generation)) == self._arguments.hosts,
            [self._controller, self._hosts],
            f"generation {generation} on all hosts",
            LIMIT,
        )
        last = max(taken.values()) - began
        # Once it knows of all, as whoever asks it sees.
        wait_until(lambda: self._acknowledged(generation), [self._controller], "all acknowledgements", LIMIT)
        known = time.monotonic() - began
        cost = self._cost(before)
        wait_until(self._rolled_out, [self._controller], "the end of the rollout", LIMIT)
        times = [moment - began for moment in taken.values()]
        print(
            f"generation {generation} on {len(taken)} hosts: answered after {answered:.2f} s, "
            f"median {percentile(times, 0.5):.2f} s, p99 {percentile(times, 0.99):.2f} s, last {last:.2f} s, "
            f"known {known:.2f} s; {cost}",
            flush=True,
        )

    def _look(self) -> None:
        """How long operators wait for what they ask most often."""
        for path in ("/v1/hosts", "/v1/status"):
            times = []
            before = self._used()
            for _ in range(LOOKS):
                began = time.monotonic()
                self._local("GET", path)
                times.append(time.monotonic() - began)
            print(
                f"GET {path} is answered after {percentile(times, 0.5):.3f} s (the middle of {LOOKS}); "
                f"{self._cost(before)}",
                flush=True,
            )

    def _collect(self, taken: dict[str, float], generation: int) -> dict[str, float]:
        for news in self._told():
            if news.get("generation") == generation:
                taken.setdefault(news["host"], news["taken"])
        return taken

    def _acknowledged(self, generation: int) -> bool:
        return all(host["generation"] == generation for host in self._local("GET", "/v1/hosts")["hosts"])

    def _rolled_out(self) -> bool:
        rollout = self._local("GET", "/v1/rollout")["rollout"]
        if rollout["phase"] == "stopped":
            raise Failed(f"the rollout stopped: {rollout['reason']}")
        return bool(rollout["phase"] == "done")

    def _show(self, event: str, what: str, hosts: int, before: tuple[float, float]) -> None:
        found = self._wait_for(event)
        if found["failed"]:
            raise Failed(f"{found['failed']} of {hosts} hosts failed: {found['problem']}")
        bundles, reports = found["bundles"], found["reports"]
        print(
            f"{hosts} hosts {what}, within {found['seconds']:.1f} s: connection and bundle "
            f"p50 {percentile(bundles, 0.5) * 1e3:.0f} ms, p99 {percentile(bundles, 0.99) * 1e3:.0f} ms, "
            f"most {max(bundles) * 1e3:.0f} ms; report p50 {percentile(reports, 0.5) * 1e3:.0f} ms, "
            f"p99 {percentile(reports, 0.99) * 1e3:.0f} ms; {self._cost(before)}",
            flush=True,
        )

    def _storms(self) -> tuple[Storm, ...]:
        count = min(self._arguments.storm, self._arguments.hosts)
        return Storm(count, 30.0), Storm(count, 0.0), Storm(self._arguments.hosts, 30.0, restarted=False)

    # The controller

    def _start_controller(self) -> None:
        with closing(socket.create_server((ADDRESS, 0))) as free:
            self._port: int = free.getsockname()[1]
        command = [sys.executable, "-m", "controller"]
        options = ["--trust-domain", DOMAIN, "--dns", DNS, "--listen", f"{ADDRESS}:{self._port}"]
        subprocess.run([*command, "init", str(self._directory), *options], check=True, stdout=subprocess.DEVNULL)
        conf = self._directory / "controller.toml"
        text = conf.read_text().replace("[authority]\n", "[authority]\nper_minute = 100000\n")
        if self._consul:
            text = text.replace('backend = "sqlite"', f'backend = "consul"\nconsul_address = "{self._consul}"')
        conf.write_text(f"{text}\n[push]\nparallel = {self._arguments.parallel}\nport = {PORT}\n")
        if self._arguments.profile:
            command = [sys.executable, "-m", "cProfile", "-o", self._arguments.profile, *command[1:]]
        log = self._processes.directory / "controller.log"
        self._controller = self._processes.start("controller", [*command, "run", "-c", str(conf)], self._core, log)
        wait_until(self._leads, [self._controller], "the controller")

    def _leads(self) -> bool:
        try:
            return bool(self._local("GET", "/v1/status")["leading"])
        except OSError:
            return False

    def _tokens(self, count: int) -> dict[str, tuple[str, str]]:
        began = time.monotonic()
        found = {}
        with closing(self._connection()) as connection:
            for number in range(count):
                name = f"host-{number}"
                token = _asked(connection, "POST", "/v1/tokens", {"host": name, "life": 3600})["token"]
                found[name] = f"127.1.{number >> 8}.{number & 255}", token
        print(f"{count} tokens created in {time.monotonic() - began:.1f} s, one after the other", flush=True)
        return found

    def _apply(self, number: int) -> int:
        """Another policy; its generation."""
        plan = {"waves": self._arguments.waves.split(",")}
        request = {"files": policy(number, self._arguments.services), "plan": plan}
        generation: int = self._local("POST", "/v1/policy", request)["generation"]
        return generation

    def _connection(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost", timeout=LIMIT)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(LIMIT)
        connection.sock.connect(str(self._directory / "operator.sock"))
        return connection

    def _local(self, method: str, path: str, body: object = None) -> Any:
        with closing(self._connection()) as connection:
            return _asked(connection, method, path, body)

    def _used(self) -> tuple[float, float]:
        """Seconds of the controller's CPU, and by the clock."""
        return cpu_time([self._controller.pid]) / 1e9, time.monotonic()

    def _cost(self, before: tuple[float, float]) -> str:
        cpu, moment = (late - early for early, late in zip(before, self._used(), strict=True))
        used = memory([self._controller.pid])
        return (
            f"controller {cpu:.2f} s of CPU ({cpu / moment:.0%} of a core), "
            f"{used.proportional / MIB:.0f} MiB, peak {used.peak_resident / MIB:.0f} MiB"
        )

    # The hosts

    def _start_hosts(self, tokens: dict[str, tuple[str, str]]) -> None:
        directory = self._processes.directory / "hosts"
        directory.mkdir()
        task = Task(
            controller=(ADDRESS, self._port),
            dns=DNS,
            root=str(self._directory / "root.pem"),
            trust_domain=DOMAIN,
            port=PORT,
            hosts=tokens,
            arrival=len(tokens) / ARRIVALS,
            storms=self._storms(),
        )
        (directory / "task.json").write_bytes(msgspec.json.encode(task))
        command = [sys.executable, "-m", "tests.bench.hosts", str(directory)]
        log = self._processes.directory / "hosts.log"
        self._hosts = self._processes.start("hosts", command, self._hosts_core, log)

    def _told(self) -> Iterator[dict[str, Any]]:
        """What the hosts told since the last time."""
        with self._hosts.log.open("rb") as log:
            log.seek(self._read)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            news = msgspec.json.decode(line) if line.startswith(b"{") else {"problem": line.decode()}
            if news.get("problem") and not news.get("event"):
                print(f"hosts: {news['problem']}", file=sys.stderr)
            yield news

    def _wait_for(self, event: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def come() -> bool:
            found.extend(news for news in self._told() if news.get("event") == event)
            return bool(found)

        wait_until(come, [self._controller, self._hosts], f'"{event}" of the hosts', LIMIT)
        return found[0]


def policy(number: int, services: int) -> dict[str, str]:
    """Files for so many services; one line differs by the number."""
    files = {}
    for file in range(FILES):
        text = "".join(_service(service, services) for service in range(file, services, FILES))
        files[f"team-{file}.toml"] = text if file else f"# {number}\n{text}"
    return files


def _service(number: int, services: int) -> str:
    name = f"service-{number}"
    callers = ", ".join(f'"service-{(number + step) % services}"' for step in (1, 7))
    rule = f'[[service.{name}.allow]]\nfrom = [{callers}]\nmethods = ["GET", "POST"]\npaths = ["/v1/{{id}}/parts/*"]\n'
    head = f'[service.{name}]\nprotocol = "http"\ntimeout = "2s"\nbalance = "least-request"\n'
    text = head + rule * ((SERVICE_SIZE - len(head)) // len(rule))
    return text + "#" * (SERVICE_SIZE - len(text) - 1) + "\n"


def _asked(connection: http.client.HTTPConnection, method: str, path: str, body: object = None) -> Any:
    connection.request(method, path, None if body is None else msgspec.json.encode(body))
    response = connection.getresponse()
    content = response.read()
    if response.status not in (200, 201):
        raise Failed(f"{method} {path}: {response.status} {content[:500]!r}")
    return msgspec.json.decode(content)


if __name__ == "__main__":
    sys.exit(main())
