"""Which service a host name means."""

from __future__ import annotations

from collections.abc import Container, Iterable

# Names remembered with their answer. Clients choose the name, so it is bounded; a host calls tens of services.
REMEMBERED = 1024


class Names:
    """The names under which services can be called through the HTTP proxy port.

    ``payments`` and, with ``mesh`` among the domains, ``payments.mesh``. Names are compared in lower case; a
    trailing dot has been removed by the codec.
    """

    __slots__ = ("_known", "_services", "_suffixes")

    def __init__(self, domains: Iterable[str], services: Container[str]) -> None:
        """``services`` is looked into at each first use of a name."""
        self._suffixes = tuple("." + domain.strip(".").lower() for domain in domains)
        self._services = services
        self._known: dict[bytes, str] = {}

    def service(self, host: bytes) -> str | None:
        """The service that ``host`` (lower case, without a port) names; ``None`` when there is none."""
        known = self._known.get(host)
        if known is not None:
            return known
        name = host.decode("latin-1")
        for candidate in (
            name,
            *(name[: -len(suffix)] for suffix in self._suffixes if name.endswith(suffix)),
        ):
            if candidate in self._services:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[host] = candidate
                return candidate
        return None

    def forget(self) -> None:
        """Services have come or gone."""
        self._known.clear()
