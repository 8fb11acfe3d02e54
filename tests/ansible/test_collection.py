"""The collection as a whole: what ansible-lint says, and the example inventory with every playbook."""

from __future__ import annotations

import shutil

import pytest

from tests.ansible.conftest import COLLECTION
from tests.integration import needs


def test_lint_has_nothing_to_say(ansible, tmp_path):
    needs.program("ansible-lint")
    copy = tmp_path / "collection"
    shutil.copytree(COLLECTION, copy, ignore=shutil.ignore_patterns(".ansible"))
    done = ansible.run("ansible-lint", "--offline", "--nocolor", "--profile", "production", cwd=copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("playbook", ["site", "upgrade", "rollback", "remove", "example"])
def test_playbooks_can_be_read(ansible, playbook):
    inventory = str(COLLECTION / "inventory.example" / "hosts.yml")
    done = ansible.run("ansible-playbook", "-i", inventory, "--syntax-check", f"hostproxy.mesh.{playbook}")
    assert done.returncode == 0, done.stdout + done.stderr
