"""docs/ held against the sources: links, commands, metrics, alerts, the dashboard; and its scripts, run as they are."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import ProcessCollector

from controller.__main__ import COMMANDS as CONTROLLER
from hostproxy import config
from hostproxy.__main__ import COMMANDS as HOSTPROXY
from hostproxy.telemetry import families
from tests.integration import needs
from tests.test_docs import DOCUMENTS, README, ROOT, blocks, both_programs, document, follow, rows, section

DOCS = ROOT / "docs"
RULES = DOCS / "alerts" / "hostproxy.rules.yml"
BOARD = DOCS / "dashboards" / "hostproxy.json"

PROGRAMS = {"hostproxy": (HOSTPROXY, "hostproxy.cli"), "hostproxy-controller": (CONTROLLER, "controller.cli")}
# What the documents' scripts call one of the programs with options of its own.
FUNCTIONS = {"operate": ("hostproxy-controller", "-c", "controller.toml")}

GROUPS = {
    "## Requests": families.REQUESTS,
    "## TCP connections": families.TCP,
    "## Events": families.EVENTS,
    "## Connections": families.LEVELS,
    "## The host": families.HOST,
    "## Consul": families.CONSUL,
}
SUPERVISOR = "## The supervisor's process"
PROCESS = {
    f"{metric.name}_total" if metric.type == "counter" else metric.name: metric
    for metric in ProcessCollector(registry=None).collect()
}


# Links


def fenced_out(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Those that GitHub makes of the headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", fenced_out(path.read_text()), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        found.add(plain)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", fenced_out(path.read_text())):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        other = (path.parent / name).resolve() if name else path
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def test_the_index_has_every_document() -> None:
    linked = set(re.findall(r"\]\(([a-z-]+\.md)\)", document("index.md")))
    assert linked == {path.name for path in DOCS.glob("*.md")} - {"index.md"}


# Commands


def parser(program: str, command: str) -> argparse.ArgumentParser:
    package = PROGRAMS[program][1]
    made = argparse.ArgumentParser(prog=f"{program} {command}")
    importlib.import_module(f"{package}.{command.replace('-', '_')}").configure(made)
    return made


def calls(script: str) -> Iterator[list[str]]:
    """The calls of either program in a shell script, as their words."""
    script = re.sub(r"\$(\w+)", r"\1", script)
    script = re.sub(r"<<-?'?(\w+)'?(.*?)\n.*?\n\s*\1$", r"\2", script, flags=re.MULTILINE | re.DOTALL)
    script = re.sub(r"^\w+\(\) \{.*\}$", "", script.replace("\\\n", " "), flags=re.MULTILINE)  # FUNCTIONS
    script = re.sub(r"\s\d?>{1,2}&?\s*[^\s;)]+|\s#.*$", " ", script, flags=re.MULTILINE)
    lexer = shlex.shlex(script, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    lexer.commenters = ""
    simple: list[str] = []
    for token in [*lexer, ";"]:
        if set(token) - set("();<>|&\n{}"):
            simple.append(token)
            continue
        while simple and (simple[0] in ("until", "while", "if", "then", "do", "!") or "=" in simple[0]):
            del simple[0]
        if "--" in simple and simple[0] == "runuser":
            del simple[: simple.index("--") + 1]
        if simple:
            name = simple[0].rpartition("/")[2]
            if name in FUNCTIONS:
                name, *more = FUNCTIONS[name]
                yield [name, *simple[1:], *more]
            elif name in PROGRAMS:
                yield [name, *simple[1:]]
        simple = []


def described(words: list[str]) -> Iterator[str]:
    """What prose and tables say of a call that its program does not know; words in capitals stand for anything."""
    program, command, *rest = words
    if command.startswith("--"):
        return
    if command not in PROGRAMS[program][0]:
        yield command
        return
    chain = [parser(program, command)]
    for word in rest:
        if word.startswith("-"):
            if not any(word.partition("=")[0] in one._option_string_actions for one in chain):
                yield word
            continue
        nested = [one for one in chain[-1]._actions if isinstance(one, argparse._SubParsersAction)]
        if nested and word.islower():
            if word not in nested[0].choices:
                yield word
                return
            chain.append(nested[0].choices[word])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_scripts_is_one(path: Path) -> None:
    for script in blocks(path.read_text(), "sh"):
        for program, *words in calls(script):
            command = words[0]
            assert command in PROGRAMS[program][0], (program, *words)
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    parser(program, command).parse_args(words[1:])
            except SystemExit:
                pytest.fail(f"{program} {' '.join(words)}: {said.getvalue()}")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_prose_is_one(path: Path) -> None:
    for text in re.findall(r"`(hostproxy(?:-controller)? [^`]+)`", fenced_out(path.read_text())):
        words = re.sub(r"\\?\||[\[\]]|\.\.\.", " ", text).split()
        if words[1:]:
            assert not list(described(words)), text


def test_the_configuration_to_begin_with_is_one(tmp_path: Path) -> None:
    path = tmp_path / "conf.toml"
    path.write_text(blocks(document("install.md"), "toml")[0].replace("/etc/hostproxy", str(tmp_path)))
    token = tmp_path / "join.token"
    token.write_text("token")
    token.chmod(0o600)
    loaded, problems = config.examine(str(path))
    assert not problems
    assert (loaded.identity.mode, loaded.discovery.backend) == ("controller", "consul")


# Metrics


def test_every_metric_is_described() -> None:
    text = document("metrics.md")
    for title, group in GROUPS.items():
        assert [(name, kind, labels, meaning) for name, kind, labels, _, meaning in rows(section(text, title))] == [
            (families.PREFIX + name, family.kind, ", ".join(family.labels), family.help.removesuffix("."))
            for name, family in group.items()
        ]
    table = rows(section(text, SUPERVISOR))
    assert [(name, kind, meaning) for name, kind, _, _, meaning in table] == [
        (name, metric.type, metric.documentation.removesuffix(".")) for name, metric in PROCESS.items()
    ]


def test_every_unit_of_a_metric_is_that_of_its_name() -> None:
    text = document("metrics.md")
    units = {row[0]: row[3] for title in (*GROUPS, SUPERVISOR) for row in rows(section(text, title))}
    for name, unit in units.items():
        base = name.removesuffix("_total")
        if base.endswith("timestamp_seconds") or name == "process_start_time_seconds":
            assert unit == "Unix seconds", name
        elif base.endswith(("_seconds", "_bytes")):
            assert unit == base.rpartition("_")[2], name
        else:
            assert unit not in ("", "seconds", "bytes"), name


def test_every_label_is_described() -> None:
    told = {word for row in rows(section(document("metrics.md"), "## Labels")) for word in re.findall(r"\w+", row[0])}
    used = {label for group in GROUPS.values() for family in group.values() for label in family.labels}
    told_elsewhere = {"datacenter", "family", "identity", "local_address", "service", "version", "python", "twisted"}
    assert used - told == told_elsewhere


# Alerts and the dashboard


def expressions_of_rules() -> list[str]:
    """Of all rules, in one line each. YAML is not read in full: the file keeps to one form."""
    found = re.findall(r"^ {8}expr: (?:\|\n((?: {10}.*\n)+)|(.+)\n)", RULES.read_text(), re.MULTILINE)
    return [" ".join((several or one).split()) for several, one in found]


def expressions_of_the_board() -> list[str]:
    board = json.loads(BOARD.read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


def expressions_in_documents() -> list[str]:
    """Blocks of promql have one in each line, and the runbook has them between words."""
    found = [line for path in DOCUMENTS for block in blocks(path.read_text(), "promql") for line in block.splitlines()]
    inline = re.findall(r"`((?:sum|count|topk|min|max)\b[^`]*\([^`]*\))`", fenced_out(document("runbook.md")))
    inline += re.findall(r"`(sum by[^`]*)`", fenced_out(document("policy.md")))
    assert len(inline) > 5
    return found + inline


def alerts() -> list[str]:
    return re.findall(r"- alert: (\w+)", RULES.read_text())


def labels_by_series() -> dict[str, set[str]]:
    """Everything that an expression may name."""
    known = {"up": {"job", "instance"}}
    for group in GROUPS.values():
        for name, family in group.items():
            labels = {*family.labels, "job", "instance"}
            known[families.PREFIX + name] = labels
            if family.kind == "histogram":
                known[f"{families.PREFIX}{name}_bucket"] = {*labels, "le"}
                known |= {f"{families.PREFIX}{name}_{part}": labels for part in ("sum", "count")}
    known |= {name: {"job", "instance"} for name in PROCESS}
    known |= {record: {"destination"} for record in re.findall(r"- record: (\S+)", RULES.read_text())}
    return known


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [needs.program("promtool"), *map(str, arguments)]
    return subprocess.run(command, cwd=RULES.parent, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("expressions", [expressions_of_rules, expressions_of_the_board, expressions_in_documents])
def test_every_expression_names_what_there_is(expressions) -> None:
    known = labels_by_series()
    found = expressions()
    assert len(found) > 5
    for expression in found:
        bare = re.sub(r'"[^"]*"', '""', expression)
        for name in re.findall(r"\b(?:hostproxy_|process_|destination:)[\w:]+|\bup\b", bare):
            assert name in known, expression
        for name, matchers in re.findall(r"([a-z][\w:]*)\{([^}]*)\}", bare):
            assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= known[name], expression


def test_every_expression_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "rules.yml"
    every = [*expressions_of_the_board(), *expressions_in_documents()]
    records = [{"record": f"a:b{number}", "expr": expression} for number, expression in enumerate(every)]
    path.write_text(json.dumps({"groups": [{"name": "all", "rules": records}]}))
    checked = promtool("check", "rules", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_rules_are_rules() -> None:
    checked = promtool("check", "rules", RULES.name)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert len(expressions_of_rules()) == len(re.findall(r"- (?:alert|record): ", RULES.read_text()))


@pytest.mark.parametrize("name", ["hostproxy.tests.yml", "hostproxy.long.tests.yml"])
def test_the_alerts_fire_when_they_should(name: str) -> None:
    tried = promtool("test", "rules", name)
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_every_alert_that_wakes_somebody_is_tried() -> None:
    tried = "".join(path.read_text() for path in RULES.parent.glob("*.tests.yml"))
    pages = re.findall(r"- alert: (\w+)\n(?: {8}.*\n)*? {8}labels: \{ severity: page \}", RULES.read_text())
    assert len(pages) > 5
    for alert in pages:
        assert re.search(rf"alertname: {alert}\n.*\n +exp_alerts:\n", tried), alert


def test_every_alert_has_a_section_of_the_runbook() -> None:
    text = document("runbook.md")
    sections = re.findall(r"^### (Hostproxy\w+)$", text, re.MULTILINE)
    assert sorted(sections) == sorted(alerts())
    for name in sections:
        told = section(text, f"### {name}")
        for part in ("Meaning", "Check", "Action"):
            table = part == "Action" and "| do |" in told
            assert table or re.search(rf"\*\*{part}\b|\*\*{part.lower()}\b", told), (name, part)
    urls = re.findall(r"runbook_url: (\S+)$", RULES.read_text(), re.MULTILINE)
    assert urls == [f"docs/runbook.md#{name.lower()}" for name in alerts()]
    assert {url.partition("#")[2] for url in urls} <= anchors(DOCS / "runbook.md")


def test_the_dashboard_is_one() -> None:
    board = json.loads(BOARD.read_text())
    assert board["uid"] == "hostproxy"
    identities = [panel["id"] for panel in board["panels"]]
    assert len(set(identities)) == len(identities)
    places = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & places, panel["title"]
        places |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"


def test_the_comparison_has_the_figures_of_the_readme() -> None:
    measured = {row[0]: row for row in rows(README.partition("<!-- bench -->")[2])}
    compared = rows(section(document("comparison.md"), "## In figures"))
    assert len(compared) == 7
    for name, ours, haproxy, envoy in compared:
        same = next(row for title, row in measured.items() if title in (name, f"One hop, {name[0].lower()}{name[1:]}"))
        assert (ours, haproxy, envoy) == (same[1], same[2], same[4]), name


# Scripts


def test_a_first_mesh(tmp_path: Path) -> None:
    text = document("first-mesh.md").partition("\n## On machines of their own\n")[0]
    follow(tmp_path, both_programs(tmp_path / "bin"), text)


def test_a_service_moves_into_the_mesh_and_no_call_fails(tmp_path: Path) -> None:
    follow(tmp_path, both_programs(tmp_path / "bin"), document("migrate.md"))
    called = (tmp_path / "migration" / "calls.txt").read_text().split()
    assert set(called) == {"ok"}
    assert len(called) > 20
