"""The demo's controller: a process of its own, and what an operator does with it, by the commands that there are."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from hostproxy.demo.processes import SiteError
from hostproxy.unixhttp import UnixConnection

NAME = "controller"  # of the package, and of its process here
DNS = "localhost"  # hosts come to it by a name, which its certificate has
COMMAND_TIME = 30.0  # seconds for one command; it takes a tenth
ANSWER_TIME = 5.0  # seconds for an answer of its Unix socket

NOT_THERE = f"""\
the package {NAME} is not there. It is in the same distribution as hostproxy: install that again, such as
  pip install --force-reinstall hostproxy, or pip install -e . in a checkout"""


class Controller:
    """One controller of a mesh, in a directory of its own."""

    def __init__(self, directory: Path, port: int) -> None:
        """``directory`` is not there yet, and its path is short: a Unix socket will be in it."""
        self.url = f"https://{DNS}:{port}"
        self._listen = f"127.0.0.1:{port}"
        self._directory = directory

    @property
    def command(self) -> list[str]:
        """What starts it."""
        return [sys.executable, "-m", NAME, "run", "-c", self._configuration]

    @property
    def _configuration(self) -> str:
        return str(self._directory / "controller.toml")

    def init(self, trust_domain: str) -> None:
        """Make its keys and files. Raises :class:`SiteError`."""
        options = ["--trust-domain", trust_domain, "--dns", DNS, "--listen", self._listen]
        _run("init", str(self._directory), *options)

    def leads(self) -> bool:
        """Whether it runs and can be told things. Raises OSError, HTTPException."""
        return bool(self.get("/v1/status")["leading"])

    def operate(self, *arguments: str) -> Any:
        """``hostproxy-controller`` with these arguments; what it answers, as JSON. Raises :class:`SiteError`."""
        return json.loads(_run(*arguments, "-c", self._configuration, "-o", "json"))

    def apply(self, directory: Path, policy: Mapping[str, Mapping[str, Any]], *options: str) -> int:
        """Write policy into ``directory``, by file, and make it the newest generation, whose number is returned."""
        directory.mkdir(exist_ok=True)
        for name, content in policy.items():
            (directory / name).write_text(tomli_w.dumps(content))
        return int(self.operate("policy", "apply", str(directory), *options)["generation"])

    def get(self, path: str) -> Any:
        """Read something of the operators' interface. Raises OSError, HTTPException."""
        connection = UnixConnection(str(self._directory / "operator.sock"), ANSWER_TIME)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise http.client.HTTPException(f"{response.status} {body[:200]!r}")
        return json.loads(body)


def _run(*arguments: str) -> str:
    """One command; its output."""
    shown = " ".join(("hostproxy-controller", *arguments[:2]))
    try:
        done = subprocess.run(
            [sys.executable, "-m", NAME, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIME,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SiteError(f"{shown} took more than {COMMAND_TIME:.0f} s") from None
    if f"No module named {NAME}" in done.stderr:
        raise SiteError(NOT_THERE)
    if done.returncode:
        raise SiteError(f"{shown} ended with status {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout
