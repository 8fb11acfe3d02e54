"""Which service of this host a local connection comes from: the kernel says who, conf.toml says which.

Asked once per connection, when it is accepted. Who cannot be told for certain is nobody; nothing is guessed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from hostproxy.identity import processes, sockets
from hostproxy.identity.processes import Cgroups
from hostproxy.identity.sockets import SocketDiag, Unknown

NO_SERVICE = "no-service"  # it is known who calls, and it is none of the services


class Rule(Protocol):
    """Processes that are a service: those of a unit, of a user, or of a user within a unit."""

    @property
    def service(self) -> str: ...
    @property
    def unit(self) -> str: ...  # a unit of systemd, or a template ("payments@.service") for all its instances; "": any
    @property
    def user(self) -> int | None: ...  # its number; None: any


class Verdict(NamedTuple):
    """What is known of a caller."""

    service: str  # "": nobody's
    uid: int = -1  # -1: not known
    unit: str = ""  # "": none, not known, or not asked for
    reason: str = ""  # why it is nobody's, a word for counters: NO_SERVICE, or one of :class:`Unknown`
    text: str = ""  # the same for people


class Workloads:
    """Decides by ``rules``: user and unit together win over the unit alone, and that over the user alone."""

    def __init__(
        self,
        rules: Sequence[Rule],
        clock: Callable[[], float],
        diag: SocketDiag | None = None,
        find_hierarchy: Callable[[], str] = processes.hierarchy,
    ) -> None:
        """``clock`` gives seconds. No two ``rules`` may have the same unit and user."""
        self._clock = clock
        self._diag = diag or SocketDiag()
        self._find_hierarchy = find_hierarchy
        self.change(rules)

    def change(self, rules: Sequence[Rule]) -> None:
        """Decide by these from now on."""
        self.rules = rules
        self._services = {(rule.unit, rule.user): rule.service for rule in rules}
        units = {rule.unit for rule in rules if rule.unit}
        root = self._find_hierarchy() if units else ""
        self._cgroups = Cgroups(units, root, self._clock) if units else None
        # Why rules with units match nothing here; "" when they can.
        self.problem = "" if root or not units else "cgroup v2 is not mounted: no caller can be known by its unit"

    @property
    def active(self) -> bool:
        """Whether there is anything to decide."""
        return bool(self._services)

    def caller(self, accepted: socket.socket) -> Verdict:
        """Who is at the other end of ``accepted``, a connection of TCP or on a Unix socket, fresh from accept()."""
        try:
            uid, unit = self._unix(accepted) if accepted.family == socket.AF_UNIX else self._tcp(accepted)
        except Unknown as unknown:
            return Verdict("", reason=unknown.reason, text=str(unknown))
        service = self._service(unit, uid)
        if service:
            return Verdict(service, uid, unit)
        what = f"a process of user {uid} in {unit}" if unit else f"a process of user {uid}"
        return Verdict("", uid, unit, NO_SERVICE, f"no [[service]] of conf.toml has the unit or user of {what}")

    def close(self) -> None:
        """Give the descriptors back."""
        self._diag.close()

    def _tcp(self, accepted: socket.socket) -> tuple[int, str]:
        owner = self._diag.owner(accepted)
        if self._cgroups is None:
            return owner.uid, ""
        if not owner.cgroup:
            raise Unknown("cgroups", "the kernel says nothing of cgroups: it is older than Linux 5.7, or without them")
        return owner.uid, self._cgroups.unit(owner.cgroup, owner.uid)

    def _unix(self, accepted: socket.socket) -> tuple[int, str]:
        peer = sockets.credentials(accepted)
        if self._cgroups is None:
            return peer.uid, ""
        descriptor = sockets.process_descriptor(accepted)
        try:
            return peer.uid, processes.unit_of_process(peer.pid, peer.uid, descriptor)
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _service(self, unit: str, uid: int) -> str:
        services = self._services
        if unit:
            for name in (unit, processes.template(unit)):
                if name:
                    found = services.get((name, uid)) or services.get((name, None))
                    if found:
                        return found
        return services.get(("", uid), "")
