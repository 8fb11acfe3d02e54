"""``hostproxy ... | head -1``: who reads has seen enough."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["hostproxy", "controller"])
@pytest.mark.parametrize("words", [["completion", "bash"], ["--help"], ["--version"]])
def test_nothing_is_said_of_it(package: str, words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", package, *words],
            stdout=writing,
            stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
