"""The first records of a mesh: its first operator in the store, and the first line of the audit log."""

from __future__ import annotations

import os
import secrets
import time
from typing import Any

from controller import places
from controller.api.operator_records import Operators
from controller.audit import Audit
from controller.config import Config
from controller.store.sqlite import SqliteStore


async def begin(reactor: Any, config: Config, operator: str) -> str:
    """Make both; returns the operator's token. Fails with Unusable, AuditFailed or OSError."""
    os.makedirs(config.serving.state_directory, 0o700)
    audit = Audit(reactor, places.audit_log(config), time.time)
    try:
        await audit.record("init", "authority.create", config.mesh.trust_domain)
        store = SqliteStore(reactor, places.database(config))
        try:
            token, _ = await Operators(store, time.time, secrets.token_bytes).create(operator, "admin", "init")
        finally:
            await store.close()
        await audit.record("init", "operator.create", operator, after="admin")
    finally:
        await audit.close()
    return token
