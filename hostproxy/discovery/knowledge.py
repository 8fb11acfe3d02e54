"""How discovery knows what it knows, to be shown: for every service the source, its age and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class ServiceKnowledge(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known about one service in one datacenter. Times are Unix seconds, 0.0 for never.

    Without tracking by the collector (it cannot be part of a cycle): there are thousands of them, made every second.
    """

    service: str
    datacenter: str = ""
    source: str = "file"  # file; watch: a blocking query; poll: asked in turn; kept: the copy on disk, unconfirmed
    wanted_by: str = ""  # upstream, traffic or policy: why it is watched
    changed: float = 0.0  # when its instances last became others
    confirmed: float = 0.0  # when the source last said that they are still the same
    index: int = 0  # of the last answer of Consul
    behind: float = 0.0  # seconds that the answering server was behind the leader
    problem: str = ""  # why it is not being confirmed now
    held: bool = False  # Consul knows no instance any more; the last ones are kept for a while


class DiscoveryState(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    backend: str = "file"
    source: str = ""  # path of the file, or address of the agent
    services: tuple[ServiceKnowledge, ...] = ()
    names: tuple[str, ...] = ()  # every service that Consul has, known here or not
    watches: int = 0  # blocking queries under way
    round_trips: Mapping[str, float] = {}  # estimated seconds to a host of this datacenter, by its name
    problem: str = ""  # the agent can't be reached, or answers nothing usable
    since: float = 0.0  # since when it has that problem
