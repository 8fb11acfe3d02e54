"""What README.md and docs/ say, held against the sources, and the README's two hosts started as it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hostproxy.__main__ import COMMANDS
from hostproxy.admin.pages import INDEX
from hostproxy.limits import Limits
from hostproxy.mesh import policy
from hostproxy.telemetry import families, flags
from hostproxy.telemetry.access_log import AccessRecord
from tests.integration import needs
from tests.integration.host import free_port

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])

FIRST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/hostproxy demo"
TEST_COMMAND = ".venv/bin/pip install -e '.[test]' && .venv/bin/pytest"
BY_HAND = "## Two hosts by hand"


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


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_readme_has_the_two_commands_and_ci_runs_them() -> None:
    commands = [line for block in blocks(README, "sh") for line in block.splitlines()]
    assert FIRST_COMMAND in commands
    assert TEST_COMMAND in commands
    checks = (ROOT / ".ci" / "run").read_text()
    assert f'"{FIRST_COMMAND} --once"' in checks
    assert f'"{TEST_COMMAND}"' in checks


def test_readme_has_every_command() -> None:
    assert {row[0].split()[1] for row in rows(section(README, "## Commands"))} == set(COMMANDS)


def test_every_metric_is_described() -> None:
    known = {
        f"{families.PREFIX}{name}": [family.kind, ", ".join(family.labels)]
        for group in (families.REQUESTS, families.TCP, families.EVENTS, families.LEVELS, families.HOST)
        for name, family in group.items()
    }
    table = rows(section(document("observability.md"), "## Metrics"))
    assert {name: [kind, labels] for name, kind, labels, _ in table} == known


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
    allow = {f"allow.{key}" for key in policy.ALLOW.keys}
    assert described == {"defaults.access"} | service | allow


def test_the_policy_shown_is_one(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(blocks(document("policy.md"), "toml")[0])
    assert list(policy.load(str(path)).services) == ["payments"]


def test_two_hosts_by_hand(tmp_path: Path) -> None:
    """Every command of the README's section, as one script; every line of output that it shows, appears."""
    needs.program("curl")
    text = section(README, BY_HAND)
    script = "trap 'kill $(jobs -p) || true' EXIT\n" + "\n".join(blocks(text, "sh"))
    for address, port in sorted(set(re.findall(r"(127\.0\.1\.[12]):(\d+)", script))):
        free = str(free_port(address))
        script = script.replace(f"{address}:{port}", f"{address}:{free}")
        script = script.replace(f" {port} --bind {address}", f" {free} --bind {address}")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    process = subprocess.Popen(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    logs = "".join(path.read_text() for path in sorted((tmp_path / "mesh").glob("*.log")))
    assert process.returncode == 0, output + logs
    lines = output.splitlines()
    for shown in "".join(blocks(text, "text")).splitlines():
        assert shown in lines, output + logs
