"""How this host stands with its controller, for showing."""

from __future__ import annotations

import msgspec

from hostproxy.mesh.messages import State


class SteeringState(msgspec.Struct, frozen=True, kw_only=True):
    """Times are Unix seconds, 0.0: never, or not."""

    url: str
    joined: bool = False  # it has a certificate that holds
    connected: bool = False  # the last request to the controller was answered
    last_contact: float = 0.0  # in either direction
    listening: bool = False  # the controller can bring policy
    epoch: int = 0  # of the bundle in force
    generation: int = 0
    digest: str = ""
    issued: float = 0.0
    expires: float = 0.0
    state: State = "none"
    confirm_until: float = 0.0  # when it goes back to the bundle before, unless it is confirmed
    refused: tuple[int, int] = (0, 0)  # version of the one that was refused or reverted last
    refused_code: str = ""  # why, in a word
    certificates: dict[str, float] = {}  # ends, by service or "host"
    denied: int = 0  # identities
    problems: tuple[str, ...] = ()
