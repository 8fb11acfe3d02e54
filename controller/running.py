"""The controller as a process: from its configuration to the signal that ends it, and what systemd hears of it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from controller.app import CannotStart, Controller
from controller.config import Config
from controller.notify import notify, reloading, watchdog
from controller.process import begin_logging, install, keep_memory_private
from hostproxy.mesh import journal

STATUS = 30.0  # seconds between two lines about how it stands; the store is asked for each
PATIENCE = 10.0  # seconds for what it says then

_log = Logger()


class Supervised:
    """Tells systemd how a controller is, from when it serves on."""

    def __init__(
        self, reactor: Any, summary: Callable[[], Any], tell: Callable[..., object], within: float
    ) -> None:
        """``summary`` makes the coroutine of a line; ``within``: seconds of the watchdog, 0.0: there is none."""
        self._reactor = reactor
        self._summary = summary
        self._tell = tell
        self._within = within
        # From the reactor and without the store: a store that is away is no reason to be killed, a stuck reactor is.
        self._alive = LoopingCall(lambda: tell("WATCHDOG=1"))
        self._alive.clock = reactor
        self._status = LoopingCall(self._look)
        self._status.clock = reactor

    def start(self) -> None:
        """It serves."""
        self._tell("READY=1")
        if self._within:
            self._alive.start(self._within / 2)
        self._status.start(STATUS)

    def reload(self, act: Callable[[], object]) -> None:
        """Say that something is read anew, and do it."""
        self._tell(*reloading())
        act()
        self._tell("READY=1")

    def stop(self) -> None:
        """It ends. The watchdog is fed until it has."""
        if self._status.running:
            self._status.stop()
            self._tell("STOPPING=1", "STATUS=answers what is being asked, and ends")

    def look(self) -> None:
        """There may be something new to say."""
        if self._status.running:
            self._status.reset()
            self._look()

    def _look(self) -> Deferred[None]:
        asking: Deferred[Any] = Deferred.fromCoroutine(self._summary())
        asking.addTimeout(PATIENCE, self._reactor)
        asking.addErrback(lambda failure: f"the store does not answer: {failure.getErrorMessage()}")
        return asking.addCallback(self._say)

    def _say(self, line: str) -> None:
        if self._status.running:
            self._tell("STATUS=" + line.replace("\n", " "))


def run(config: Config) -> int:
    """Be the controller until a signal ends it. Returns the exit status."""
    keep_memory_private()
    os.umask(0o077)
    reactor = install()
    begin_logging(config.log.level)
    controller = Controller(reactor, config)
    supervised = Supervised(reactor, controller.summary, notify, watchdog())
    controller.changed = supervised.look
    status = 0
    ending = False

    def end() -> None:
        nonlocal ending
        if not ending:
            ending = True
            supervised.stop()
            controller.stop().addBoth(lambda _: reactor.stop())

    def fail(text: str) -> None:
        nonlocal status
        sys.stderr.write(journal.complaint(f"hostproxy-controller: {text}"))
        notify(f"STATUS={text}")
        status = 1
        end()

    def begin() -> None:
        try:
            controller.start()
        except CannotStart as error:
            fail(str(error))
        except Exception as error:
            _log.failure("starting")
            fail(f"cannot start: {type(error).__name__}: {error}")
        else:
            on_signal(signal.SIGHUP, lambda: supervised.reload(controller.reload_keys))
            supervised.start()

    def on_signal(number: signal.Signals, action: Callable[[], object]) -> None:
        signal.signal(number, lambda *_: reactor.callFromThread(action))

    on_signal(signal.SIGTERM, end)
    on_signal(signal.SIGINT, end)
    on_signal(signal.SIGHUP, lambda: None)
    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    return status
