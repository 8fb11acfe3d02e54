"""A blocking query: a question that Consul answers once there is something new, asked again and again.

Consul's index only says that something in its tables may have changed, and it is not to be trusted: it goes backwards
when a snapshot is restored or another server answers, and what stands between may lose it. So answers are compared
themselves, and whatever the index is, there is a pause between answers that come fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from hostproxy.discovery.consul.counters import Counters
from hostproxy.discovery.consul.errors import AgentError
from hostproxy.discovery.consul.pace import Backoff, Pace

if TYPE_CHECKING:
    from hostproxy.discovery.consul.transport import Agent, Reply

MARGIN = 5.0  # seconds that a blocking query may last longer than Consul says it does
ANSWER = 12.0  # seconds for an answer without waiting: servers keep a question for up to 7 while they elect a leader
RETRY_AFTER = 60.0  # seconds, the most that a server which is overloaded may ask for
NO_INDEX = 1.0  # seconds between questions at least while answers have no usable index, and so come at once


class BlockingQuery:
    """Keeps one question about Consul's catalog answered, with exactly one request under way at a time.

    Any server answers (``stale``): that spreads the load, and goes on working without a leader. When an answer is too
    far behind the leader, the next question is for the leader itself.

    After a failure, and when the index has gone backwards, the question goes without index: it is answered at once,
    so that nobody waits through a whole blocking query to learn that all is well again.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        agent: Agent,
        path: str,
        params: Mapping[str, str],
        what: str,
        *,
        wait: float,
        stale_limit: float,
        random: Callable[[], float],
        counters: Counters,
        take: Callable[[Reply], str],
        failed: Callable[[str], object],
    ) -> None:
        """Ask for ``path`` with ``params``, each time for ``wait`` seconds; ``what`` is its name in metrics.

        ``take(reply)`` gets each answer of status 200 that differs from the last one taken, and each first one after
        a failure. It returns ``""``, or in one word why the answer is not used; that is a failure then.
        ``failed(text)`` is called after each failure. Both may call :meth:`stop` and :meth:`refresh`.
        ``stale_limit`` is how many seconds an answer may be behind the leader. ``random`` gives numbers from 0 to 1.
        """
        self.error = ""  # why the last question was of no use; "" when it was
        self.succeeded: float | None = None  # reactor seconds of the last answer of use, also of one without news
        self.known_leader = True  # according to the last answer of status 200
        self.last_contact = 0.0  # seconds that it was behind the leader
        self.index = 0  # of the last answer of use; 0: there was none
        self._reactor = reactor
        self._agent = agent
        self._path = path
        self._params = dict(params)
        self._what = what
        self._wait = wait
        self._deadline = wait * 17 / 16 + MARGIN  # servers add up to a sixteenth, each time another part of it
        self._stale_limit = stale_limit
        self._counters = counters
        self._take = take
        self._failed = failed
        self._pace = Pace(reactor.seconds)
        self._backoff = Backoff(random)
        self._refused = False  # since the last answer of use there was one that was of none
        self._last: tuple[bool, int] | None = None  # what tells the last answer taken; None after a failure
        self._anew = True  # the next question goes without index
        self._leader = False  # it is for the leader
        self._running = False
        self._timer: Any = None  # until the next question
        self._earliest = 0.0  # reactor seconds before which it is not asked, however urgent it is
        self._asking: Deferred[Any] | None = None
        self._asking_anew = False
        self._asked = 0.0  # reactor seconds of the last question

    def start(self, delay: float = 0.0) -> None:
        """Ask from now on, first after ``delay`` seconds."""
        if not self._running:
            self._running = True
            self._anew = True
            self._schedule(delay, delay)

    def stop(self) -> None:
        """Ask no more, and end what is under way. Neither ``take`` nor ``failed`` is called after this."""
        self._running = False
        self._cancel_timer()
        self._abandon()

    def refresh(self) -> None:
        """Ask again without waiting for news, or for the end of a pause after failures.

        As fast as answers may come at most, however often this is called.
        """
        if self._asking is not None:
            if self._asking_anew:
                return
            self._abandon()
            wait = self._pace.count()
            self._schedule(wait, wait)
        elif self._timer is not None:
            wait = max(0.0, self._earliest - self._reactor.seconds())
            self._schedule(wait, wait)
        self._anew = True

    def _schedule(self, wait: float, least: float) -> None:
        """Ask in ``wait`` seconds, or in ``least`` when it becomes urgent."""
        self._cancel_timer()
        self._earliest = self._reactor.seconds() + least
        self._timer = self._reactor.callLater(wait, self._ask)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _abandon(self) -> None:
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()

    def _ask(self) -> None:
        self._timer = None
        params = dict(self._params)
        if not self._leader:
            params["stale"] = ""
        self._asking_anew, self._anew = self._anew, False
        self._asked = self._reactor.seconds()
        if not self._asking_anew:
            params["index"] = str(self.index)
            params["wait"] = f"{self._wait:g}s"
        self._asking = asking = maybeDeferred(
            self._agent.request,
            "GET",
            self._path,
            params,
            timeout=ANSWER if self._asking_anew else self._deadline,
            persistent=False,
            what=self._what,
        )
        asking.addCallbacks(self._answered, self._unanswered)
        asking.addErrback(self._broken)

    def _answered(self, reply: Reply) -> None:
        self._asking = None
        if reply.status != 200:
            text = reply.body[:200].decode("ascii", "backslashreplace").strip()
            pause = min(reply.retry_after, RETRY_AFTER) if reply.status in (429, 503) else 0.0
            self._retry(f"status_{reply.status}", f"Consul answers {reply.status} {text!a}", pause)
            return
        self.known_leader, self.last_contact = reply.known_leader, reply.last_contact
        # 5 ms for the 12 MB of 10,000 instances, a third of what the quickest of hashlib's takes everywhere.
        answer = reply.filtered, hash(reply.body)
        if answer != self._last:
            reason = self._take(reply)
            if not self._running:
                return
            if reason:
                if not self._refused:
                    # How long nobody answered says nothing about how soon another answer is better.
                    self._backoff.reset()
                    self._refused = True
                self._retry(reason, reason)
                return
            self._last = answer
        self._used(reply)

    def _used(self, reply: Reply) -> None:
        self.error = ""
        self.succeeded = self._reactor.seconds()
        self._backoff.reset()
        self._refused = False
        self._leader = reply.known_leader and reply.last_contact > self._stale_limit
        index = max(1, reply.index or 0)  # with 0 Consul would not wait
        if index < self.index:
            self._counters.index_resets += 1
            self._anew = True
        elif index == self.index and not self._asking_anew and self._reactor.seconds() - self._asked < self._wait:
            # So servers end the wait when a snapshot is restored, with an answer from before. The index may be smaller
            # since: after it nothing would come for a long time.
            self._anew = True
        self.index = index
        wait = self._pace.count()
        if wait:
            self._counters.deferred_updates += 1
        if not reply.index:
            wait = max(wait, NO_INDEX)
        self._schedule(wait, wait)

    def _unanswered(self, failure: Failure) -> None:
        if self._asking is None:
            return  # it was cancelled
        self._asking = None
        error = failure.value
        if isinstance(error, AgentError):
            self._retry(error.kind, str(error))
        else:
            self._broken(failure)

    def _broken(self, failure: Failure) -> None:
        """A mistake, here or in what deals with answers: it must not end the watch."""
        self.log.failure("Cannot deal with an answer of Consul to {path}.", failure, path=self._path)
        if self._running and self._timer is None:
            self._retry("internal", f"a mistake in hostproxy, see its log: {failure.value!r}")

    def _retry(self, reason: str, text: str, pause: float = 0.0) -> None:
        """Ask again later; ``pause`` is what the server asked for."""
        self._counters.error(reason)
        self.error = text
        self._last = None
        self._anew = True
        self._leader = False  # it may be the leader that doesn't answer
        least = max(self._pace.count(), pause)
        # Added to what the server asked for: it asked everybody for the same.
        self._schedule(max(least, pause + self._backoff.count()), least)
        self._failed(text)
