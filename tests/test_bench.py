"""The benchmark's pure parts: statistics, what the clients make of answers, and every configuration."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from twisted.logger import LogLevel

from hostproxy import config
from hostproxy.control.logs import Lines
from hostproxy.discovery import catalog
from hostproxy.mesh import policy
from hostproxy.route.table import RouteTable
from tests.bench import certificates, discovery, load, measure, processes, report
from tests.bench.__main__ import main
from tests.bench.cases import CASES, Case
from tests.bench.measure import Spread
from tests.bench.peers import envoy, haproxy, hostproxy, nginx, traefik
from tests.bench.peers.peer import changed
from tests.bench.peers.site import Certificates, Protocol, Site
from tests.bench.processes import Failed, Processes
from tests.bench.rounds import DIRECT, Outcome, Plan
from tests.bench.stage import service_names

SERVICES = {"payments": ("127.0.2.1:8080", "127.0.2.2:8080"), "other": ("127.0.2.1:8080",)}


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("certificates") / "all", SERVICES)


def site_of(issued: Certificates, directory: Path, hops: Literal[1, 2], protocol: Protocol = "http") -> Site:
    return Site(
        directory=directory,
        protocol=protocol,
        listen="127.0.1.1:7001",
        mesh="127.0.1.2:7002",
        admins=("127.0.1.1:7003", "127.0.1.2:7004"),
        spare="127.0.1.1:7005",
        services=SERVICES,
        certificates=issued,
        hops=hops,
    )


class TestStatistics:
    @pytest.mark.parametrize(
        ("share", "expected"), [(0.0, 1), (0.2, 1), (0.21, 2), (0.5, 3), (0.99, 5), (1.0, 5)]
    )
    def test_percentile_is_the_nearest_rank(self, share: float, expected: float) -> None:
        assert measure.percentile([5, 3, 1, 4, 2], share) == expected

    def test_p99_of_a_hundred_leaves_out_one(self) -> None:
        assert measure.percentile(range(1, 101), 0.99) == 99

    def test_spread(self) -> None:
        assert Spread.of([3.0, 1.0, 9.0]) == Spread(3.0, 1.0, 9.0)

    def test_ratios_are_taken_round_by_round(self) -> None:
        # the second round fell into a slow moment of the machine, for both
        assert measure.paired_ratio([10, 30, 10], [20, 60, 20]) == Spread(0.5, 0.5, 0.5)

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.0, "0"),
            (0.04213, "0.0421"),
            (13.49, "13.5"),
            (0.9999, "1.000"),
            (71423.0, "71,400"),
            (-1.5, "-1.50"),
        ],
    )
    def test_numbers_have_three_digits(self, value: float, text: str) -> None:
        assert report.number(value) == text


class TestProcesses:
    def test_cpu_time_is_what_the_process_itself_counts(self) -> None:
        before, own = measure.cpu_time([os.getpid()]), time.process_time_ns()
        while time.process_time_ns() - own < 20_000_000:
            pass
        used = measure.cpu_time([os.getpid()]) - before
        assert used == pytest.approx(time.process_time_ns() - own, abs=2_000_000)

    def test_a_process_that_has_gone_counts_nothing(self) -> None:
        with subprocess.Popen([sys.executable, "-c", ""]) as process:
            process.wait()
            assert measure.cpu_time([process.pid]) == 0
            assert measure.memory([process.pid]) == measure.Memory(0, 0)

    def test_memory(self) -> None:
        found = measure.memory([os.getpid()])
        assert 1 << 20 < found.proportional <= found.peak_resident

    def test_a_stopped_program_takes_its_children_along(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processes, "STOP_TIME", 0.2)
        script = "sleep 60 & echo $!; trap '' TERM; wait; wait"
        with Processes() as started:
            program = started.start("shell", ["sh", "-c", script], 0, started.directory / "log")
            while not (text := program.log.read_text()).endswith("\n"):
                time.sleep(0.01)
            child = int(text)
            assert measure.process_tree(program.pid) == {program.pid, child}
            directory = started.directory
        assert not directory.exists()
        deadline = time.monotonic() + 5
        while any(measure.start_time(pid) is not None for pid in (program.pid, child)):
            assert time.monotonic() < deadline
            time.sleep(0.01)


class TestWrk:
    LINE = (
        "SUMMARY requests=1000 microseconds=2000000 bytes=1200000 connect=0 read=0 write=0 timeout=0 status=0"
    )
    TAIL = " p50=1500 p99=9000\n"

    def test_what_the_script_prints_is_read(self) -> None:
        found = load.parse_wrk(f"Running 2s test\n{self.LINE}{self.TAIL}", "", 1024)
        assert found == load.Load(1000, 2.0, 0.0015, 0.009)
        assert found.rate == 500

    @pytest.mark.parametrize("kind", ["connect", "read", "write", "timeout", "status"])
    def test_one_failed_request_is_a_failure(self, kind: str) -> None:
        with pytest.raises(Failed, match=f"1 {kind} of 1000"):
            load.parse_wrk(self.LINE.replace(f"{kind}=0", f"{kind}=1") + self.TAIL, "", 1024)

    def test_short_bodies_are_a_failure(self) -> None:
        with pytest.raises(Failed, match="short responses"):
            load.parse_wrk(self.LINE + self.TAIL, "", 65536)

    def test_no_answer_at_all_is_a_failure(self) -> None:
        with pytest.raises(Failed, match="not one request"):
            load.parse_wrk(self.LINE.replace("requests=1000", "requests=0") + self.TAIL, "", 0)

    def test_a_crash_is_a_failure(self) -> None:
        with pytest.raises(Failed, match="unable to connect"):
            load.parse_wrk("", "unable to connect to 127.0.0.1:1\n", 0)


class TestRequests:
    def test_ten_fields_of_which_three_vary(self) -> None:
        first, second = (
            load.request_bytes(load.Workload("/1k", 1024), number).decode().split("\r\n")[1:-2]
            for number in (1, 2)
        )
        assert len(first) == 10
        assert sum(mine != other for mine, other in zip(first, second, strict=True)) == 3

    def test_a_body_has_its_length(self) -> None:
        request = load.request_bytes(load.Workload("/1k", 1024, method="POST", request_size=3), 1)
        assert request.startswith(b"POST /1k HTTP/1.1\r\nHost: payments.mesh\r\n")
        assert request.endswith(b"\r\nContent-Length: 3\r\n\r\nxxx")

    def test_length_of_a_response(self) -> None:
        data = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
        assert load.response_length(data) == len(data)
        assert load.response_length(data[:-9]) is None

    @pytest.mark.parametrize(
        "head", [b"HTTP/1.1 503 No\r\nContent-Length: 0", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"]
    )
    def test_anything_but_a_plain_200_is_a_failure(self, head: bytes) -> None:
        with pytest.raises(Failed, match="not a plain 200"):
            load.response_length(head + b"\r\n\r\n")


@pytest.fixture
def stalling_server() -> Iterator[tuple[str, int]]:
    """Answers at once, but for one stop of 200 ms, in which nothing is answered at all."""
    gate = threading.Lock()
    stalled = threading.Event()
    answered = [0]
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            while connection.recv(65536):
                with gate:
                    answered[0] += 1
                    if answered[0] == load.CONNECTIONS + 50 and not stalled.is_set():
                        stalled.set()
                        time.sleep(0.2)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def accept() -> None:
        for _ in range(load.CONNECTIONS):
            connection, _ = listener.accept()
            thread = threading.Thread(target=serve, args=(connection,))
            thread.start()
            threads.append(thread)

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield listener.getsockname()
        accepting.join()
        for thread in threads:
            thread.join()


def test_a_stall_counts_against_every_request_that_was_due_in_it(stalling_server: tuple[str, int]) -> None:
    found = load.paced(*stalling_server, load.Workload("/", 2), seconds=0.6, rate=500)
    assert found.requests == 300
    assert found.seconds == pytest.approx(0.6, abs=0.15)
    # 100 requests were due within the 200 ms: a third of all waited, on average half of that time. A client
    # that waits for answers before it sends would have seen no more than its 32 connections wait.
    assert found.p50 < 0.1
    assert found.p99 > 0.15


class TestConfigurations:
    @pytest.mark.parametrize("hops", [1, 2])
    @pytest.mark.parametrize("protocol", ["http", "tcp"])
    @pytest.mark.parametrize(
        "peer", [haproxy.HAProxy(), nginx.Nginx(), envoy.Envoy(), traefik.Traefik(), hostproxy.Hostproxy()]
    )
    def test_each_proxy_listens_where_it_should(
        self,
        issued: Certificates,
        tmp_path: Path,
        peer: haproxy.HAProxy,
        protocol: Protocol,
        hops: Literal[1, 2],
    ) -> None:
        launches = peer.render(site_of(issued, tmp_path, hops, protocol))
        assert [launch.name for launch in launches] == ["b", "a"][2 - hops :]
        for launch in launches:
            text = "".join(launch.files.values())
            assert "7001" in text if launch.name == "a" else "7002" in text
            assert "7003" in text if launch.name == "a" else "7004" in text

    def test_haproxy(self, issued: Certificates, tmp_path: Path) -> None:
        first, second = site_of(issued, tmp_path, 2).chain()
        out, incoming = haproxy.configuration(first), haproxy.configuration(second)
        assert "bind 127.0.1.1:7001\n" in out
        assert "server i0 127.0.1.2:7002 ssl crt" in out
        assert "bind 127.0.1.2:7002 ssl crt" in incoming
        assert "  server i0 127.0.2.1:8080\n  server i1 127.0.2.2:8080\n" in incoming

    def test_nginx(self, issued: Certificates, tmp_path: Path) -> None:
        first, second = site_of(issued, tmp_path, 2).chain()
        out, incoming = nginx.configuration(first), nginx.configuration(second)
        assert "proxy_pass https://payments;" in out
        assert "ssl_verify_client" not in out
        assert "listen 127.0.1.2:7002 ssl;" in incoming
        assert "proxy_pass http://other;" in incoming

    def test_envoy(self, issued: Certificates, tmp_path: Path) -> None:
        first, second = site_of(issued, tmp_path, 2).chain()
        (listener,) = envoy.configuration(second)["static_resources"]["listeners"]
        assert "transport_socket" in listener["filter_chains"][0]
        payments, other = json.loads(envoy.clusters(second))["resources"]
        assert "transport_socket" not in payments
        assert len(payments["load_assignment"]["endpoints"][0]["lb_endpoints"]) == 2
        assert all(
            "transport_socket" in cluster for cluster in json.loads(envoy.clusters(first))["resources"]
        )
        assert other["name"] == "other"

    def test_traefik(self, issued: Certificates, tmp_path: Path) -> None:
        first, second = site_of(issued, tmp_path, 2).chain()
        assert traefik.dynamic(first)["http"]["routers"]["other"]["rule"] == "Host(`other.mesh`)"
        assert "tls" not in traefik.dynamic(first)
        options = traefik.dynamic(second)["tls"]["options"]["default"]
        assert options["clientAuth"]["clientAuthType"] == "RequireAndVerifyClientCert"

    @pytest.mark.parametrize("hops", [1, 2])
    @pytest.mark.parametrize("protocol", ["http", "tcp"])
    def test_hostproxy_accepts_what_is_written_for_it(
        self, issued: Certificates, tmp_path: Path, protocol: Protocol, hops: Literal[1, 2]
    ) -> None:
        for launch in hostproxy.Hostproxy().render(site_of(issued, tmp_path, hops, protocol)):
            launch.directory.mkdir()
            for name, content in launch.files.items():
                (launch.directory / name).write_text(content)
            conf = config.load(str(launch.directory / "conf.toml"))
            assert conf.workers.count == 1
            assert conf.mesh.listen == ("127.0.1.2:7002" if launch.name == "b" else "127.0.1.1:7005")
            services = policy.load(conf.policy.path).services
            assert {name: service.permissive for name, service in services.items()} == dict.fromkeys(
                SERVICES, hops == 1
            )

    def test_with_routes_the_last_one_splits_what_is_asked(self, issued: Certificates, tmp_path: Path) -> None:
        (launch,) = hostproxy.Routed().render(site_of(issued, tmp_path, 1))
        launch.directory.mkdir()
        for name, content in launch.files.items():
            (launch.directory / name).write_text(content)
        routes = policy.load(str(launch.directory / "policy.toml")).services["payments"].routes
        assert len(routes) == hostproxy.ROUTES
        fields = b"".join(b"Field-%d: value\r\n" % number for number in range(10))
        assert RouteTable(routes).find(b"GET", b"/1k?x=1", fields) == hostproxy.ROUTES - 1
        instances = catalog.load(str(launch.directory / "catalog.toml"))["payments"]
        assert [one.version for one in instances] == ["1", "2"]

    def test_a_moved_instance_is_told_by_its_place(self) -> None:
        moved = {**SERVICES, "payments": ("127.0.2.1:8080", "127.0.2.11:8080")}
        assert changed(SERVICES, moved) == [("payments", 1, "127.0.2.11:8080")]
        assert changed(SERVICES, SERVICES) == []


class TestDiscovery:
    def test_news_are_found_in_the_log_to_the_millisecond(self, tmp_path: Path) -> None:
        written: list[bytes] = []
        event = {"log_level": LogLevel.info, "log_namespace": "hostproxy.supervisor.Supervisor"}
        for process in ("supervisor[12]", "worker-0[13]"):
            lines = Lines(process, "info", written.append)
            for moment, text in ((1_700_000_000.125, "news is taken: snapshot 7"), (1_700_000_001.5, "reloaded /conf")):
                lines({**event, "log_time": moment, "log_format": text})
        log = tmp_path / "log"
        log.write_bytes(b"".join(written))
        assert discovery.moments(log) == [1_700_000_000.125]

    def test_it_is_hostproxy_alone(self) -> None:
        cases = [case for case in CASES if case.kind == "discovery"]
        assert [(case.services, case.instances) for case in cases] == [(2_000, 20), (1, 10_000)]
        outcome = Outcome("hostproxy")
        outcome.add(told_ms=5, effect_ms=8, stall_ms=6, waited_ms=1, pss_mib=84, peak_mib=99)
        table = report.table(cases[0], [outcome])
        spreads = " | ".join(f"{value:.2f} ({value:.2f}-{value:.2f})" for value in (5, 8, 6, 1))
        assert table.endswith(f"| hostproxy | {spreads} | 84.0 | 99.0 |")


class TestReport:
    CASE = replace(CASES[0], title="A case")

    def outcomes(self) -> list[Outcome]:
        ours, theirs = Outcome("hostproxy"), Outcome("envoy")
        for mine, other in ((10, 20), (11, 22), (30, 60)):
            ours.add(cpu_us=mine, paced_p99_ms=3)
            theirs.add(cpu_us=other, paced_p99_ms=4)
        direct = Outcome(DIRECT)
        direct.add(paced_p99_ms=1)
        return [ours, theirs, Outcome("nginx", absent="absent: apt install nginx"), direct]

    def test_table(self) -> None:
        lines = report.table(self.CASE, self.outcomes()).splitlines()
        assert lines[0] == "### A case"
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
        assert len({len(row) for row in cells}) == 1
        head, ours, theirs, absent = cells[0], cells[2], cells[3], cells[4]
        assert ours[:3] == ["hostproxy", "11.0 (10.0-30.0)", ""]
        assert theirs[:3] == ["envoy", "22.0 (20.0-60.0)", "0.500"]
        assert theirs[head.index("added p99 ms")] == "3.00"
        assert absent[:2] == ["nginx", "absent: apt install nginx"]

    def test_a_failure_is_told_and_not_compared(self) -> None:
        outcomes = self.outcomes()
        outcomes[1].failure = "Failed: 1 status of 9 |\nmore"
        row = report.table(self.CASE, outcomes).splitlines()[5]
        assert row.startswith("| envoy | INVALID: Failed: 1 status of 9 / more |")
        assert report.ratio_of("cpu_us", outcomes[0], outcomes[1]) is None

    def test_json_has_every_round(self) -> None:
        document = json.loads(report.document({"rounds": 3}, [(self.CASE, self.outcomes())]))
        found = document["cases"][0]["proxies"][1]
        assert found["samples"]["cpu_us"] == [20, 22, 60]
        assert found["ours_to_it"]["cpu_us"]["median"] == 0.5


class TestCommandLine:
    def test_names_of_cases_and_services_are_unique(self) -> None:
        assert len({case.name for case in CASES}) == len(CASES)
        names = service_names(1000)
        assert len(set(names)) == 1000
        assert names[0] == "payments"

    def test_minor_cases_take_half_the_time(self) -> None:
        assert Plan(5, 3).seconds_of(Case("x", "x", main=True)) == 3
        assert Plan(5, 3).seconds_of(Case("x", "x")) == 2

    @pytest.mark.parametrize("arguments", [["--case", "no-such"], ["--proxy", "no-such"], ["--rounds", "x"]])
    def test_wrong_usage(self, arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
