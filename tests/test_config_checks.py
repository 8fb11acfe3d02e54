from __future__ import annotations

from pathlib import Path

import pytest

from hostproxy import config

HEAD = """[host]
name = "db-1"
address = "10.0.0.12"
[mesh]
trust_domain = "corp.example"
[identity.files]
ca = "ca.pem"
directory = "certs"
[discovery.file]
path = "catalog.toml"
"""  # ten lines


def problems_of(directory: Path, text: str, head: str = HEAD) -> list[str]:
    file = directory / "conf.toml"
    file.write_text(head + text)
    return [str(problem).removeprefix(f"{file}:") for problem in config.examine(str(file))[1]]


UPSTREAM = '[[outbound.upstream]]\nservice = "x"\nlisten = "{}"\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '[admin]\nlisten = "0.0.0.0:15000"',
            '12: admin.listen: "0.0.0.0:15000" can be reached from other hosts, and shows them everything;'
            ' use a loopback address or "unix:/path"',
        ),
        (
            '[admin]\nlisten = "10.0.0.12:15000"',
            '12: admin.listen: "10.0.0.12:15000" can be reached from other',
        ),
        (
            '[admin]\nlisten = "127.0.0.1:15001"',
            '12: admin.listen: "127.0.0.1:15001" is taken; outbound.listen (by default) listens there',
        ),
        (
            UPSTREAM.format("127.0.0.1:15000"),
            '13: outbound.upstream[0].listen: "127.0.0.1:15000" is taken; admin.listen (by default) listens there',
        ),
        (
            UPSTREAM.format("127.0.0.1:7001") + UPSTREAM.format("127.0.0.1:7001"),
            '16: outbound.upstream[1].listen: "127.0.0.1:7001" is taken; outbound.upstream[0].listen at line 13',
        ),
        (
            UPSTREAM.format("unix:/a") + UPSTREAM.format("unix:/a"),
            '16: outbound.upstream[1].listen: "unix:/a" is taken; outbound.upstream[0].listen at line 13',
        ),
        (
            UPSTREAM.format("127.0.0.1:15443"),
            '13: outbound.upstream[0].listen: "127.0.0.1:15443" is taken; mesh.listen',
        ),
        (
            '[[service]]\nname = "a"\ninstances = ["127.0.0.1:9", "127.0.0.1:15443"]',
            '13: service[0].instances[1]: "127.0.0.1:15443" is hostproxy itself: traffic would go round in circles;'
            " mesh.listen (by default) listens there",
        ),
        (
            '[outbound]\ncaller = "cart"\n[[service]]\nname = "web"',
            '12: outbound.caller: "cart" is no service of this host; add a [[service]] "cart"',
        ),
        (
            UPSTREAM.format("127.0.0.1:7001") + 'caller = "cart"',
            '14: outbound.upstream[0].caller: "cart" is no service of this host; add a [[service]] "cart"',
        ),
        (
            '[[service]]\nname = "web"\n[[service]]\nname = "web"',
            '14: service[1].name: "web" is declared at line 12 already; list all its instances there',
        ),
        (
            '[discovery]\nbackend = "consul"',
            '12: discovery.backend: "consul" is not in this version; use "file"',
        ),
        (
            '[identity]\nmode = "controller"',
            '12: identity.mode: "controller" is not in this version; use "files"',
        ),
        (
            '[limits]\nheader_size = "61KiB"',
            "12: limits.header_size: header_size is more than head_size; a head holds",
        ),
        (
            '[limits]\nhead_size = "12KiB"',
            "12: limits.head_size: header_size is more than head_size; a head holds its",
        ),
        (
            '[limits]\nrequest_line = "61KiB"',
            "12: limits.request_line: request_line is more than head_size; a head",
        ),
        ("[limits]\nconnections = 0", "12: limits.connections: 0 is too low; the least is 1"),
        ('[limits]\nidle = "0s"', "12: limits.idle: 0s is too low; the least is 10ms"),
        ("[workers]\ncount = 257", "12: workers.count: 257 is too high; the most is 256"),
        ('[log.access]\npath = ""\nsample = 1.5', "13: log.access.sample: 1.5 is too high; the most is 1"),
    ],
)
def test_impossible_combinations(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems_of(tmp_path, text)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    "text",
    [
        '[admin]\nlisten = "127.0.0.2:1"',
        '[admin]\nlisten = "[::1]:1"',
        '[admin]\nlisten = "unix:/run/admin.sock"',
        UPSTREAM.format("127.0.0.1:7001") + UPSTREAM.format("127.0.0.2:7001"),
        UPSTREAM.format("[::1]:15443"),
        UPSTREAM.format("127.0.0.1:7001") + 'caller = "host"',
        "".join(f'[[service]]\nname = "{name}"\ninstances = ["127.0.0.1:9001"]\n' for name in "ab"),
        '[limits]\nhead_size = "8KiB"\nheader_size = "8KiB"\nrequest_line = "8KiB"',
        '[limits]\nupstream_idle_connections = 0\ndrain = "0s"',
    ],
)
def test_combinations_that_are_fine(tmp_path: Path, text: str) -> None:
    assert problems_of(tmp_path, text) == []


def test_a_value_that_was_refused_is_not_blamed_twice(tmp_path: Path) -> None:
    problems = problems_of(
        tmp_path,
        '[admin]\nlisten = "no"\n[mesh.x]\n[limits]\nhead_size = 1\n[[service]]\nname = "A"\n[[service]]\nname = "A"',
    )
    assert [problem.partition(": ")[2].partition(":")[0] for problem in problems] == [
        "admin.listen",
        "mesh.x",
        "limits.head_size",
        "service[0].name",
        "service[1].name",
    ]


def test_an_upstream_needs_a_catalog(tmp_path: Path) -> None:
    head = HEAD.replace('path = "catalog.toml"\n', "")
    assert problems_of(tmp_path, UPSTREAM.format("127.0.0.1:7001"), head) == [
        "9: discovery.file.path: is missing; [[outbound.upstream]] needs a catalog that says where services run"
    ]


@pytest.mark.parametrize(("listen", "warned"), [("127.0.0.1:15001", True), ("", False)])
def test_a_proxy_port_without_a_catalog_is_worth_a_warning(tmp_path: Path, listen: str, warned: bool) -> None:
    file = tmp_path / "conf.toml"
    file.write_text(HEAD.replace('path = "catalog.toml"\n', "") + f'[outbound]\nlisten = "{listen}"\n')
    assert bool(config.load(str(file)).warnings) is warned
