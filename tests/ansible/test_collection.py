"""The collection: its playbooks, what the role does by its molecule scenario, and what ansible-lint says of it all."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.ansible.conftest import COLLECTION, stand_in


@pytest.fixture(scope="module")
def lint(ansible, tmp_path_factory):
    """ansible-lint, which takes its time beside the other tests."""
    ansible.needs("ansible-lint")
    copy = tmp_path_factory.mktemp("lint") / "collection"
    shutil.copytree(COLLECTION, copy, ignore=shutil.ignore_patterns(".ansible"))
    command = ["ansible-lint", "--offline", "--nocolor", "--profile", "production"]
    with (
        (copy.parent / "said").open("w+") as said,
        subprocess.Popen(
            command, cwd=copy, env=ansible.environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        ) as process,
    ):
        yield process, copy.parent / "said"
        process.kill()


def test_playbooks_can_be_read(ansible, lint):
    inventory = str(COLLECTION / "inventory.example" / "hosts.yml")
    playbooks = [f"hostproxy.mesh.{each.stem}" for each in sorted((COLLECTION / "playbooks").glob("*.yml"))]
    done = ansible.run("ansible-playbook", "-i", inventory, "--syntax-check", *playbooks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(playbooks) == 5


def test_the_role(ansible, lint, tmp_path):
    """On this machine, into a directory: a dry run, from nothing, again without a change, and what it refuses."""
    ansible.needs("molecule")
    ansible.environment["MOLECULE_WHEELHOUSE"] = str(stand_in(tmp_path))
    done = ansible.run("molecule", "test", cwd=COLLECTION)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "PRIVATE KEY" not in done.stdout


def test_lint_has_nothing_to_say(lint):
    process, said = lint
    assert process.wait(300) == 0, said.read_text()
