"""Discovery by a file: the catalog is a TOML file that an operator, or a tool, replaces."""

from __future__ import annotations

from typing import Any

from hostproxy.discovery import catalog
from hostproxy.discovery.catalog import Catalog
from hostproxy.discovery.reload import Reload
from hostproxy.discovery.watch import Watch
from hostproxy.mesh.document import Invalid


class FileDiscovery:
    """Watches one catalog file."""

    def __init__(self, reactor: Any, path: str) -> None:
        self.path = path
        self.catalog: Watch[Catalog] = Watch({})
        self._reload: Reload[Catalog] = Reload(reactor, [path], lambda: catalog.load(path), self.catalog)

    @property
    def error(self) -> Invalid | None:
        """What is wrong with the file now, while an older catalog stays; None when nothing is."""
        return self._reload.error

    def start(self) -> None:
        """Read the file and watch it. Raises :class:`Invalid` when this first read fails."""
        self._reload.start()

    def stop(self) -> None:
        """Watch no more."""
        self._reload.stop()
