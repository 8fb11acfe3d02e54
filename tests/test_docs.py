"""What README.md and docs/ say, held against the sources, and the README's two hosts started as it says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hostproxy import config
from hostproxy.__main__ import COMMANDS
from hostproxy.admin.pages import INDEX
from hostproxy.config_discovery import CONSUL, ConsulConfig
from hostproxy.config_services import CHECK, Check
from hostproxy.discovery.catalog import Instance
from hostproxy.discovery.consul.instances import Conversion, Source, split
from hostproxy.discovery.consul.refusals import Reachable
from hostproxy.limits import Limits
from hostproxy.mesh import policy, policy_tables
from hostproxy.mesh.retries import Retry
from hostproxy.mesh.subsets import SUBSET
from hostproxy.selection import Here, explain, select
from hostproxy.telemetry import flags
from hostproxy.telemetry.access_log import AccessRecord
from tests.consul import Consul, Refused, running
from tests.integration import needs
from tests.integration.host import free_port

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])

FIRST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/hostproxy demo"
TEST_COMMAND = ".venv/bin/pip install -e '.[test]' && .venv/bin/pytest"
BY_HAND = "## Two hosts by hand"
WITH_A_CONTROLLER = "## With a controller"

# What every conf.toml needs, for those that are shown in part.
HOST = '[host]\nname = "web-1"\naddress = "10.0.0.11"\n[mesh]\ntrust_domain = "example.org"\n'


def document(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next one of its level."""
    level = title.split()[0]
    _, found, rest = text.partition(f"\n{title}\n")
    assert found, title
    return rest.partition(f"\n{level} ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows, heads and rules left out, code marks too."""
    found = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if line.startswith("| ") and not following.startswith("|---"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found.append([cell.replace("`", "").replace("\\|", "|").strip() for cell in cells])
    return found


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_readme_has_the_two_commands_and_ci_runs_them() -> None:
    commands = [line for block in blocks(README, "sh") for line in block.splitlines()]
    assert FIRST_COMMAND in commands
    assert TEST_COMMAND in commands
    checks = (ROOT / ".ci" / "run").read_text()
    assert f'"{FIRST_COMMAND} --once"' in checks
    assert f'"{TEST_COMMAND}"' in checks


def test_readme_has_every_command() -> None:
    assert {row[0].split()[1] for row in rows(section(README, "## Commands"))} == set(COMMANDS)


def test_every_response_flag_is_described() -> None:
    table = rows(section(document("observability.md"), "## Response flags"))
    assert {flag: rest for flag, *rest in table} == {
        flag: [meaning.name, str(meaning.status or ""), meaning.text]
        for flag, meaning in flags.MEANINGS.items()
    }


def test_every_key_of_the_access_log_is_described_in_order() -> None:
    table = rows(section(document("observability.md"), "## Access log"))
    assert [key for key, _ in table] == list(AccessRecord.__struct_fields__)


def test_every_admin_page_is_described() -> None:
    assert {row[0] for row in rows(section(document("observability.md"), "## Admin pages"))} == set(INDEX)


def test_every_limit_is_described() -> None:
    table = rows(section(document("configuration.md"), "## Limits"))
    described = [key for row in table for key in row[0].split(", ")]
    assert sorted(described) == sorted(Limits.__struct_fields__)


def test_every_key_of_policy_is_described() -> None:
    described = {row[0] for row in rows(section(document("policy.md"), "## Keys"))}
    service = {f"service.NAME.{key}" for key in policy.SERVICE.keys}
    tables = {
        "rule": policy_tables.RULE,
        "subset": SUBSET,
        "route": policy_tables.ROUTE,
        "match": policy_tables.MATCH,
        "split": policy_tables.SHARE,
        "retry": policy_tables.RETRY,
    }
    assert described == {"defaults.access"} | service | {
        f"{name}.{key}" for name, table in tables.items() for key in table.keys
    }


def test_the_defaults_of_retries_are_those() -> None:
    table = rows(section(document("policy.md"), "## Keys"))
    defaults = {key.removeprefix("retry."): default for key, default, _ in table if key.startswith("retry.")}
    told = "\n".join(f"{key} = {default}" for key, default in defaults.items() if default != "none")
    assert policy.parse_files({"p.toml": f"[service.a.retry]\n{told}".encode()}).services["a"].retry == Retry()


def test_the_policy_shown_is_one(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    for block in blocks(document("policy.md"), "toml"):
        path.write_text(block)
        assert list(policy.load(str(path)).services) == ["payments"]


def test_the_shares_of_zones_shown_are_those() -> None:
    found = rows(section(document("policy.md"), "### Zones and round-trip times"))
    assert len(found) == 6
    for near, _, far, to_near, to_far in found:
        instances = [
            Instance(
                service="payments",
                host=f"{zone}{number}",
                address=f"10.0.{zone}.{number}:9000",
                mesh=f"10.0.{zone}.{number}:15443",
                zone=str(zone),
                health="passing" if number < int(text.split()[0]) else "critical",
            )
            for zone, text, count in ((1, near, 10), (2, far, 20))
            for number in range(count)
        ]
        rules = policy.ServicePolicy(prefer="zone")
        here = Here("h1", "dc1", "1", {})
        verdicts = explain(instances, rules, "", here)
        shares = [100 * sum(one.share for one in verdicts if one.instance.zone == zone) for zone in ("1", "2")]
        assert shares == [pytest.approx(float(re.findall(r"(\d+) %", cell)[0]), abs=1.0) for cell in (to_near, to_far)]
        assert select("payments", instances, rules, "", here).panic == ("panic" in to_near)


def test_every_key_of_consul_is_told_with_its_default() -> None:
    text = document("consul.md")
    defaults = ConsulConfig()
    for key in CONSUL.keys:
        assert re.search(rf"(`|^){key}(`| =)", text, re.MULTILINE), key
    for key, value in re.findall(r"`(\w+)` \(([\d.]+)(?:\s+s)?\)", text):
        if key in CONSUL.keys:
            assert getattr(defaults, key) == float(value), key


@pytest.mark.parametrize("text", [document("consul.md"), README], ids=["consul.md", "README.md"])
def test_the_configuration_for_consul_shown_is_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "conf.toml"
    path.write_text(HOST + blocks(text, "toml")[0])
    loaded, problems = config.examine(str(path))
    assert not [problem for problem in problems if "identity" not in str(problem)]
    assert (loaded.discovery.backend, loaded.discovery.consul.token_file) == ("consul", "/etc/hostproxy/consul.token")


@pytest.mark.parametrize("title", ["### Consul", "## Health of local instances"])
def test_every_key_of_a_table_is_told_with_its_default(tmp_path: Path, title: str) -> None:
    consul = title == "### Consul"
    table = CONSUL if consul else CHECK
    before = "[discovery.consul]" if consul else '[[service]]\nname = "payments"\n[service.check]'
    path = tmp_path / "conf.toml"
    told = []
    for keys, defaults, _ in rows(section(document("configuration.md"), title)):
        told += (names := keys.split(", "))
        if not re.match(r'["\d]|true|false', defaults):
            continue  # none, or said in words
        for name, default in zip(names, defaults.split(", "), strict=True):
            path.write_text(f"{HOST}{before}\n{name} = {default}\n")
            loaded, _ = config.examine(str(path))
            read = loaded.discovery.consul if consul else loaded.services[0].check
            assert getattr(read, name) == getattr(ConsulConfig() if consul else Check(), name), name
    assert sorted(told) == sorted(table.keys)


def test_the_registration_shown_is_read_as_meant() -> None:
    (text,) = blocks(document("consul.md"), "json")
    shown = json.loads(text)["service"]
    service = {key.title(): value for key, value in shown.items() if key != "check"}
    entry = {"Node": {"Node": "db-1", "Address": "10.9.9.9"}, "Service": service, "Checks": []}
    conversion = Conversion(
        split(json.dumps([entry]).encode()), Source("payments", "dc1", False), Reachable((), ()), ()
    )
    assert conversion.step()
    (instance,) = conversion.answer().instances
    assert (instance.address, instance.mesh) == ("10.0.0.12:9001", "10.0.0.12:15443")
    assert (instance.version, instance.zone) == ("2", "rack-3")


def test_the_rights_shown_are_enough_and_each_is_needed(tmp_path: Path) -> None:
    (policy,) = blocks(document("consul.md"), "hcl")
    rights = policy.splitlines()
    with running(tmp_path, acl=True, memory=True) as consul:
        consul.register("payments", "10.0.0.12", 9001)
        assert works(consul, consul.policy("all", policy))
        for number, right in enumerate(rights):
            others = "\n".join(other for other in rights if other != right)
            assert not works(consul, consul.policy(f"without-{number}", others)), right


def works(consul: Consul, token: str) -> bool:
    """Whether hostproxy on a host that runs web can do all that it does."""
    try:
        for name, check in (("hostproxy", "hostproxy:hostproxy"), ("web", "hostproxy:hostproxy-web-9001")):
            ident = check.removeprefix("hostproxy:")
            service = {"Name": name, "ID": ident, "Port": 9001, "Check": {"CheckID": check, "TTL": "30s"}}
            consul.put("/v1/agent/service/register", service, token=token)
            consul.put(f"/v1/agent/check/pass/{check}", token=token)
            consul.put(f"/v1/agent/service/maintenance/{ident}?enable=true", token=token)
            assert ident in consul.get("/v1/agent/services", token=token)
            assert check in consul.get("/v1/agent/checks", token=token)
            consul.put(f"/v1/agent/service/deregister/{ident}", token=token)
        names = consul.get("/v1/catalog/services", token=token)
        consul.get("/v1/coordinate/nodes", token=token)
        return "payments" in names and bool(consul.get("/v1/health/service/payments", token=token))
    except Refused:
        return False


def follow(directory: Path, programs: Path, *texts: str) -> None:
    """Run every command of the texts as one script; every line of output that they show has to appear.

    ``programs`` is the directory that their ``.venv/bin`` stands for.
    """
    needs.program("curl")
    commands = "\n".join(block for text in texts for block in blocks(text, "sh"))
    script = f"trap 'kill $(jobs -p) || true' EXIT\n{commands}"
    for address, port in sorted(set(re.findall(r"(127\.0\.[01]\.[12]):(\d+)", script))):
        free = str(free_port(address))
        script = script.replace(f"{address}:{port}", f"{address}:{free}")
        script = script.replace(f" {port} --bind {address}", f" {free} --bind {address}")
        if address == "127.0.0.1":
            script = script.replace(f"localhost:{port}", f"localhost:{free}")
    script = script.replace(':15009"', f':{free_port("127.0.1.1")}"')  # of both hosts, each on its own address
    (directory / ".venv").mkdir()
    (directory / ".venv" / "bin").symlink_to(programs)
    process = subprocess.Popen(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    logs = "".join(path.read_text() for path in sorted(directory.glob("*/*.log")))
    assert process.returncode == 0, output + logs
    lines = output.splitlines()
    for shown in "".join(block for text in texts for block in blocks(text, "text")).splitlines():
        assert shown in lines, output + logs


def both_programs(directory: Path) -> Path:
    """A directory with ``hostproxy`` and ``hostproxy-controller`` of these sources."""
    directory.mkdir()
    for program, package in (("hostproxy", "hostproxy"), ("hostproxy-controller", "controller")):
        entry = directory / program
        entry.write_text(f"#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m {package} \"$@\"\n")
        entry.chmod(0o755)
    return directory


def test_two_hosts_by_hand(tmp_path: Path) -> None:
    follow(tmp_path, Path(sys.executable).parent, section(README, BY_HAND))


def test_with_a_controller(tmp_path: Path) -> None:
    follow(tmp_path, both_programs(tmp_path / "bin"), section(README, BY_HAND), section(README, WITH_A_CONTROLLER))
