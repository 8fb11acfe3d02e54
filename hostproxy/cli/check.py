"""``hostproxy check``: is this conf.toml, with all the files that it names, fit to run?"""

from __future__ import annotations

import argparse
import os
import sys
import time

import msgspec

from hostproxy import config
from hostproxy.cli.admin import DEFAULT_PATH
from hostproxy.config import Config
from hostproxy.mesh.document import Invalid, Problem


class Report(msgspec.Struct):
    """What was found, in the form that ``--json`` prints."""

    valid: bool = True
    problems: list[Problem] = []
    warnings: list[Problem] = []

    def add(self, problems: list[Problem]) -> None:
        """Take more problems."""
        self.problems = [*self.problems, *problems]
        self.valid = not self.problems


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("-c", "--config", metavar="FILE", default=DEFAULT_PATH, help=f"what to check ({DEFAULT_PATH})")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    output.add_argument("--quiet", action="store_true", help="print problems only: no warnings, no summary")


def run(arguments: argparse.Namespace) -> int:
    """Check everything; return 0 when it is fit to run, 1 when it isn't."""
    report, summary = examine(arguments.config)
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        _print(report, summary, arguments.quiet)
    return 0 if report.valid else 1


def examine(path: str) -> tuple[Report, list[str]]:
    """Read a conf.toml and what it names; return what was found, and what there is in a few words.

    A fault in one file doesn't keep the others from being read, as far as it leaves their names.
    """
    report = Report()
    summary: list[str] = []
    try:
        loaded, problems = config.examine(path)
    except Invalid as invalid:
        report.add(invalid.problems)
        return report, summary
    report.add(problems)
    report.warnings.extend(loaded.warnings)
    summary.append(_count(len(loaded.services), "service"))
    for read in (_catalog, _policy, _identities):
        try:
            found, warnings = read(loaded)
        except Invalid as invalid:
            report.add(invalid.problems)
        else:
            summary.append(found)
            report.warnings.extend(warnings)
    return report, summary


Found = tuple[str, tuple[Problem, ...]]  # a few words, and warnings


def _catalog(loaded: Config) -> Found:
    from hostproxy.discovery import catalog

    if loaded.discovery.backend == "consul":
        return _consul(loaded)
    if not loaded.discovery.file_path:
        return "no catalog", ()
    found = catalog.load(loaded.discovery.file_path)
    instances = sum(len(each) for each in found.values())
    return f"{_count(instances, 'instance')} of {_count(len(found), 'service')} in the catalog", ()


def _consul(loaded: Config) -> Found:
    """The files that the way to the agent needs. The agent itself is not asked: it may be there later."""
    from hostproxy.discovery.consul.errors import AgentError
    from hostproxy.discovery.consul.tls import ClientTls
    from hostproxy.discovery.consul.token import Token

    consul = loaded.discovery.consul
    problems, warnings = [], []

    def problem(key: str, message: str) -> Problem:
        return Problem(loaded.path, 0, 0, f"discovery.consul.{key}" if key else "discovery.consul", message)

    key = "token_credential" if consul.token_credential else "token_file"
    if consul.token_credential and "CREDENTIALS_DIRECTORY" not in os.environ:
        warnings.append(problem(key, "cannot be looked at here: systemd gives it to the service only"))
    else:
        token = Token(consul, os.environ, time.monotonic)
        try:
            token()
        except AgentError:
            problems.append(problem(key, token.problem))
        else:
            warnings.extend([problem(key, token.problem)] if token.problem else [])
    if consul.address.startswith("https://") and bool(consul.certificate) == bool(consul.key):
        host = consul.address.removeprefix("https://").rpartition(":")[0].strip("[]")
        tls = ClientTls(None, consul, host)  # no reactor: it makes no connection here
        try:
            tls.options()
        except AgentError:
            problems.append(problem("", tls.problem))
        else:
            warnings.extend([problem("", tls.problem)] if tls.problem else [])
    if problems:
        raise Invalid(problems)
    return f"the catalog of Consul at {consul.address}", tuple(warnings)


def _policy(loaded: Config) -> Found:
    from hostproxy.mesh import policy

    if not loaded.policy.path:
        return "no policy", ()
    return f"policy for {_count(len(policy.load(loaded.policy.path).services), 'service')}", ()


def _identities(loaded: Config) -> Found:
    from hostproxy.identity import files

    identity, trust_domain, host = loaded.identity, loaded.mesh.trust_domain, loaded.host.name
    names = [service.name for service in loaded.services]
    if not all((identity.authorities_path, identity.directory, trust_domain, host, *names)):
        return "", ()  # which of them is missing or wrong has been said
    found = files.load(identity, names, trust_domain, host)
    return _count(len(found.by_name), "certificate"), found.warnings


def _print(report: Report, summary: list[str], quiet: bool) -> None:
    for problem in report.problems:
        sys.stderr.write(_line(problem, "error"))
    if not quiet:
        for warning in report.warnings:
            sys.stderr.write(_line(warning, "warning"))
    if report.valid and not quiet:
        sys.stdout.write(f"ok: {', '.join(summary)}\n")


def _line(problem: Problem, severity: str) -> str:
    """Return a message in the form of C compilers, which editors can jump to."""
    place = f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file
    return f"{place}: {severity}: {problem.what()}\n"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
