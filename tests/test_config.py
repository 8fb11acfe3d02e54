from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hostproxy import config
from hostproxy.config import CONFIG, Host, Upstream
from hostproxy.config_discovery import ConsulConfig
from hostproxy.config_services import Check, LocalService
from hostproxy.limits import Limits
from hostproxy.mesh.document import Invalid, parse
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.kinds import AnyTable
from hostproxy.mesh.schema import REQUIRED, Table, Tables, walk

EXAMPLE = Path(__file__).parent.parent / "conf.example.toml"

LEAST = """
[host]
name = "db-1"
address = "10.0.0.12"
[mesh]
trust_domain = "corp.example"
[identity.files]
ca = "certs/ca.pem"
directory = "certs"
"""


def load(directory: Path, text: str) -> config.Config:
    file = directory / "conf.toml"
    file.write_text(text)
    return config.load(str(file))


def test_the_least_that_a_host_is_told(tmp_path: Path) -> None:
    loaded = load(tmp_path, LEAST)
    assert loaded.path == str(tmp_path / "conf.toml")
    assert loaded.host == Host(name="db-1", address="10.0.0.12")
    assert loaded.host.datacenter == "dc1"
    assert loaded.mesh.listen == "0.0.0.0:15443"
    assert loaded.outbound == config.Outbound(caller="host")
    assert loaded.services == ()
    assert loaded.admin.listen == "127.0.0.1:15000"
    assert loaded.limits == Limits()
    assert loaded.log == config.Log()
    assert loaded.discovery.file_path == ""
    assert loaded.policy.path == ""


def test_everything_that_a_host_can_be_told(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        """
        [host]
        name = "db-1.corp.example"
        address = "fd00::12"
        datacenter = "eu"
        zone = "rack-3"
        labels = { role = "database" }
        state_directory = "state"
        runtime_directory = "/run/hp"
        [mesh]
        trust_domain = "corp.example"
        listen = "[::]:443"
        [outbound]
        listen = "unix:/run/proxy.sock"
        domains = ["mesh", "corp.example"]
        connect_ports = [443]
        caller = "web"
        [[outbound.upstream]]
        service = "payments"
        listen = "127.0.0.1:7001"
        caller = "cart"
        [[outbound.upstream]]
        service = "ledger"
        listen = "unix:/run/ledger.sock"
        subset = "v2"
        caller = "host"
        [[service]]
        name = "cart"
        instances = ["127.0.0.1:9001", "unix:/run/cart.sock"]
        protocol = "grpc"
        tags = ["blue"]
        version = "2"
        weight = 5
        meta = { tier = "gold" }
        register = false
        [service.check]
        tcp = true
        interval = "5s"
        timeout = "250ms"
        healthy = 1
        unhealthy = 2
        run_by = "hostproxy"
        [[service]]
        name = "web"
        [discovery.file]
        path = "catalog.toml"
        [identity.files]
        ca = "/etc/ca.pem"
        directory = "certs"
        [policy]
        path = "policy.d"
        [admin]
        listen = "unix:/run/admin.sock"
        [workers]
        count = 3
        [limits]
        idle = "90s"
        connections = 10
        head_size = "32KiB"
        [log]
        level = "debug"
        [log.access]
        path = "access.log"
        sample = 0.25
        """,
    )
    here = str(tmp_path)
    assert loaded.host == Host(
        name="db-1.corp.example",
        address="fd00::12",
        datacenter="eu",
        zone="rack-3",
        labels={"role": "database"},
        state_directory=f"{here}/state",
        runtime_directory="/run/hp",
    )
    assert loaded.mesh == config.Mesh(trust_domain="corp.example", listen="[::]:443")
    assert loaded.outbound == config.Outbound(
        listen="unix:/run/proxy.sock",
        domains=("mesh", "corp.example"),
        connect_ports=(443,),
        caller="web",
        upstreams=(
            Upstream(service="payments", listen="127.0.0.1:7001", caller="cart"),
            Upstream(service="ledger", listen="unix:/run/ledger.sock", subset="v2", caller="host"),
        ),
    )
    assert loaded.services == (
        LocalService(
            name="cart",
            instances=("127.0.0.1:9001", "unix:/run/cart.sock"),
            protocol="grpc",
            tags=("blue",),
            version="2",
            weight=5,
            meta={"tier": "gold"},
            register=False,
            check=Check(tcp=True, interval=5.0, timeout=0.25, healthy=1, unhealthy=2),
        ),
        LocalService(name="web"),
    )
    assert loaded.discovery == config.Discovery(
        file_path=f"{here}/catalog.toml", consul=ConsulConfig(datacenter="eu", node="db-1.corp.example")
    )
    assert loaded.identity == config.IdentityConfig(authorities_path="/etc/ca.pem", directory=f"{here}/certs")
    assert loaded.policy.path == f"{here}/policy.d"
    assert loaded.admin.listen == "unix:/run/admin.sock"
    assert loaded.workers.count == 3
    assert loaded.limits == Limits(idle=90.0, connections=10, head_size=32 * 1024)
    assert loaded.log == config.Log(level="debug", access_path=f"{here}/access.log", access_sample=0.25)
    assert loaded.warnings == ()


def test_everything_that_a_host_can_be_told_of_consul(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        LEAST
        + """
        [discovery]
        backend = "consul"
        [discovery.consul]
        address = "https://consul.corp.example:8501"
        ca = "consul/ca.pem"
        certificate = "consul/client.pem"
        key = "/etc/consul/client.key"
        token_file = "consul/token"
        datacenter = "eu-1"
        namespace = "team-a"
        node = "vm-17"
        register = false
        watches = 20
        wait = "1m"
        hold_empty = "0s"
        stale_limit = "5s"
        first_use = "500ms"
        leave = "4s"
        allow = ["127.0.0.0/8", "fe80::/10", "169.254.1.1"]
        """,
    )
    here = str(tmp_path)
    assert loaded.discovery == config.Discovery(
        backend="consul",
        consul=ConsulConfig(
            address="https://consul.corp.example:8501",
            ca=f"{here}/consul/ca.pem",
            certificate=f"{here}/consul/client.pem",
            key="/etc/consul/client.key",
            token_file=f"{here}/consul/token",
            datacenter="eu-1",
            namespace="team-a",
            node="vm-17",
            register=False,
            watches=20,
            wait=60.0,
            hold_empty=0.0,
            stale_limit=5.0,
            first_use=0.5,
            leave=4.0,
            allow=("127.0.0.0/8", "fe80::/10", "169.254.1.1/32"),
        ),
    )
    assert loaded.warnings == ()


def test_consul_knows_this_host_by_its_own_names_unless_told_otherwise(tmp_path: Path) -> None:
    loaded = load(tmp_path, LEAST + '[discovery]\nbackend = "consul"')
    assert loaded.discovery.consul == ConsulConfig(datacenter="dc1", node="db-1")


@pytest.mark.parametrize(
    ("services", "caller"),
    [
        ("", "host"),
        ('[[service]]\nname = "cart"', "cart"),
        ('[[service]]\nname = "a"\n[[service]]\nname = "b"', "host"),
    ],
)
def test_who_calls_when_nobody_is_named(tmp_path: Path, services: str, caller: str) -> None:
    upstream = (
        '[discovery.file]\npath = "c"\n[[outbound.upstream]]\nservice = "x"\nlisten = "127.0.0.1:7001"\n'
    )
    loaded = load(tmp_path, LEAST + upstream + services)
    assert loaded.outbound.caller == caller
    assert loaded.outbound.upstreams[0].caller == caller


def test_as_many_workers_as_cores(tmp_path: Path) -> None:
    assert load(tmp_path, LEAST).workers.count == len(os.sched_getaffinity(0))


def test_relative_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "conf.toml").write_text(LEAST)
    monkeypatch.chdir(tmp_path)
    assert config.load("etc/conf.toml").identity.directory == str(tmp_path / "etc" / "certs")


def test_what_is_not_acted_on_yet_is_a_warning(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        LEAST
        + """[outbound]
listen = ""
[[service]]
name = "cart"
[trace]
any = { thing = [1] }
""",
    )
    assert [(warning.line, warning.what()) for warning in loaded.warnings] == [
        (14, "trace: is not acted on in this version"),
    ]


def test_all_problems_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as caught:
        load(
            tmp_path,
            """[host]
name = "DB-1"
adress = "10.0.0.12"
[mesh]
trust_domain = "corp example"
listen = "localhost:15443"
[outbound]
connect_ports = [70000]
[workers]
count = -1
[limits]
idle = 60
head_size = 8192
drain = "1 day"
[log]
level = "warning"
[servce]
""",
        )
    told = [str(problem).partition("conf.toml:")[2] for problem in caught.value.problems]
    starts = [
        "1: host.address: is missing; it is the IP address at which other hosts reach this one",
        "1: identity.files.ca: is missing; it is the PEM file",
        "1: identity.files.directory: is missing; it is the directory",
        '2: host.name: "DB-1" is not the name of a host; did you mean "db-1"?',
        '3: host.adress: unknown key; did you mean "address"?',
        '5: mesh.trust_domain: "corp example" is not the name of a trust domain;',
        '6: mesh.listen: "localhost:15443" is a host name, where only an IP address is taken; write',
        "8: outbound.connect_ports[0]: 70000 is too high; the most is 65535",
        "10: workers.count: -1 is too low; the least is 0",
        '12: limits.idle: expected a duration like "250ms", found the integer 60; write "60s" if it means seconds',
        '13: limits.head_size: expected a size like "64KiB", found the integer 8192; write "8KiB" if it means bytes',
        '14: limits.drain: "1 day" is not a duration;',
        '16: log.level: expected one of "debug", "info", "warn", "error", found "warning"; did you mean "warn"?',
        '17: servce: unknown key; did you mean "service"?',
    ]
    assert len(told) == len(starts)
    for line, start in zip(told, starts, strict=True):
        assert line.startswith(start)


def test_a_file_with_problems_still_names_the_other_files(tmp_path: Path) -> None:
    file = tmp_path / "conf.toml"
    file.write_text(LEAST + '[workers]\ncount = "many"\n[policy]\npath = "policy.toml"\n')
    loaded, problems = config.examine(str(file))
    assert [problem.key for problem in problems] == ["workers.count"]
    assert loaded.policy.path == str(tmp_path / "policy.toml")


@pytest.mark.parametrize("name", ["none.toml", ""])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid):
        config.load(str(tmp_path / name))


# conf.example.toml against the tables.


def uncommented() -> str:
    """The example with the keys in it that may be left out: their lines begin with "#" and no space."""
    lines = EXAMPLE.read_text().splitlines()
    return "\n".join(line[1:] if line[:1] == "#" and line[1:2] not in ("", " ") else line for line in lines)


def value_at(data: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        data = data[part]
    return data


def test_the_example_is_a_good_file() -> None:
    loaded = config.load(str(EXAMPLE))
    assert {warning.key for warning in loaded.warnings} == {"discovery.file.path"}
    assert loaded.limits == Limits()


def test_the_example_is_good_with_every_key_in_it(tmp_path: Path) -> None:
    lines = uncommented().splitlines()
    # What a key cannot be together with the others, as its default.
    lines[lines.index('backend = "file"')] = 'backend = "consul"'
    lines[lines.index("instances = []")] = 'instances = ["127.0.0.1:9001"]'
    lines[lines.index('http = ""')] = 'http = "/healthz"'
    loaded = load(tmp_path, "\n".join(lines))
    assert {warning.message for warning in loaded.warnings} == {"is not acted on in this version"}


def test_the_example_names_every_key_with_its_default() -> None:
    document = parse(uncommented().encode(), "conf.example.toml", 1 << 20)
    for path, key in walk(CONFIG):
        assert document.has(path), f"{path} is missing"
        if key.default is not REQUIRED and not isinstance(key.kind, Tables):
            findings = Findings(document)
            assert key.kind.read(value_at(document.data, path), path, findings) == key.default, path
            assert findings.problems == []


def test_the_example_names_only_keys_that_there_are() -> None:
    document = parse(uncommented().encode(), "conf.example.toml", 1 << 20)
    findings = Findings(document)
    CONFIG.read(document.data, (), findings)
    assert findings.problems == []


def test_the_example_leaves_in_only_what_has_no_default() -> None:
    data = tomllib.loads(EXAMPLE.read_text())
    for path, key in walk(CONFIG):
        if key.default is REQUIRED and not key.planned and "upstream" not in path:
            value_at(data, path)
        elif not isinstance(key.kind, (Table, Tables)):
            with pytest.raises(KeyError):
                value_at(data, path)


def test_the_example_says_what_every_key_means() -> None:
    comments = " ".join(
        line[2:] for line in EXAMPLE.read_text().splitlines() if line.startswith("# ")
    ).casefold()
    for path, key in walk(CONFIG):
        if not isinstance(key.kind, AnyTable) or not key.planned:
            assert key.help.casefold() in comments, path


def test_the_example_has_the_tables_in_the_order_of_the_schema() -> None:
    assert list(tomllib.loads(uncommented())) == list(CONFIG.keys)
