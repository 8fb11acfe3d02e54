"""Routes: which requests for a service go to which of its subsets, and with what timeout and retries."""

from __future__ import annotations

import msgspec

from hostproxy.mesh.retries import Retry

NO_ROUTE = "none"  # what stands for a route where none matches; no route is called so


class Match(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which requests a route is for: those that meet all that is given. What is empty is met by all."""

    path: str = ""  # exact; at most one of the three is given
    path_prefix: str = ""
    path_template: str = ""  # "/orders/{id}/items"
    methods: tuple[str, ...] = ()  # one of them
    headers: tuple[tuple[str, str], ...] = ()  # as in rules: exact, a prefix that ends with "*", or "*"
    query: tuple[tuple[str, str], ...] = ()  # the same for parameters of the query


class Share(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of a route's requests."""

    subset: str
    weight: int = 100  # its part is this of the sum of all


class Route(msgspec.Struct, frozen=True, omit_defaults=True):
    """Requests that are treated alike. The first route of a service that matches decides; the order is the file's."""

    match: Match = Match()
    split: tuple[Share, ...] = ()  # empty: where requests that no route matches go
    timeout: float | None = None  # seconds for the whole call, retries included, 0 for none; None: as for the service
    retry: Retry | None = None  # None: as for the service
    name: str = ""  # given by the operator, for metrics and logs; empty: in logs its source stands for it
    source: str = ""  # "payments.toml:20"
