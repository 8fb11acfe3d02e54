"""Bodies of what operators ask for. Answers are JSON objects whose fields the handlers give."""

from __future__ import annotations

from typing import Annotated

import msgspec

from controller.rollout.plan import Plan
from hostproxy.mesh.messages import Line, Message, Name, Pem, Word

HostName = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
LineNumber = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,18}$")]
Files = dict[str, str]  # name -> TOML


class CreateToken(Message, frozen=True):
    """POST /v1/tokens"""

    host: HostName
    life: float = 900.0  # seconds
    reenrol: bool = False  # for a new machine under the name of one that has enrolled; role admin


class Reason(Message, frozen=True):
    """POST .../deny, /v1/rollout/stop"""

    reason: Line = ""


class Policy(Message, frozen=True):
    """POST /v1/policy/check and /v1/policy/diff"""

    files: Files


class Apply(Message, frozen=True):
    """POST /v1/policy"""

    files: Files
    note: Line = ""
    dry_run: bool = False
    expect: int | None = None  # the newest generation as the operator knows it; another one: nothing is applied
    plan: Plan | None = None  # None: every host at once


class Rollback(Message, frozen=True):
    """POST /v1/policy/GENERATION/rollback"""

    note: Line = ""
    dry_run: bool = False
    plan: Plan | None = None


class CreateOperator(Message, frozen=True):
    """POST /v1/operators"""

    name: Name
    role: Word  # "read", "deploy" or "admin"


class OperatorCertificate(Message, frozen=True):
    """POST /v1/operator-certificate: a client certificate for whoever asks, as the operator that they are."""

    csr: Pem


class Heads(Message, frozen=True):
    """POST /v1/audit/verify: lines noted elsewhere, by number."""

    kept: dict[LineNumber, Annotated[str, msgspec.Meta(max_length=64)]] = msgspec.field(default_factory=dict)
