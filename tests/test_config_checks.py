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


# The health of instances.


def service(*lines: str, instances: str = '"127.0.0.1:9001"', name: str = "web") -> str:
    return "\n".join(["[[service]]", f'name = "{name}"', f"instances = [{instances}]", *lines, ""])


BARE = HEAD.replace('[discovery.file]\npath = "catalog.toml"\n', "")  # eight lines
CONSUL = BARE + '[discovery]\nbackend = "consul"\n'  # ten lines
HTTPS = 'address = "https://127.0.0.1:8501"\n'
BY_CONSUL = 'check = { tcp = true, run_by = "consul" }'


def warnings_of(directory: Path, text: str, head: str = HEAD) -> list[str]:
    file = directory / "conf.toml"
    file.write_text(head + text)
    return [str(warning).removeprefix(f"{file}:") for warning in config.load(str(file)).warnings]


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        (
            '{ http = "/healthz", tcp = true }',
            "14: service[0].check.tcp: is given beside http; one of them is asked for;",
        ),
        ("{}", '14: service[0].check: asks for nothing; write http = "/healthz" or tcp = true'),
        ('{ interval = "1s" }', "14: service[0].check: asks for nothing;"),
        ('{ http = "", tcp = false }', "14: service[0].check: asks for nothing;"),
        ('{ http = "healthz" }', '14: service[0].check.http: "healthz" is not a path; it starts with "/"'),
        ('{ tcp = "yes" }', '14: service[0].check.tcp: expected true or false, found "yes"'),
        ('{ tcp = true, timeout = "61s" }', "14: service[0].check.timeout: 61s is too high; the most is 1m"),
        ('{ tcp = true, interval = "50ms" }', "14: service[0].check.interval: 50ms is too low; the least is 100ms"),
        ('{ tcp = true, healthy = 0 }', "14: service[0].check.healthy: 0 is too low; the least is 1"),
        ('{ tcp = true, run_by = "systemd" }', '14: service[0].check.run_by: expected one of "hostproxy", "consul"'),
        (
            '{ tcp = true, run_by = "consul" }',
            '14: service[0].check.run_by: "consul" needs [discovery] backend = "consul"; write "hostproxy"',
        ),
        ("true", "14: service[0].check: expected a table, found the boolean true"),
    ],
)
def test_checks_that_cannot_be(tmp_path: Path, check: str, problem: str) -> None:
    (found,) = problems_of(tmp_path, service(f"check = {check}"))
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            service("check = { tcp = true }", instances=""),
            "14: service[0].check: has nothing to ask; the service has no instances here",
        ),
        (
            service('protocol = "grpc"', 'check = { http = "/healthz" }'),
            "15: service[0].check.http: is asked for in HTTP/1.1, and the protocol is grpc;"
            " instances that speak only HTTP/2 need tcp = true",
        ),
    ],
)
def test_checks_that_are_not_what_they_seem(tmp_path: Path, text: str, warning: str) -> None:
    assert warnings_of(tmp_path, text) == [warning]


@pytest.mark.parametrize(
    "text",
    [
        service('check = { http = "/healthz", interval = "1s", timeout = "2s" }'),  # longer than the interval
        service('check = { http = "/" }', instances='"unix:/run/web.sock", "[::1]:80"'),
        service('protocol = "tcp"', 'check = { http = "/healthz" }'),  # HTTP that is to be carried as bytes
        service("check = { tcp = true, timeout = '1m' }"),
        service("register = false", instances='"127.0.0.1:9001", "127.0.0.2:9001"', name="hostproxy"),
    ],
)
def test_checks_that_are_fine(tmp_path: Path, text: str) -> None:
    assert warnings_of(tmp_path, text) == []


# Consul.


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (
            '[discovery.consul]\nca = "ca.pem"\ncertificate = "c.pem"\nkey = "k.pem"',
            [
                f"{line}: discovery.consul.{key}: does nothing with http://127.0.0.1:8500;"
                " it is for an https:// address"
                for line, key in ((12, "ca"), (13, "certificate"), (14, "key"))
            ],
        ),
        (
            '[discovery.consul]\nkey = "k.pem"',
            ["12: discovery.consul.key: does nothing with http://127.0.0.1:8500; it is for an https:// address"],
        ),
        (
            '[discovery.consul]\naddress = "unix:/run/consul.sock"\nca = "ca.pem"',
            ["13: discovery.consul.ca: does nothing with unix:/run/consul.sock; it is for an https:// address"],
        ),
        (
            f'[discovery.consul]\n{HTTPS}certificate = "c.pem"',
            ["13: discovery.consul.certificate: is given without key; it takes both"],
        ),
        (
            f'[discovery.consul]\n{HTTPS}key = "k.pem"',
            ["13: discovery.consul.key: is given without certificate; it takes both"],
        ),
        (
            '[discovery.consul]\ntoken_file = "t"\ntoken_credential = "t"',
            ["13: discovery.consul.token_credential: is given beside token_file; the token comes from one of them"],
        ),
        (
            '[discovery.consul]\ntoken_credential = "a/../b"',
            [
                '12: discovery.consul.token_credential: "a/../b" is not the name of a credential;'
                " systemd takes no / and no : in one"
            ],
        ),
        (
            '[discovery.consul]\naddress = "8500"\nca = "ca.pem"',
            ['12: discovery.consul.address: "8500" is not the address of an agent; write "http://ip:port",'
             ' "https://name:port" or "unix:/path"'],
        ),
        (
            f'[discovery.consul]\n{HTTPS}certificate = "c.pem"\nkey = 1',
            ["14: discovery.consul.key: expected a path, found the integer 1"],
        ),
        (
            service(name="hostproxy"),
            [
                '12: service[0].name: "hostproxy" is what hostproxy registers itself as;'
                " choose another name, or register = false"
            ],
        ),
        (
            service(BY_CONSUL, instances='"127.0.0.1:9001", "unix:/run/web.sock"'),
            [
                '13: service[0].instances[1]: "unix:/run/web.sock" is a Unix socket, which Consul cannot check;'
                ' write run_by = "hostproxy" in its check'
            ],
        ),
        (
            service(BY_CONSUL, "register = false"),
            [
                "14: service[0].check.run_by: Consul runs checks of registered services only;"
                ' write "hostproxy", or register = true'
            ],
        ),
        (
            "[discovery.consul]\nregister = false\n" + service(BY_CONSUL),
            [
                "16: service[0].check.run_by: Consul runs checks of registered services only;"
                ' write "hostproxy", or register = true'
            ],
        ),
        (
            service(instances='"127.0.0.1:9001", "127.0.0.2:9001"'),
            [
                '13: service[0].instances[1]: "127.0.0.2:9001" has the port of "127.0.0.1:9001", and Consul could not'
                " tell them apart"
            ],
        ),
    ],
)
def test_combinations_that_consul_cannot_have(tmp_path: Path, text: str, problems: list[str]) -> None:
    assert problems_of(tmp_path, text, CONSUL) == problems


@pytest.mark.parametrize(
    "text",
    [
        UPSTREAM.format("127.0.0.1:7001"),  # no [discovery.file] path is needed
        f"[discovery.consul]\n{HTTPS}",
        f'[discovery.consul]\n{HTTPS}ca = "ca.pem"\ncertificate = "c.pem"\nkey = "k.pem"\ntoken_file = "t"',
        '[discovery.consul]\ntoken_credential = "consul-token"',
        service("register = false", instances='"127.0.0.1:9001", "127.0.0.2:9001"', name="hostproxy"),
        "[discovery.consul]\nregister = false\n" + service(name="hostproxy"),
        service('check = { tcp = true }', instances='"127.0.0.1:9001", "unix:/run/a.sock", "unix:/run/b.sock"'),
        service(BY_CONSUL),
        service(name="a") + service(name="b"),  # the same address in two services
    ],
)
def test_combinations_that_consul_can_have(tmp_path: Path, text: str) -> None:
    assert warnings_of(tmp_path, text, CONSUL) == []


@pytest.mark.parametrize(
    ("text", "head", "warning"),
    [
        (
            '[discovery.consul]\nca = ""',
            HEAD,
            '11: discovery.consul: does nothing; it is for [discovery] backend = "consul"',
        ),
        (
            '[discovery.file]\npath = "catalog.toml"',
            CONSUL,
            '12: discovery.file.path: does nothing; it is for [discovery] backend = "file"',
        ),
        (
            service('check = { tcp = true, run_by = "consul", interval = "500ms" }'),
            CONSUL,
            "14: service[0].check.interval: counts as 1s; Consul runs no check more often",
        ),
    ],
)
def test_what_is_not_for_this_backend_is_worth_a_warning(tmp_path: Path, text: str, head: str, warning: str) -> None:
    assert warnings_of(tmp_path, text, head) == [warning]


def test_an_unknown_backend_is_the_only_problem(tmp_path: Path) -> None:
    text = '[discovery]\nbackend = "etcd"\n[discovery.consul]\nca = ""\n' + service(BY_CONSUL)
    (found,) = problems_of(tmp_path, text, BARE)
    assert found.startswith('10: discovery.backend: expected one of "file", "consul", found "etcd"')
