"""Upgrades one after the other: what is given away for one, and taken back when it fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
from twisted.logger import Logger

from hostproxy.control import reloading
from hostproxy.control.process import Process
from hostproxy.control.upgrade import Upgrade

if TYPE_CHECKING:
    from hostproxy.control.daemon import Daemon


class Owner(Protocol):
    """The supervisor."""

    def go_on(self, reload: bool) -> None:
        """Nothing came of it: all is as it was. ``reload``: that was asked for meanwhile."""

    def resign(self) -> None:
        """The successor has taken over: leave, touching nothing."""

    def give_up(self, problems: list[str]) -> None:
        """What was given away cannot be taken back."""


class Upgrades:
    """At most one at a time."""

    log = Logger()

    def __init__(self, daemon: Daemon, owner: Owner, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """``command`` starts a supervisor of the installed code."""
        self._daemon = daemon
        self._owner = owner
        self._command = command
        self._environment = environment
        self._upgrade: Upgrade | None = None
        self._successor: Process | None = None  # that took over, and was told to stop

    def begin(self) -> None:
        """Let a successor prove itself and take over. Asked for again meanwhile, it is the same one."""
        daemon = self._daemon
        if self._upgrade is not None:
            self.log.info("an upgrade is under way already")
            return
        if not daemon.running or daemon.state.stopping:
            self.log.warn("SIGUSR2 came before the start was done, or while stopping: nothing is upgraded")
            return
        daemon.manager.reloading()
        daemon.state.upgrades = msgspec.structs.replace(daemon.state.upgrades, running=True, problems=())
        self._upgrade = Upgrade(daemon, self, self._command, self._environment)
        if os.getpid() == 1:
            self._upgrade.fail("process 1 cannot leave: replace the container")
        else:
            self._upgrade.begin()

    def reload_later(self) -> bool:
        """Whether an upgrade is under way: whoever runs after it reloads."""
        if self._upgrade is None:
            return False
        self.log.info("SIGHUP came during an upgrade: whoever runs after it reloads")
        self._upgrade.reload = True
        return True

    # Being stopped

    def stop(self) -> bool:
        """End one that is under way; whether there was one. The owner is told to go on when it has ended.

        One that has been given everything goes on: in a moment it is known who is to leave, and that one then does
        it in order. Ending it here would cut the requests that its workers have begun.
        """
        if self._upgrade is None:
            return False
        if not self._upgrade.given:
            self._upgrade.fail("stopped meanwhile")
        return True

    def abandon(self) -> None:
        """End one that is under way, whatever it was given."""
        if self._upgrade is not None:
            self._upgrade.fail("stopped at once")

    def stop_successor(self, gone: Callable[[], None]) -> None:
        """It has taken over, and the stop is meant for it: wait until it has left, for a manager that waits for us."""
        assert self._upgrade is not None
        if self._successor is None:
            try:
                self._successor = Process(self._daemon.reactor, self._upgrade.pid, lambda how: gone())
            except ProcessLookupError:
                gone()
                return
        self._successor.signal(signal.SIGTERM)

    def unless_stopping(self, leave: Callable[[], None]) -> None:
        """Call it, unless a successor that was stopped is waited for."""
        if self._successor is None:
            leave()

    # What becomes of it: see hostproxy.control.upgrade.Owner

    def upgrade_gives(self) -> int:
        """Keep nothing that only one may have, so that it could still be taken back."""
        daemon = self._daemon
        daemon.running = False
        daemon.keeper.close()
        daemon.health.stop()
        daemon.sources.stop()
        daemon.close_admin()
        return daemon.directory.lock

    def upgrade_failed(self, reason: str, given: bool) -> None:
        """Go on as if nothing had happened."""
        daemon, upgrade = self._daemon, self._upgrade
        assert upgrade is not None
        self._upgrade = None
        self.log.error("the upgrade failed, everything stays as it was: {reason}", reason=reason)
        daemon.state.upgrades = msgspec.structs.replace(
            daemon.state.upgrades, failed=daemon.state.upgrades.failed + 1, running=False, problems=(reason,)
        )
        stopping = daemon.state.stopping
        # Who is to leave needs Consul, too.
        problems = reloading.resume(daemon, given) if given or not stopping else []
        if given and problems and not stopping:
            self._owner.give_up(problems)
            return
        if given:
            daemon.directory.sign()
            daemon.keeper.open()
            daemon.running = not problems
        if given and not stopping:
            daemon.admin = daemon.open_admin(daemon.config)
            daemon.health.start()
        self._owner.go_on(upgrade.reload)

    def upgrade_taken(self, upgrade: Upgrade) -> None:
        """The successor serves: our workers finish what they have, and are its business."""
        daemon = self._daemon
        self.log.info("process {pid} has taken over", pid=upgrade.pid)
        daemon.log_level.restore()  # nobody else could, in the workers that we leave behind
        daemon.crew.dismiss(daemon.config.limits.drain)
        upgrade.leave()
        daemon.manager.silent = True
        daemon.directory.give_up()
        self._owner.resign()
