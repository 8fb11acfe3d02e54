"""What policy allows one request by way of retries: its body kept, its tries timed, one after the other begun.

A try ends here in one of four ways: its response goes to the client; or its response has a status that is to be
retried, its connection is lost before a response, or its time is up. In the last three :meth:`Retries._again` decides
whether there is another try, and if there is none things go on as without a policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hostproxy.exchange.replies import Refusal
from hostproxy.net.deadlines import NEVER

if TYPE_CHECKING:
    from twisted.internet.base import DelayedCall

    from hostproxy.codec.http1 import ResponseHead
    from hostproxy.enforce.retry import RetryPolicy
    from hostproxy.exchange.exchange import Exchange
    from hostproxy.upstream.endpoint import Endpoint

# The longest body of a request that is kept until there is a response, in case it has to be sent again (bytes). What
# services say to each other is shorter, what is longer is an upload; and each client may cost so much memory. Linkerd
# keeps the same.
KEPT_BODY = 64 * 1024


class Retries:
    """The retries of one exchange, which makes it when policy has any for its request.

    It holds no reference to the exchange, which holds it: in a cycle all that a request has left would wait for the
    garbage collector.
    """

    __slots__ = (
        "_delayed",
        "_held",
        "_made",
        "_permitted",
        "_policy",
        "before",
        "due",
        "exhausted",
        "lost",
        "over_budget",
        "visited",
    )

    def __init__(self, exchange: Exchange, policy: RetryPolicy) -> None:
        self._policy = policy
        self._made = 0
        self._held = False  # counts as a retry in the policy's budget
        self._delayed: DelayedCall | None = None  # the next try, while it waits
        self.before = 0  # attempts of the exchange before the latest retry: each begins to count them anew
        self.visited: tuple[Endpoint, ...] = ()  # endpoints whose tries are over
        self.lost = False  # the try before lost its connection
        self.due = NEVER  # when the try has to have a response (monotonic seconds)
        self.exhausted = False  # the response would have been retried, had there been retries left
        self.over_budget = ""  # why there would have been another try that the budget did not allow
        policy.begin()
        head = exchange.head
        length = len(exchange.body) if exchange.request_done else head.length  # CHUNKED is negative
        # Bytes that an upgrade's client has sent ahead are not HTTP: such a request is better not made twice.
        self._permitted = head.method in policy.methods and not head.upgrade and length <= KEPT_BODY
        if self._permitted:
            exchange.replayable = True

    # The request

    def request_body(self, exchange: Exchange, body: bytes, done: bool, trailers: Sequence[bytes]) -> None:
        """More of the request's body has come, and goes to the endpoint at once: keep it if that is possible."""
        if exchange.replayable:
            if len(exchange.body) + len(body) <= KEPT_BODY:
                exchange.body += body
                exchange.trailers = trailers
            else:
                exchange.replayable = False
                exchange.body = b""
        if done:
            self.begin_try(exchange, exchange.server.reactor.seconds())

    def request_waits(self, exchange: Exchange, done: bool) -> None:
        """More of the body has come, and waits for its endpoint in the exchange: it stays there until it is sent."""
        if len(exchange.body) > KEPT_BODY:
            exchange.replayable = False
        if done:
            self.begin_try(exchange, exchange.server.reactor.seconds())

    def begin_try(self, exchange: Exchange, now: float) -> None:
        """A try begins. While the request's body is still coming nobody can answer: its end begins it once more."""
        exchange.moved = now  # the request goes out (again): its stream's idle time begins anew
        if self._policy.try_timeout and exchange.request_done and not exchange.responding:
            self.due = now + self._policy.try_timeout
            exchange.server.wake(self.due)

    # How a try ends

    def answered(self, exchange: Exchange, head: ResponseHead, whole: bool) -> bool:
        """There is a final response head, maybe with a ``whole`` response: whether it is dropped for another try."""
        if head.status not in self._policy.statuses:
            return False
        if whole:
            exchange.client = None  # its connection has gone back already
        return self._again(exchange, "status")

    def disconnected(self, exchange: Exchange, unsent: bool) -> bool:
        """The connection was lost before any byte of a response: whether there will be another try."""
        if not self._policy.resets or not self._again(exchange, "reset", unsent):
            return False
        self.lost = True
        return True

    def expired(self, exchange: Exchange) -> None:
        """The try had no response in its time. One that can't be followed by another goes on: it may still succeed."""
        self.due = NEVER
        unopened = exchange.endpoint if exchange.client is None else None
        if not self._again(exchange, "timeout", unopened is not None):
            if self._made < self._policy.attempts:
                return
            text = f"{exchange.upstream} gave no response within the {self._policy.try_timeout:g} s of try_timeout"
            exchange.refuse(Refusal(504, "UT", "http_response_timeout", text))
        if unopened is not None:
            unopened.gave_up()

    def settle(self, exchange: Exchange) -> None:
        """A response is passed on: there will be no other try, and nothing is kept for one."""
        self.due = NEVER
        exchange.replayable = False
        exchange.body = b""
        if self.exhausted:
            exchange.flags = "URX"
            exchange.details = f"retries are used up: the last of {self._made + 1} tries was answered {exchange.status}"
        self._release()

    def end(self) -> None:
        """The exchange is over."""
        self._release()
        self._policy.end()

    # Another try

    def _again(self, exchange: Exchange, reason: str, unsent: bool = False) -> bool:
        """End this try and begin another one after its backoff, if that is allowed.

        ``unsent``: nothing of the request has left this process, so any method may be repeated.
        """
        policy = self._policy
        if not (exchange.request_done and exchange.replayable and (self._permitted or unsent)):
            return False
        if self._made >= policy.attempts:
            self.exhausted = reason == "status"
            return False
        target = exchange.target
        assert target is not None  # the policy is its
        wait = policy.wait(self._made + 1, target.random())
        if exchange.server.reactor.seconds() + wait >= exchange.deadline:
            return False  # it could not begin before the call's time is up
        if not self._held:
            if not policy.allow():
                self.over_budget = reason
                return False
            self._held = True
        self._made += 1
        self.before = exchange.attempts
        self.lost = False
        self.due = NEVER
        endpoint = exchange.endpoint
        assert endpoint is not None  # it had this try
        self.visited = (*self.visited, *exchange.tried, endpoint)
        exchange.abandon(reason)
        exchange.waiting = self
        self._delayed = exchange.server.reactor.callLater(wait, self._begin, exchange)
        return True

    def _begin(self, exchange: Exchange) -> None:
        """The backoff is over."""
        self._delayed = None
        exchange.waiting = None
        if exchange.server.reactor.seconds() >= exchange.deadline:
            exchange.overdue()
        else:
            exchange.path.attempt(exchange)

    def forget(self) -> None:
        """Wait: the exchange ends during the backoff."""
        if self._delayed is not None:
            self._delayed.cancel()
            self._delayed = None

    def _release(self) -> None:
        if self._held:
            self._held = False
            self._policy.release()
