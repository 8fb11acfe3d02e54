"""Who of several controllers leads: the one whose session holds a lock in Consul.

A leader renews its session every third of its life. It stops by itself, by its own clock, when the session could have
ended: a life after the last renewal was *sent*. Consul ends a session no earlier, and lets nobody else have the lock
before that. And because a process can be stopped for a minute between looking at the clock and acting, every change
that a leader makes is a transaction that Consul refuses unless the lock is still this session's.

The term, by which hosts and records tell leaders apart, is a counter in the store, raised under that condition. The
lock's own counter would begin again when somebody deletes its key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from controller.store import Conflict, NotLeading, Unavailable
from controller.store.client import Client, Reply, decoded, refused
from controller.store.consul import ConsulStore, Item
from controller.store.leadership import Changed, raise_term

LIFE = 10.0  # seconds of a session that nobody renews, as the leader counts; Consul waits up to twice that
LOCK_DELAY = 5.0  # seconds between a leader that vanished and the next
FOLLOW = 2.0  # seconds between two looks at the lock while another leads
RETRY = 1.0  # seconds after something failed
STOPPING = 3.0  # seconds for giving the lock back


class _Session(msgspec.Struct, frozen=True):
    ID: str


class _Holder(msgspec.Struct, frozen=True):
    name: str = ""


class Election:
    """A :class:`controller.store.Leadership` among controllers that share a Consul datacenter."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        client: Client,
        store: ConsulStore,
        prefix: str,
        name: str,
        changed: Changed,
        clock: Callable[[], float],
        random: Callable[[], float],
        life: float = LIFE,
        lock_delay: float = LOCK_DELAY,
    ) -> None:
        """``name`` is this controller's, for people. ``changed`` is called with True and False as it begins and ends.

        ``clock`` gives seconds and never goes back; CLOCK_BOOTTIME also counts while the machine sleeps. ``random`` is
        from 0 to 1, so that controllers do not all ask at once.
        """
        self.term = 0
        self.leader = ""
        self.problem = ""  # why nothing is known about who leads now; "" when it is
        self.store = store.guarded(self._condition, self._lost)
        self._reactor = reactor
        self._client = client
        self._lock = f"{prefix}/leader"
        self._name = name
        self._changed = changed
        self._clock = clock
        self._random = random
        self._life = life
        self._lock_delay = lock_delay
        self._session = ""
        self._deadline = float("-inf")  # by the clock: until then the session lives for sure
        self._held = False  # the lock is ours, as far as we have heard
        self._leading = False
        self._running = False
        self._round: Deferred[None] | None = None
        self._next: Any = None  # the timer of the next round
        self._end: Any = None  # the timer of the deadline

    @property
    def leading(self) -> bool:
        """Whether this controller leads now, by its clock and not only by what was heard."""
        return self._leading and self._clock() < self._deadline

    def start(self) -> None:
        """Try to lead from now on."""
        self._running = True
        self._begin()

    def stop(self) -> Deferred[None]:
        """Lead no more, and give the lock back, so that the next one need not wait for the session to end."""
        self._running = False
        for timer in (self._next, self._end):
            if timer is not None and timer.active():
                timer.cancel()
        if self._round is not None:
            self._round.cancel()
        held, session = self._held, self._session
        self._held, self._session = False, ""
        self._resign("this controller stops")
        returning = Deferred.fromCoroutine(self._return(held, session))
        return returning.addTimeout(STOPPING, self._reactor).addErrback(self._not_returned)

    # Rounds: one at a time

    def _begin(self) -> None:
        self._round = Deferred.fromCoroutine(self._look())
        self._round.addCallbacks(self._looked, self._failed)

    async def _look(self) -> None:
        if self._session:
            await self._renew()
        item = await self._item()
        if item is not None and item.session and item.session == self._session:
            self._held = True
        else:
            self._held = False
            self._resign("the lock is not this controller's any more")
            if item is None or not item.session:
                self.leader = ""
                self._held = await self._acquire()
            else:
                self.leader = _holder(item)
        if self._held and not self._leading:
            await self._lead()

    def _looked(self, _: None) -> None:
        self.problem = ""
        self._later(self._life / 3 if self._leading else FOLLOW)

    def _failed(self, failure: Failure) -> None:
        if not self._running:
            return
        if not isinstance(failure.value, Unavailable | NotLeading | Conflict):
            self.log.failure("looking who leads", failure=failure)
        problem = str(failure.value)
        if problem != self.problem:
            self.problem = problem
            self.log.warn("Who leads is not known: {problem}", problem=problem)
        self._later(RETRY)

    def _later(self, seconds: float) -> None:
        if self._running:
            self._next = self._reactor.callLater(seconds * (0.75 + self._random() / 4), self._begin)

    # The steps of a round

    async def _renew(self) -> None:
        sent = self._clock()
        reply = await self._request("PUT", f"/v1/session/renew/{self._session}")
        if reply.status == 404:
            self._session = ""
            self._held = False
            self._resign("Consul has ended its session")
        elif reply.status != 200:
            raise refused(reply)
        else:
            self._lives_from(sent)

    async def _item(self) -> Item | None:
        reply = await self._request("GET", f"/v1/kv/{self._lock}", {"consistent": ""})
        if reply.status == 404:
            return None
        if reply.status != 200:
            raise refused(reply)
        return next(iter(decoded(reply, list[Item])), None)

    async def _acquire(self) -> bool:
        if not self._session:
            await self._open()
        body = msgspec.json.encode({"name": self._name})
        reply = await self._request("PUT", f"/v1/kv/{self._lock}", {"acquire": self._session}, body)
        if reply.status != 200:
            raise refused(reply)
        # False: another was faster, or the lock is kept from everybody for a while after its holder vanished.
        return reply.body.strip() == b"true"

    async def _open(self) -> None:
        wanted = {
            "Name": f"hostproxy-controller {self._name}",
            "TTL": f"{self._life:g}s",
            "LockDelay": f"{self._lock_delay:g}s",
            "Behavior": "release",
            # No health of the node: gossip that flaps for a moment is no reason for another leader.
            "NodeChecks": [],
        }
        sent = self._clock()
        reply = await self._request("PUT", "/v1/session/create", body=msgspec.json.encode(wanted))
        if reply.status != 200:
            raise refused(reply)
        self._session = decoded(reply, _Session).ID
        self._lives_from(sent)

    async def _lead(self) -> None:
        term = await raise_term(self.store)
        if not self._held or self._clock() >= self._deadline:
            return  # the next round finds out what is true now
        self.term = term
        self.leader = self._name
        self._leading = True
        self.log.info("This controller leads, term {term}", term=term)
        self._changed(True)

    async def _return(self, held: bool, session: str) -> None:
        if held:
            # First released: after a session that ended with its lock, nobody gets it for a while.
            body = msgspec.json.encode({"name": ""})
            await self._request("PUT", f"/v1/kv/{self._lock}", {"release": session}, body)
        if session:
            await self._request("PUT", f"/v1/session/destroy/{session}")

    def _request(
        self, method: str, path: str, params: dict[str, str] | None = None, body: bytes = b""
    ) -> Deferred[Reply]:
        # An answer that comes later than a third of a life is of no use: time for two more attempts has to be left.
        return self._client.request(method, path, params, body, timeout=self._life / 3)

    def _not_returned(self, failure: Failure) -> None:
        self.log.warn("The lock was not given back, the next leader has to wait: {why}", why=failure.value)

    # What ends it

    def _lives_from(self, sent: float) -> None:
        self._deadline = sent + self._life
        if self._end is not None and self._end.active():
            self._end.cancel()
        self._end = self._reactor.callLater(max(0.0, self._deadline - self._clock()), self._expired)

    def _expired(self) -> None:
        # Consul may keep the session for longer. If so, the next round finds the lock, and begins another term.
        self._resign("its session was not renewed in time")

    def _lost(self, why: str) -> None:
        self._held = False
        self._resign(why)

    def _resign(self, why: str) -> None:
        if self._leading:
            self._leading = False
            self.leader = ""
            self.log.warn("This controller leads no more: {why}", why=why)
            self._changed(False)

    def _condition(self) -> list[dict[str, Any]]:
        if not self._held or self._clock() >= self._deadline:
            raise NotLeading("this controller does not lead")
        return [{"Verb": "check-session", "Key": self._lock, "Session": self._session}]


def _holder(item: Item) -> str:
    try:
        return msgspec.json.decode(item.value or b"", type=_Holder).name
    except msgspec.DecodeError:
        return "somebody else"
