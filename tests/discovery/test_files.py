from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet import inotify
from twisted.logger import globalLogPublisher

from hostproxy.discovery.files import NOTICE, SETTLE, FileWatch, directories
from tests.discovery.conftest import Loop

NEVER = 60.0  # seconds between polls where only inotify is to notice


class Watching:
    """A watch on one path, and how often it called."""

    def __init__(self, loop: Loop, *paths: Path, interval: float = NEVER) -> None:
        self.calls = 0
        self.loop = loop
        self.watch = FileWatch(loop.reactor, map(str, paths), self.called, interval)
        self.watch.start()

    def called(self) -> None:
        self.calls += 1

    def expect(self, calls: int) -> None:
        """Wait for that many calls."""
        self.loop.until(lambda: self.calls >= calls)

    def end(self, calls: int) -> None:
        """Wait for that many calls in all, and a little longer for one too many."""
        self.expect(calls)
        self.loop.run_for(1.5 * SETTLE + NOTICE)
        assert self.calls == calls
        self.watch.stop()


def rewrite(file: Path) -> None:
    file.write_text("rewritten")


def replace(file: Path) -> None:
    (file.parent / "new").write_text("replaced")
    os.replace(file.parent / "new", file)


def replace_keeping_size_and_time(file: Path) -> None:
    before = file.stat()
    new = file.parent / "new"
    new.write_bytes(file.read_bytes())
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(new, file)


def delete(file: Path) -> None:
    file.unlink()


def recreate_directory(file: Path) -> None:
    shutil.rmtree(file.parent)
    file.parent.mkdir()
    file.write_text("recreated")


def swap_directory(file: Path) -> None:
    new = file.parent.parent / "other"
    new.mkdir()
    (new / file.name).write_text("swapped")
    file.parent.rename(file.parent.parent / "away")
    new.rename(file.parent)


CHANGES = [rewrite, replace, replace_keeping_size_and_time, delete, recreate_directory, swap_directory]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_once(loop: Loop, tmp_path: Path, change: Callable[[Path], None]) -> None:
    file = tmp_path / "etc" / "catalog.toml"
    file.parent.mkdir()
    file.write_text("original")
    watching = Watching(loop, file)
    change(file)
    watching.expect(1)
    # And the watch is none the worse for it.
    file.write_text("once more")
    watching.end(2)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_without_inotify(
    loop: Loop, tmp_path: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(reactor: object) -> None:
        raise inotify.INotifyError("INotify initialization error.")

    monkeypatch.setattr(inotify, "INotify", exhausted)
    logged: list[object] = []
    globalLogPublisher.addObserver(logged.append)
    file = tmp_path / "etc" / "catalog.toml"
    file.parent.mkdir()
    file.write_text("original")
    watching = Watching(loop, file, interval=0.05)
    change(file)
    watching.end(1)
    globalLogPublisher.removeObserver(logged.append)
    assert 1 <= len(logged) <= 3  # once for each set of directories, not for each poll


def test_a_file_that_appears_is_seen(loop: Loop, tmp_path: Path) -> None:
    file = tmp_path / "etc" / "hostproxy" / "catalog.toml"
    watching = Watching(loop, file)
    file.parent.mkdir(parents=True)
    loop.run_for(2.5 * SETTLE)
    file.write_text("new")
    watching.end(1)


def test_a_deleted_directory_that_comes_back_later_is_seen(loop: Loop, tmp_path: Path) -> None:
    file = tmp_path / "etc" / "catalog.toml"
    file.parent.mkdir()
    file.write_text("original")
    watching = Watching(loop, file)
    shutil.rmtree(file.parent)
    watching.expect(1)
    file.parent.mkdir()
    loop.run_for(2.5 * SETTLE)
    file.write_text("back")
    watching.end(2)


def test_a_switched_link_is_seen_as_kubernetes_does_it(loop: Loop, tmp_path: Path) -> None:
    for name in ("..1", "..2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "catalog.toml").write_text("same size")
    (tmp_path / "..data").symlink_to("..1")
    file = tmp_path / "catalog.toml"
    file.symlink_to("..data/catalog.toml")
    watching = Watching(loop, file)
    (tmp_path / "..data_tmp").symlink_to("..2")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
    shutil.rmtree(tmp_path / "..1")
    watching.expect(1)
    (tmp_path / "..2" / "catalog.toml").write_text("in the new directory")
    watching.end(2)


def test_a_file_behind_a_link_to_elsewhere_is_seen(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "releases" / "1").mkdir(parents=True)
    (tmp_path / "releases" / "2").mkdir()
    (tmp_path / "etc").mkdir()
    for release in "12":
        (tmp_path / "releases" / release / "catalog.toml").write_text(release)
    (tmp_path / "current").symlink_to(tmp_path / "releases" / "1")
    (tmp_path / "etc" / "catalog.toml").symlink_to("../current/catalog.toml")
    watching = Watching(loop, tmp_path / "etc" / "catalog.toml")
    replace(tmp_path / "releases" / "1" / "catalog.toml")
    watching.expect(1)
    (tmp_path / "next").symlink_to(tmp_path / "releases" / "2")
    os.replace(tmp_path / "next", tmp_path / "current")
    watching.end(2)


@pytest.mark.parametrize("change", ["add", "rewrite", "delete", "replace directory"])
def test_a_directory_of_files_is_watched(loop: Loop, tmp_path: Path, change: str) -> None:
    directory = tmp_path / "policy.d"
    directory.mkdir()
    (directory / "a.toml").write_text("a")
    watching = Watching(loop, directory)
    if change == "add":
        (directory / "b.toml").write_text("b")
    elif change == "rewrite":
        (directory / "a.toml").write_text("changed")
    elif change == "delete":
        (directory / "a.toml").unlink()
    else:
        recreate_directory(directory / "a.toml")
    watching.end(1)


def test_a_rewrite_is_not_looked_at_while_the_writer_is_at_it(loop: Loop, tmp_path: Path) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text("original")
    seen: list[str] = []
    watch = FileWatch(loop.reactor, [str(file)], lambda: seen.append(file.read_text()), NEVER)
    watch.start()
    with file.open("w") as writer:
        for _ in range(3):
            writer.write("part ")
            writer.flush()
            loop.run_for(2.5 * SETTLE)
    loop.until(lambda: seen)
    assert seen == ["part part part "]
    watch.stop()


def test_a_writer_who_takes_too_long_is_not_waited_for(loop: Loop, tmp_path: Path) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text("original")
    watching = Watching(loop, file)
    with file.open("w") as writer:
        writer.write("part")
        writer.flush()
        loop.until(lambda: watching.calls == 1)
    watching.watch.stop()


def test_several_files_changed_together_are_one_change(loop: Loop, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("ca.pem", "host.pem", "host.key")]
    for file in files:
        file.write_text("old")
    watching = Watching(loop, *files)
    for file in files:
        replace(file)
    watching.end(1)


def test_other_files_beside_it_are_no_change(loop: Loop, tmp_path: Path) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text("original")
    watching = Watching(loop, file)
    (tmp_path / "access.log").write_text("a line")
    (tmp_path / "access.log").unlink()
    file.read_text()
    watching.end(0)


def test_a_stopped_watch_is_silent_and_leaves_nothing(loop: Loop, tmp_path: Path) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text("original")
    descriptors = len(os.listdir("/proc/self/fd"))
    watching = Watching(loop, file)
    rewrite(file)
    watching.watch.stop()
    watching.end(0)
    assert loop.reactor.getDelayedCalls() == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_which_directories_decide_about_a_path(tmp_path: Path) -> None:
    here = str(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("")
    (tmp_path / "link").symlink_to("a/b")
    (tmp_path / "loop").symlink_to("loop")
    assert directories(f"{here}/a/b/file") == {f"{here}/a/b"}
    assert directories(f"{here}/a/b") == {f"{here}/a", f"{here}/a/b"}
    assert directories(f"{here}/a/none/file") == {f"{here}/a"}
    assert directories(f"{here}/link/file") == {here, f"{here}/a/b"}
    assert directories(f"{here}/link/../b/./file") == {here, f"{here}/a/b"}
    assert directories(f"{here}/loop/file") == {here}
