"""One supervisor per runtime directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hostproxy.control.runtime import RuntimeDirectory, Unusable


def test_it_is_made_for_this_user_only(tmp_path: Path) -> None:
    path = tmp_path / "a" / "run"
    directory = RuntimeDirectory(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert not directory.left_behind
    directory.release()


def test_a_second_one_is_refused_by_name(tmp_path: Path) -> None:
    first = RuntimeDirectory(str(tmp_path))
    with pytest.raises(Unusable, match=rf"pid {os.getpid()}\) runs with this"):
        RuntimeDirectory(str(tmp_path))
    first.release()
    RuntimeDirectory(str(tmp_path)).release()


def test_a_supervisor_that_left_in_order_and_one_that_did_not(tmp_path: Path) -> None:
    RuntimeDirectory(str(tmp_path)).release()
    directory = RuntimeDirectory(str(tmp_path))
    assert not directory.left_behind
    directory.release(in_order=False)
    directory = RuntimeDirectory(str(tmp_path))
    assert directory.left_behind
    directory.release()


def test_the_lock_is_not_inherited(tmp_path: Path) -> None:
    directory = RuntimeDirectory(str(tmp_path))
    assert not os.get_inheritable(directory._lock)
    directory.release()


def test_a_directory_that_anybody_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(Unusable, match="chmod o-w"):
        RuntimeDirectory(str(tmp_path))


def test_a_file_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(Unusable, match="change \\[host\\] runtime_directory"):
        RuntimeDirectory(str(path))


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "hostproxy.lock").symlink_to(target)
    with pytest.raises(Unusable):
        RuntimeDirectory(str(tmp_path))
    assert target.read_text() == "precious"


def test_it_is_given_away_without_a_moment_in_between(tmp_path: Path) -> None:
    first = RuntimeDirectory(str(tmp_path))
    second = RuntimeDirectory.received(str(tmp_path), os.dup(first.lock))
    first.give_up()
    with pytest.raises(Unusable, match="another hostproxy"):
        RuntimeDirectory(str(tmp_path))
    second.release()
    RuntimeDirectory(str(tmp_path)).release()


def test_who_has_it_is_written_there(tmp_path: Path) -> None:
    directory = RuntimeDirectory(str(tmp_path))
    lock = tmp_path / "hostproxy.lock"
    pid, version, code, admin = lock.read_text().splitlines()
    assert int(pid) == os.getpid()
    assert version
    assert Path(code, "supervisor.py").exists()
    assert admin == ""
    for address in ("127.0.0.1:15000", "unix:/run/a", ""):
        directory.answers_at(address)
        directory.sign()
        assert lock.read_text().splitlines() == [pid, version, code, address]
    directory.release()
    assert lock.read_text() == ""
