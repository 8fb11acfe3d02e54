"""A machine that doesn't allow hosts says so, with everything that is in the way, and a status of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.hosts.__main__ import IMPOSSIBLE
from tests.hosts.bed import SOURCES
from tests.hosts.machine import Impossible, check
from tests.integration import needs

UP = [sys.executable, "-m", "tests.hosts", "--bed", "none", "up", "one", "10.98.9.2"]


def test_it_takes_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Impossible, match="hosts need root"):
        check()


def test_what_the_kernel_refuses_is_told_one_by_one() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has rights to give up")
    command = [needs.program("setpriv"), "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", *UP]
    done = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == IMPOSSIBLE, done
    assert done.stderr.startswith("no hosts here: ")
    for what in ("a mount namespace", "a cgroup v2", "overlay file systems", "network namespaces", "PID, IPC"):
        assert f"\n  {what}" in done.stderr
    assert "Operation not permitted" in done.stderr


def test_an_address_that_is_not_for_hosts_is_wrong_usage() -> None:
    done = subprocess.run([*UP[:-1], "10.98.9.1"], cwd=SOURCES, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "a network's first address is this machine's own" in done.stderr
