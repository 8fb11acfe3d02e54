"""``hostproxy run`` as a command; what it runs is tested in tests/test_supervisor.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostproxy.__main__ import main


def test_every_problem_goes_to_stderr_and_nothing_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "conf.toml"
    path.write_text("[host]\nnaem = 'h1'\n[mesh]\ntrust_domain = 7\n")
    assert main(["run", "-c", str(path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert any(f"{path}:2: host.naem" in line for line in lines)
    assert any(f"{path}:4: mesh.trust_domain" in line for line in lines)
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--config", str(tmp_path / "none.toml")]) == 1
    assert "none.toml" in capsys.readouterr().err
