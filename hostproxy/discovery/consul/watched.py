"""What is known about one service in one datacenter, however it is asked for.

Whatever goes wrong, the last known instances stay, for as long as it takes: only an answer that is complete and
believable replaces them. That a service has suddenly lost all of its instances is hardly ever true, and costs the most
when it isn't; it is believed only after the names of all services agree, and after ``hold_empty``. That there are none
to begin with needs the names as well, because a token without rights is told the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from twisted.logger import Logger

from hostproxy.discovery.catalog import Instance
from hostproxy.discovery.consul.budget import Key
from hostproxy.discovery.consul.counters import Counters
from hostproxy.discovery.consul.instances import NOTHING, Answer, Conversion, Malformed, Source, split
from hostproxy.discovery.consul.names import GENUINE, NO_NODE_RIGHTS, NO_RIGHTS, UNKNOWN, Names, explain
from hostproxy.discovery.consul.query import BlockingQuery
from hostproxy.discovery.consul.refusals import Reachable, Refusal
from hostproxy.discovery.consul.slices import Slices
from hostproxy.discovery.consul.transport import Reply
from hostproxy.discovery.knowledge import ServiceKnowledge

# Bytes of an answer from which on even finding its entries waits for a turn of its own: 12 MB, which 10,000 instances
# have, cost 8 ms, and receiving and comparing them has cost as much in the turn before.
LARGE = 2 * 1024 * 1024

# Notes about an answer whose instances are used all the same.
NOTES = ("trimmed", "duplicate")


class Around(NamedTuple):
    """What everything that is watched has in common."""

    reactor: Any
    now: Callable[[], float]  # Unix seconds
    hold_empty: float
    slices: Slices
    reachable: Reachable
    names: Names
    counters: Counters
    refused: Callable[[Refusal], object]  # tells the operator
    changed: Callable[[Watched], object]


class Watched:
    """One service in one datacenter."""

    log = Logger()

    def __init__(self, key: Key, remote: bool, kept: tuple[Instance, ...] | None, saved: float, around: Around) -> None:
        """``remote``: it is not the datacenter of this host. ``kept``: from disk, ``saved`` then; None: nothing is."""
        self.key = key
        self.why = ""  # it is wanted
        self.query: BlockingQuery | None = None
        self.instances = kept
        self.started = False  # the query is
        self.outdated = False  # what the query waits for was asked with other rights
        self.asked: float | None = None  # reactor seconds of the last question in turn
        self._source = Source(key.service, key.datacenter, remote)
        self._around = around
        self._known = kept is not None
        self._from_consul = False
        self._changed = self._confirmed = saved if kept is not None else 0.0
        self._partial = False  # ACLs left something out of the answer that the instances are from
        self._problem = ""  # of the last question in turn, or of the last answer
        self._note = ""  # about the last answer, which is used all the same
        self._last: int | None = None  # what tells the last answer in turn; None when it was not used
        self._verdict = ""  # on the emptiness under way
        self._suspected = False  # the names have it nevertheless: another answer is to say so, too
        self._empty = False  # the last answer had no instances, and is not believed yet
        self._hold: Any = None
        self._rest: Iterator[None] | None = None  # of an answer that is being converted

    @property
    def failing(self) -> bool:
        """Whether the last question in turn got no answer of use."""
        return bool(self._problem)

    @property
    def held(self) -> bool:
        """Whether Consul has no instance any more, and the last ones are kept for a while."""
        return self._hold is not None

    def start(self) -> None:
        """Start the blocking query, if there is to be one; one that was started asks again now."""
        self.outdated = False
        if self.query is not None:
            if self.started:
                self.query.refresh()
            else:
                self.started = True
                self.query.start()

    def unwatch(self) -> None:
        """End the blocking query; what is known stays."""
        if self.query is not None and self.started:
            self.query.stop()
        self.query = None
        self.started = False

    def stop(self) -> None:
        """Forget what is under way."""
        self.unwatch()
        self._release()
        self._drop()

    def state(self) -> ServiceKnowledge:
        """For showing."""
        source, index, behind, confirmed, problem = "poll", 0, 0.0, self._confirmed, self._problem
        if self.query is not None:
            source, index, behind = "watch", self.query.index, self.query.last_contact
            if self.query.succeeded is not None:
                # Also by answers that were the same.
                age = self._around.reactor.seconds() - self.query.succeeded
                confirmed = max(confirmed, self._around.now() - age)
            problem = problem or self.query.error or ("" if self.query.known_leader else "no_leader")
        return ServiceKnowledge(
            service=self.key.service,
            datacenter=self.key.datacenter,
            source=source if self._from_consul or not self._known else "kept",
            wanted_by=self.why,
            changed=self._changed,
            confirmed=confirmed,
            index=index,
            behind=behind,
            problem=explain(problem) or self._note,
            held=self.held,
        )

    # Answers

    def polled(self, reply: Reply) -> str:
        """Take an answer in turn, when it differs from the last one. Returns what :meth:`take` does."""
        answer = hash(reply.body)
        if answer == self._last and not self._problem:
            self._confirmed = self._around.now()
            return ""
        reason = self.take(reply)
        self._last = None if reason else answer
        return reason

    def take(self, reply: Reply) -> str:
        """Take an answer of status 200; returns why it is not used, or ``""``."""
        before, self._problem = self._problem, self._judge(reply)
        if self._problem not in ("", "emptied", NO_RIGHTS, before):
            self._tell(self._problem)
        if not self._problem:
            self._around.counters.last_success = self._around.now()
        return self._problem

    def failed(self, reason: str) -> None:
        """A question in turn got no answer."""
        self._problem = reason

    def _judge(self, reply: Reply) -> str:
        # Whoever could never read all of it at least gets the rest; but what was known doesn't go away like this.
        if reply.filtered and self.instances and not self._partial:
            return "filtered"
        if len(reply.body) > LARGE:
            self._drop()
            self._rest = self._convert_large(reply)
            self._around.slices.add(self._rest)
            return ""
        try:
            entries = split(reply.body)
        except Malformed:
            return "malformed"
        if reply.filtered and not entries:
            return "filtered"
        self._drop()
        if not entries:
            return self._emptied()
        conversion = self._conversion(entries)
        complete = conversion.step()
        if conversion.malformed:
            return "malformed"
        self._release()
        self._partial = reply.filtered
        if complete:
            self._use(conversion.answer())
        else:
            self._rest = self._convert(conversion)
            self._around.slices.add(self._rest)
        return ""

    def _conversion(self, entries: Sequence[msgspec.Raw]) -> Conversion:
        return Conversion(entries, self._source, self._around.reachable, self.instances or ())

    def _convert(self, conversion: Conversion) -> Iterator[None]:
        yield from conversion.steps()
        self._rest = None
        self._use(conversion.answer())

    def _convert_large(self, reply: Reply) -> Iterator[None]:
        yield  # timers come before sockets: without this, the entries would be found before anybody else's turn
        try:
            conversion = self._conversion(split(reply.body))
        except Malformed:
            self._too_late("malformed")
            return
        yield
        yield from conversion.steps()
        if conversion.malformed:
            self._too_late("malformed")
            return
        self._rest = None
        self._release()
        self._partial = reply.filtered
        self._use(conversion.answer())

    def _too_late(self, reason: str) -> None:
        """An answer that was taken is of no use. The next one that differs is taken again."""
        self._rest = None
        self._problem = reason
        self._around.counters.error(reason)
        self._tell(reason)

    def _drop(self) -> None:
        """Forget an older answer that is still being converted."""
        if self._rest is not None:
            self._around.slices.remove(self._rest)
            self._rest = None

    def _use(self, answer: Answer) -> None:
        counters = self._around.counters
        counters.refused_instances += sum(n for reason, n in answer.refused.items() if reason not in NOTES)
        for refusal in answer.refusals:
            self._around.refused(refusal)
        left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(answer.refused.items()))
        self._note = f"left out: {left_out}" if left_out else ""
        self._from_consul = True
        self._confirmed = self._around.now()
        if answer.instances != self.instances:
            self.instances = answer.instances
            self._changed = self._confirmed
            self._around.changed(self)

    # No instance any more

    def _emptied(self) -> str:
        if not self.instances and self._from_consul:
            self._use(NOTHING)
            return ""
        if not self._empty:
            self._empty = True
            if self.instances:
                self._around.counters.suppressed_empty += 1
        if self._verdict == GENUINE:
            return ""
        datacenter = self.key.datacenter if self._source.remote else ""
        self._around.names.doubt(self.key.service, datacenter, self._decide)
        # Not used, so it is asked for again soon.
        return self._verdict or "emptied"

    def _decide(self, verdict: str) -> None:
        if not self._empty or verdict == UNKNOWN or self.held:
            return  # there are instances again; or the next answer asks again
        if verdict == NO_NODE_RIGHTS and not self._suspected:
            # The names are newer than the answer, and its first instance may have been registered in between.
            self._suspected = True
            if self.query is not None and self.started:
                self.query.refresh()
            return
        known, self._verdict = self._verdict, verdict
        if verdict != GENUINE:
            self._problem = verdict
            if verdict == NO_RIGHTS:
                self._around.names.look()  # which tells it once for all services
            elif verdict != known:
                self._tell(verdict)
            return
        self._problem = ""
        if not self.instances:
            self._release()
            self._use(NOTHING)
            return
        hold = self._around.hold_empty
        self.log.warn(
            "{service} in {datacenter} has no instance any more; its last {count} are kept for {hold:g} s",
            service=self.key.service,
            datacenter=self.key.datacenter,
            count=len(self.instances or ()),
            hold=hold,
        )
        self._hold = self._around.reactor.callLater(hold, self._believe)

    def _believe(self) -> None:
        self._hold = None
        failing = self._problem or (self.query is not None and self.query.error)
        if failing and failing != "emptied":
            # Nobody has confirmed it since: it begins anew with the next answer.
            self._release()
            return
        self._release()
        self.log.warn(
            "{service} in {datacenter} still has no instance, and none is used from now on",
            service=self.key.service,
            datacenter=self.key.datacenter,
        )
        self._use(NOTHING)

    def _tell(self, reason: str) -> None:
        self.log.error(
            "an answer about {service} in {datacenter} is not used, {count} known instances stay: {problem}",
            service=self.key.service,
            datacenter=self.key.datacenter,
            count=len(self.instances or ()),
            problem=explain(reason),
        )

    def _release(self) -> None:
        """End the doubt."""
        self._empty = self._suspected = False
        self._verdict = ""
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
