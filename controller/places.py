"""What is where in the state directory of a controller."""

from __future__ import annotations

import os

from controller.config import Config


def database(config: Config) -> str:
    """The SQLite store."""
    return os.path.join(config.serving.state_directory, "controller.db")


def audit_log(config: Config) -> str:
    """The audit log; its head is beside it."""
    return os.path.join(config.serving.state_directory, "audit.log")
