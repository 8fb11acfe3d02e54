from __future__ import annotations

import os
import stat

import pytest

from hostproxy.mesh import storage


@pytest.mark.parametrize("mode", [0o600, 0o644])
@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_a_file_gets_its_mode_whatever_the_umask(tmp_path, mode, umask):
    path = tmp_path / "file"
    before = os.umask(umask)
    try:
        storage.write(str(path), b"content", mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() == b"content"


def test_an_old_file_with_an_open_mode_is_replaced_not_written_to(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o666)
    with path.open("rb") as reader:  # somebody who has it open sees nothing of the new one
        storage.write(str(path), b"new secret", 0o600)
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_is_replaced_and_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"untouched")
    link = tmp_path / "key"
    link.symlink_to(target)
    storage.write(str(link), b"secret", 0o600)
    assert target.read_bytes() == b"untouched"
    assert not link.is_symlink()


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    occupied = tmp_path / "ca.pem"
    occupied.mkdir()
    with pytest.raises(OSError, match="directory"):
        storage.write(str(occupied), b"content", 0o644)
    assert os.listdir(tmp_path) == ["ca.pem"]


def test_a_relative_name_is_written_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.write("file", b"content", 0o644)
    assert storage.read("file", 10) == b"content"


def test_reading_has_a_limit(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1024)
    assert len(storage.read(str(path), 1024)) == 1024
    with pytest.raises(storage.Unusable, match="larger than 0 KiB"):
        storage.read(str(path), 1023)


@pytest.mark.parametrize(
    ("mode", "where", "usable"),
    [
        (0o400, "elsewhere", True),
        (0o440, "elsewhere", False),
        (0o440, "credentials", True),
        (0o460, "credentials", False),
        (0o444, "credentials", False),
        (0o440, "credentials/../elsewhere", False),
        (0o440, "credentials-of-another", False),
    ],
)
def test_credentials_of_systemd_have_a_group(tmp_path, monkeypatch, mode, where, usable):
    for name in ("elsewhere", "credentials", "credentials-of-another"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    path = tmp_path / where / "token"
    path.write_text("secret")
    path.chmod(mode)
    if usable:
        assert storage.read(str(path), 100, private=True) == b"secret"
    else:
        with pytest.raises(storage.Unusable, match="open to others"):
            storage.read(str(path), 100, private=True)
