"""How a request is treated, and why: its route and those passed over, which subsets it may reach, timeout, retries.

Pure, and made of what decides: :class:`~hostproxy.route.table.RouteTable` chooses the route here as in workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hostproxy.mesh.retries import Retry
from hostproxy.mesh.routes import Route, Share
from hostproxy.route.table import RouteTable, mismatch

if TYPE_CHECKING:
    from hostproxy.mesh.policy import ServicePolicy


class RouteVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one route."""

    name: str  # its name, or its source
    source: str  # file:line
    matches: bool
    decides: bool
    why: str  # why it does not match; empty: it does


class Portion(msgspec.Struct, frozen=True):
    """A part of the requests that are treated alike."""

    subset: str  # empty: all instances
    share: float  # of those requests, 0 to 1


class Treatment(msgspec.Struct, frozen=True, kw_only=True):
    """What a request gets."""

    route: str = ""  # the name of the route that decides, or its source; empty: none does
    source: str = ""  # file:line of that route
    passed_over: str = ""  # why no route was looked at, although there are some
    portions: tuple[Portion, ...] = ()  # where it may go: one of these
    timeout: float = 0.0  # seconds for the whole call; 0: none
    timeout_from: str = ""  # "route canary" or "service payments"; empty: neither gives any
    retry: Retry | None = None  # None: only what is safe for every request
    retry_from: str = ""  # as timeout_from


class Explainer:
    """The routes of one service, and what holds for it where they say nothing."""

    def __init__(self, service: str, rules: ServicePolicy, opaque: bool) -> None:
        """``opaque`` says that it is carried as bytes, where nobody looks at requests."""
        self._service = service
        self._rules = rules
        self._opaque = opaque
        self._table = RouteTable(rules.routes)

    def treatment(self, subset: str, method: bytes, target: bytes, fields: bytes) -> Treatment:
        """What a request gets that asks for ``subset``; "": for the service itself."""
        rules = self._rules
        passed_over = self._passed_over(subset)
        index = -1 if passed_over else self._table.find(method, target, fields)
        route = rules.routes[index] if index >= 0 else Route()
        own = f"service {self._service}"
        label = f"route {named(route)}"
        timeout = rules.timeout if route.timeout is None else route.timeout
        retry = rules.retry if route.retry is None else route.retry
        if self._opaque:
            timeout, retry = 0.0, None
        return Treatment(
            route=named(route),
            source=route.source,
            passed_over=passed_over,
            portions=portions(route.split) or (Portion(subset or rules.default_subset, 1.0),),
            timeout=timeout,
            timeout_from=label if route.timeout is not None else own if timeout else "",
            retry=retry,
            retry_from="" if retry is None else own if route.retry is None else label,
        )

    def verdicts(self, subset: str, method: bytes, target: bytes, fields: bytes) -> tuple[RouteVerdict, ...]:
        """Every route, each asked alone. Where none is looked at, for the reason of that."""
        passed_over = self._passed_over(subset)
        decides = -1 if passed_over else self._table.find(method, target, fields)
        found = []
        for index, route in enumerate(self._rules.routes):
            why = passed_over or mismatch(route, method, target, fields)
            verdict = RouteVerdict(
                name=named(route), source=route.source, matches=not why, decides=index == decides, why=why
            )
            found.append(verdict)
        return tuple(found)

    def _passed_over(self, subset: str) -> str:
        if not self._rules.routes:
            return ""
        if self._opaque:
            return f"{self._service} is carried as bytes"
        return f"the call names subset {subset} itself" if subset else ""


def named(route: Route) -> str:
    """What a route is called wherever it is shown: its name, else its source."""
    return route.name or route.source


def portions(split: tuple[Share, ...]) -> tuple[Portion, ...]:
    """The shares of a split as parts of one."""
    total = sum(share.weight for share in split)
    return tuple(Portion(share.subset, share.weight / total) for share in split)
