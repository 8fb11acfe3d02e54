"""Many answers become one catalog, which is published once for all that change in one turn of the reactor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hostproxy.discovery.catalog import Catalog, Instance
from hostproxy.discovery.watch import Watch


class Composition:
    """The catalog. A publication copies its index of services, and nothing that has not changed."""

    def __init__(
        self, reactor: Any, instances: Callable[[str], tuple[Instance, ...] | None], published: Callable[[], object]
    ) -> None:
        """``instances`` of a service, None when it is not to be in the catalog. ``published`` is called after each."""
        self.catalog: Watch[Catalog] = Watch({})
        self._reactor = reactor
        self._instances = instances
        self._published = published
        self._changed: dict[str, None] = {}
        self._call: Any = None

    def change(self, service: str) -> None:
        """Have a service composed anew at the end of this turn."""
        self._changed[service] = None
        if self._call is None:
            self._call = self._reactor.callLater(0, self.publish)

    def stop(self) -> None:
        """Publish no more."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def publish(self) -> None:
        """Compose what changed, now."""
        self.stop()
        changed, self._changed = self._changed, {}
        before = self.catalog.value
        catalog = dict(before)
        for service in changed:
            instances = self._instances(service)
            if instances is None:
                catalog.pop(service, None)
            elif instances != catalog.get(service):
                catalog[service] = instances
        if len(catalog) != len(before) or any(catalog.get(name) is not before.get(name) for name in changed):
            self.catalog.publish(catalog)
        self._published()
