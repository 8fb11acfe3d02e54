"""Programs that some tests need: absent ones skip a test on a developer's machine and fail it in CI."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import NoReturn

import pytest


def program(name: str) -> str:
    """The path of a program."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        missing(f"{name} is not installed (apt install {name})")
    return path


def module(name: str) -> None:
    """A Python package of the ``test`` extra."""
    if importlib.util.find_spec(name) is None:
        missing(f"{name} is not installed (pip install -e '.[test]')")


def missing(reason: str) -> NoReturn:
    """Say that something is not there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
