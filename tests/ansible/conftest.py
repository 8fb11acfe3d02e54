"""The collection, installed as users install it, and hosts that are directories of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests import wheelhouses
from tests.integration import needs

ROOT = Path(__file__).parent.parent.parent
COLLECTION = ROOT / "ansible"


class Ansible:
    """Runs Ansible's programs on this machine, without touching anything but a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        needs.program("ansible-playbook")
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(directory / "collections"),
            "ANSIBLE_HOME": str(directory / "home"),
            "ANSIBLE_LOCALHOST_WARNING": "0",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "0",
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        }

    def run(self, *command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=180, check=False
        )

    def play(self, playbook: str, variables: Mapping[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook against this machine, which plays the host ``web-1``."""
        path = self.directory / "variables.json"
        path.write_text(json.dumps(variables))
        inventory = self.directory / "hosts.yml"
        host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
        inventory.write_text(json.dumps({"hostproxy": {"hosts": {"web-1": host}}}))
        return self.run("ansible-playbook", "-i", str(inventory), "-e", f"@{path}", *options, playbook)


@pytest.fixture(scope="package")
def ansible(tmp_path_factory) -> Ansible:
    running = Ansible(tmp_path_factory.mktemp("ansible"))
    target = str(running.directory / "collections")
    done = running.run("ansible-galaxy", "collection", "install", str(COLLECTION), "-p", target)
    assert done.returncode == 0, done.stdout + done.stderr
    return running


BROKEN = "2.0"
SETUP = """
[metadata]
name = hostproxy
version = 1.0
[options]
py_modules = standin
[options.entry_points]
console_scripts =
    hostproxy = standin:main
"""
BUILD = '[build-system]\nrequires = ["setuptools>=68"]\nbuild-backend = "setuptools.build_meta"\n'
PROGRAM = """
import subprocess, sys
VERSION = "1.0"

def main():
    if sys.argv[1:] == ["--version"]:
        print("hostproxy", VERSION)
        return 0
    if VERSION != "1.0" and sys.argv[1] == "check":
        sys.stderr.write("this version takes no conf.toml\\n")
        return 1
    return subprocess.run([{python!r}, "-m", "hostproxy", *sys.argv[1:]]).returncode
"""


def stand_in(directory: Path) -> dict[str, Path]:
    """Wheelhouses with a stand-in for hostproxy, which needs no other wheels, and hands ``check`` to the sources.

    1.0 is whole; 2.0 refuses every conf.toml.
    """
    source = directory / "source"
    (source / "systemd").mkdir(parents=True)
    (source / "systemd" / "hostproxy.service").write_text("[Service]\n")
    (source / "pyproject.toml").write_text(BUILD)
    (source / "setup.cfg").write_text(SETUP)
    (source / "standin.py").write_text(PROGRAM.format(python=sys.executable))
    made = directory / "1.0"
    wheelhouses.build(made, source)

    def refuse(name: str, content: bytes) -> bytes:
        return content.replace(b'VERSION = "1.0"', b'VERSION = "2.0"') if name == "standin.py" else content

    return {"1.0": made, BROKEN: wheelhouses.another(made, directory / BROKEN, BROKEN, refuse)}
