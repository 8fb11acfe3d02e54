"""The collection, installed as users install it, and hosts that are directories of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import wheelhouses
from tests.integration import needs

ROOT = Path(__file__).parent.parent.parent
COLLECTION = ROOT / "ansible"


class Ansible:
    """Runs Ansible's programs on this machine, without touching anything but a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            # Beside the interpreter, where pip puts them; hostproxy, which the scenario uses, is there, too.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
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

        self.needs("ansible-playbook")

    def needs(self, program: str) -> None:
        """Skip the test, or fail it in CI, when it is not installed."""
        if shutil.which(program, path=self.environment["PATH"]) is None:
            needs.missing(f"{program} is not installed (pip install ansible-core ansible-lint molecule)")

    def run(self, *command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )


@pytest.fixture(scope="package")
def ansible(tmp_path_factory) -> Ansible:
    running = Ansible(tmp_path_factory.mktemp("ansible"))
    target = str(running.directory / "collections")
    done = running.run("ansible-galaxy", "collection", "install", str(COLLECTION), "-p", target)
    assert done.returncode == 0, done.stdout + done.stderr
    return running


BUILD = '[build-system]\nrequires = ["setuptools>=68"]\nbuild-backend = "setuptools.build_meta"\n'
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
PROGRAM = """
import subprocess, sys

def main():
    return subprocess.run([{python!r}, "-m", "hostproxy", *sys.argv[1:]]).returncode
"""


def stand_in(directory: Path) -> Path:
    """A wheelhouse with a stand-in for hostproxy, which needs no other wheels: it runs the sources."""
    source = directory / "source"
    (source / "systemd").mkdir(parents=True)
    (source / "systemd" / "hostproxy.service").write_text("[Service]\n")
    (source / "pyproject.toml").write_text(BUILD)
    (source / "setup.cfg").write_text(SETUP)
    (source / "standin.py").write_text(PROGRAM.format(python=sys.executable))
    made = directory / "1.0"
    wheelhouses.build(made, source)
    return made
