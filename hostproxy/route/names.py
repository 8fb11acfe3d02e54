"""Which destination a host name means."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from hostproxy.mesh.spiffe import InvalidName, check_service, check_subset

# Names remembered with their answer. Clients choose the name, so it is bounded; a host calls tens of services.
REMEMBERED = 1024


class Names:
    """The names under which services, and subsets of them, can be called through the HTTP proxy port.

    ``payments`` and, with ``mesh`` among the domains, ``payments.mesh``; so with ``v2.payments``, a subset. Names are
    compared in lower case; a trailing dot has been removed by the codec.
    """

    __slots__ = ("_known", "_services", "_suffixes")

    def __init__(self, domains: Iterable[str], services: Container[str]) -> None:
        """``services`` has the keys of all destinations; it is looked into at each first use of a name."""
        self._suffixes = tuple("." + domain.strip(".").lower() for domain in domains)
        self._services = services
        self._known: dict[bytes, str] = {}

    def service(self, host: bytes) -> str | None:
        """The key of what ``host`` (lower case, without a port) names; ``None`` when there is no such destination."""
        known = self._known.get(host)
        if known is not None:
            return known
        for candidate in self._candidates(host):
            if candidate in self._services:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[host] = candidate
                return candidate
        return None

    def candidate(self, host: bytes) -> str | None:
        """The service that ``host`` would name, or a subset of, if there were one; ``None`` when it can't name any.

        A subset only below a domain of ours: ``v2.payments`` alone may as well be a host of somebody else.
        """
        whole = host.decode("latin-1")
        for candidate in self._candidates(host):
            subset, dot, service = candidate.rpartition(".")
            try:
                check_service(service)
                if dot and candidate != whole:
                    check_subset(subset)
                elif dot:
                    continue
            except InvalidName:
                continue
            return service
        return None

    def _candidates(self, host: bytes) -> Iterator[str]:
        name = host.decode("latin-1")
        yield name
        for suffix in self._suffixes:
            if name.endswith(suffix):
                yield name[: -len(suffix)]

    def forget(self) -> None:
        """Services have come or gone."""
        self._known.clear()
