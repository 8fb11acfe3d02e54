"""The daemon as the commands that signal it find it, by the file of its lock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hostproxy.cli import running
from hostproxy.cli.admin import Document, Unreachable
from hostproxy.config import Config
from hostproxy.control.runtime import LOCK_NAME, RuntimeDirectory

Serve = Callable[..., str]
NOBODY = "127.0.0.1:1"  # nobody listens there
BEFORE: Document = {"pid": 4711, "upgrades": {"succeeded": 2}}


def conf(directory: Path) -> Config:
    """As conf.toml is by now."""
    host, admin = SimpleNamespace(runtime_directory=str(directory)), SimpleNamespace(listen=NOBODY)
    return cast(Config, SimpleNamespace(host=host, admin=admin))


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RuntimeDirectory]:
    """Ours: this process is the daemon."""
    directory = RuntimeDirectory(str(tmp_path))
    yield directory
    directory.release()


def test_the_address_in_use_counts(daemon: Serve, directory: RuntimeDirectory, tmp_path: Path) -> None:
    """Not what conf.toml says, unless an older release, which does not say it, runs."""
    assert running.find(conf(tmp_path)).admin == NOBODY
    address = daemon()
    directory.answers_at(address)
    found = running.find(conf(tmp_path))
    assert (found.pid, found.admin) == (os.getpid(), address)
    assert running.status(found)["pid"] == 4711
    lines = (tmp_path / LOCK_NAME).read_text().splitlines(keepends=True)
    (tmp_path / LOCK_NAME).write_text("".join(lines[:3]))
    assert running.find(conf(tmp_path)).admin == NOBODY


def test_an_address_that_moves_is_followed(daemon: Serve, directory: RuntimeDirectory, tmp_path: Path) -> None:
    directory.answers_at(daemon())
    other = daemon()
    asked = 0

    def over(document: Document) -> bool:
        nonlocal asked
        asked += 1
        directory.answers_at(other if asked == 1 else NOBODY)
        return asked == 2

    assert running.wait(conf(tmp_path), BEFORE, over, "reload", 20) is not None


def never(document: Document) -> bool:
    return False


@pytest.mark.parametrize("in_order", [True, False])
def test_a_daemon_that_goes_meanwhile(tmp_path: Path, in_order: bool) -> None:
    """In order it empties the file; killed it leaves it as it was, and its parent may not have taken notice yet."""
    directory = RuntimeDirectory(str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        directory.release(in_order=True)
        if not in_order:
            (tmp_path / LOCK_NAME).write_text(f"{dead.pid}\n1\n/code\n{NOBODY}\n")
        since = time.monotonic()
        with pytest.raises(Unreachable, match="was stopped, or died, during the upgrade"):
            running.wait(conf(tmp_path), BEFORE, never, "upgrade", 60)
        assert running.GONE <= time.monotonic() - since < 20


@pytest.mark.parametrize(("upgrades", "is_another"), [(2, True), (3, False)])
def test_one_that_was_started_anew_is_no_successor(
    monkeypatch: pytest.MonkeyPatch, directory: RuntimeDirectory, tmp_path: Path, upgrades: int, is_another: bool
) -> None:
    document: dict[str, Any] = {"pid": 4712, "upgrades": {"succeeded": upgrades}}
    monkeypatch.setattr(running, "status", lambda found: document)
    if is_another:
        with pytest.raises(Unreachable, match="was stopped, or died"):
            running.wait(conf(tmp_path), BEFORE, lambda document: True, "upgrade", 20)
    else:
        assert running.wait(conf(tmp_path), BEFORE, lambda document: True, "upgrade", 20) is document


def test_one_that_lives_and_stays_undecided(daemon: Serve, directory: RuntimeDirectory, tmp_path: Path) -> None:
    directory.answers_at(daemon())
    assert running.wait(conf(tmp_path), BEFORE, never, "upgrade", 0.3) is None
    directory.answers_at(NOBODY)
    with pytest.raises(Unreachable, match="nobody listens"):
        running.wait(conf(tmp_path), BEFORE, never, "upgrade", 0.3)
