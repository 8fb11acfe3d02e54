"""One request on its way through this host, and the two parties that it stands between."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from hostproxy.enforce.retry import may_repeat
from hostproxy.exchange.replies import Refusal
from hostproxy.exchange.retries import Retries
from hostproxy.net.deadlines import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hostproxy.codec.http1 import RequestHead, ResponseHead
    from hostproxy.enforce.retry import RetryPolicy
    from hostproxy.exchange.caller import Caller
    from hostproxy.net.reactor import MeshReactor
    from hostproxy.net.stream import Stream
    from hostproxy.telemetry.metrics import RequestSeries
    from hostproxy.upstream.destination import Destination
    from hostproxy.upstream.endpoint import Endpoint


class Responder(Protocol):
    """The client's side: takes the response. An HTTP/1.1 connection, or one stream of an HTTP/2 one."""

    caller: Caller

    @property
    def reactor(self) -> MeshReactor:
        """What a retry waits with."""

    def wake(self, at: float) -> None:
        """Look at the exchange's deadline at ``at`` (monotonic seconds)."""

    def connect(self, destination: Destination) -> None:
        """CONNECT was allowed: from here on bytes are relayed to ``destination``."""

    def informational(self, head: ResponseHead) -> None:
        """A 1xx head, to be passed on at once."""

    def respond(self, head: ResponseHead, body: bytes, done: bool, trailers: Sequence[bytes]) -> None:
        """The final head with the first of its body, and whether that is all."""

    def respond_body(self, body: bytes, done: bool, trailers: Sequence[bytes]) -> None:
        """More of the body."""

    def switch(self, head: ResponseHead, surplus: bytes) -> None:
        """101: from here on bytes are relayed in both directions."""

    def refuse(self, refusal: Refusal) -> None:
        """Nobody else answers: say why."""

    def cut(self) -> None:
        """The response can't be completed: end it so that the client sees that it is incomplete."""

    def pause_request(self) -> None:
        """Send no more of the request's body for now."""

    def resume_request(self) -> None:
        """There is room for the request's body again."""

    def backlog(self) -> int:
        """Bytes of the response that wait for the client."""


class Requester(Protocol):
    """The endpoint's side: takes the request."""

    reused: bool  # it has served a request before
    stream: Stream

    def send_body(self, body: bytes, done: bool, trailers: Sequence[bytes]) -> None:
        """More of the request's body."""

    def pause_response(self) -> None:
        """Send no more of the response for now."""

    def resume_response(self) -> None:
        """There is room for the response again."""

    def leave(self) -> Stream:
        """Give away the stream: it becomes a tunnel's."""

    def drop(self) -> None:
        """The exchange is over before its end: close the connection, it can't be used again."""


class Wait(Protocol):
    """What an exchange waits for while it has no client: news of its service, a connection to the endpoint, or the
    time of its next try."""

    def forget(self) -> None:
        """The exchange does not wait any more."""


class Path(Protocol):
    """Where an exchange is decided: outbound or inbound."""

    direction: str
    completed: Callable[[Exchange], None]  # the exchange is over: count and log it

    def begin(self, exchange: Exchange) -> None:
        """Decide on a new request, and send it on or refuse it."""

    def attempt(self, exchange: Exchange) -> None:
        """Send the request to an endpoint (again)."""

    def objection(self, exchange: Exchange) -> str:
        """Why the tunnel that this exchange has become may not go on under a changed policy; empty: it may."""


class Exchange:
    """One request and its response. The parties call it; it keeps them in step and decides who speaks."""

    __slots__ = (
        "answer",
        "attempts",
        "audit",
        "body",
        "client",
        "deadline",
        "details",
        "endpoint",
        "first_byte",
        "flags",
        "head",
        "moved",
        "path",
        "reasons",
        "received",
        "replayable",
        "request_bytes",
        "request_done",
        "request_id",
        "responding",
        "retries",
        "route",
        "rule",
        "sent",
        "series",
        "server",
        "started",
        "status",
        "target",
        "trailers",
        "tried",
        "upstream",
        "waiting",
    )

    def __init__(self, path: Path, server: Responder, head: RequestHead, now: float) -> None:
        self.path = path
        self.server = server
        self.head = head
        self.started = now
        self.moved = now  # when a byte last moved, for the stream's idle timeout
        self.deadline = NEVER  # of the whole call
        self.body = b""  # of the request: what has come and has not been sent, or may have to be sent again
        self.trailers: Sequence[bytes] = ()
        self.request_done = True  # the whole request has come
        self.replayable = True  # body holds all of the request's body that has come
        self.request_bytes = b""  # the head as it goes to the endpoint
        self.request_id = b""
        self.client: Requester | None = None
        self.waiting: Wait | None = None
        self.target: Destination | None = None  # what the path chose
        self.route = ""  # that led there, as logs name it; empty: none
        self.endpoint: Endpoint | None = None
        self.tried: tuple[Endpoint, ...] = ()
        self.upstream = ""  # address of the endpoint that was tried last
        self.attempts = 0
        self.reasons: tuple[str, ...] = ()  # why tries failed for which others could be made
        self.retries: Retries | None = None  # None: policy has none for it
        self.responding = False  # the final head has been passed on
        self.answer: ResponseHead | None = None  # that head; None: there was none, or it was made here
        self.first_byte = 0.0  # when that was
        self.status = 0
        self.flags = "-"
        self.details = ""
        self.received = 0  # bytes of the request's body
        self.sent = 0  # bytes of the response's body
        self.series: RequestSeries | None = None
        self.rule = ""  # the rule or default that decided on it
        self.audit = ""  # what rules with audit = true would have done

    # The request, from the server's side

    def request_body(self, body: bytes, done: bool, trailers: Sequence[bytes] = ()) -> None:
        """More of the request's body has come."""
        self.received += len(body)
        self.request_done = done
        client = self.client
        retries = self.retries
        if client is not None:
            if retries is not None:
                retries.request_body(self, body, done, trailers)
            client.send_body(body, done, trailers)
            return
        # No endpoint yet: keep this one piece, and ask for no more.
        self.body += body
        self.trailers = trailers
        if not done:
            self.server.pause_request()
        if retries is not None:
            retries.request_waits(self, done)

    def limit(self, seconds: float) -> None:
        """The whole call, retries included, may take ``seconds`` from its head on."""
        self.deadline = self.started + seconds
        self.server.wake(self.deadline)

    def allow_retries(self, policy: RetryPolicy) -> None:
        """Send the request again where ``policy`` says so. To be called before it is sent for the first time."""
        self.retries = Retries(self, policy)

    def overdue(self) -> None:
        """The whole call has taken longer than it may."""
        # A dial that began with the call has had all of its time. One that came later has not: that says nothing.
        unopened = self.endpoint if self.client is None and self.attempts == 1 else None
        self.refuse(Refusal(504, "UT", "http_response_timeout", "the call took longer than its timeout"))
        if unopened is not None:
            unopened.gave_up()

    def cancel(self, flags: str, details: str) -> None:
        """The client has gone."""
        self.flags = flags
        self.details = details
        if not self.responding:
            self.status = 0
        self._release()
        self.path.completed(self)

    # The response, from the client's side

    def informational(self, head: ResponseHead) -> None:
        """A 1xx head other than 101."""
        if head.status == 100 and self.retries is not None and self.retries.before:
            return  # the client has sent its body: it is the retry that asked once more
        self.server.informational(head)

    def respond(self, head: ResponseHead, body: bytes, done: bool, trailers: Sequence[bytes] = ()) -> None:
        """The final head, with what came of its body."""
        retries = self.retries
        if retries is not None and retries.answered(self, head, done):
            return
        self.responding = True
        self.answer = head
        self.first_byte = time.monotonic()
        self.status = head.status
        self.flags = "-"  # whatever earlier attempts met
        if retries is not None:
            retries.settle(self)
        self.sent = len(body)
        if done:
            self.client = None
        self.server.respond(head, body, done, trailers)

    def respond_body(self, body: bytes, done: bool, trailers: Sequence[bytes] = ()) -> None:
        """More of the response's body."""
        self.sent += len(body)
        if done:
            self.client = None
        self.server.respond_body(body, done, trailers)

    def switch(self, head: ResponseHead, surplus: bytes) -> None:
        """101: the connection becomes a tunnel, and the exchange lasts as long as it."""
        self.responding = True
        self.answer = head
        self.first_byte = time.monotonic()
        self.status = head.status
        self.flags = "-"
        if self.retries is not None:
            self.retries.settle(self)
        self.server.switch(head, surplus)

    # The connection to the endpoint

    def opened(self, stream: Stream) -> None:
        """There is a fresh stream to the endpoint."""
        self.waiting = None
        endpoint = self.endpoint
        assert endpoint is not None
        endpoint.adopt(stream).start(self)

    def not_opened(self, reason: str) -> None:
        """There is none. Nothing was sent, so the next endpoint may be tried."""
        self.waiting = None
        endpoint = self.endpoint
        assert endpoint is not None
        self.tried = (*self.tried, endpoint)
        self.reasons = (*self.reasons, "connect-failure")
        self.flags = "UF"
        self.details = f"connecting to {endpoint.label}: {reason}"
        self._leave_endpoint()
        self.path.attempt(self)

    # What goes wrong

    def response_failed(self, refusal: Refusal, silent: bool, unsent: bool) -> None:
        """The endpoint's connection ended, or what it said can't be understood, before the response's end.

        ``silent``: not a byte of a response had come; ``unsent``: nor had one of the request gone out.
        """
        client = self.client
        self.client = None
        retries = self.retries
        if self.responding:
            self.flags = refusal.flags
            self.details = refusal.details
            self._release()
            self.server.cut()
            self.path.completed(self)
        elif (
            silent
            and client is not None
            and may_repeat(
                self.head.method,
                client.reused,
                self.replayable and self.request_done,
                unsent,
                self.attempts - (retries.before if retries is not None else 0),
            )
        ):
            self.abandon("reset", self.tried)
            self.path.attempt(self)
        elif not (silent and retries is not None and retries.disconnected(self, unsent)):
            self.refuse(refusal)

    def abandon(self, reason: str, tried: tuple[Endpoint, ...] = ()) -> None:
        """Give up the try under way, for ``reason``, as there will be another, at an endpoint not ``tried``."""
        self.reasons = (*self.reasons, reason)
        self.tried = tried
        self._let_go()

    def refuse(self, refusal: Refusal) -> None:
        """Answer here. The request goes nowhere, or no further."""
        self._release()
        if self.responding:
            self.flags = refusal.flags
            self.details = refusal.details
            self.server.cut()
        else:
            self.status = refusal.status
            self.flags = refusal.flags
            self.details = refusal.details
            self.responding = True
            self.server.refuse(refusal)
        self.path.completed(self)

    def complete(self) -> None:
        """The response has been passed on whole: called by the server's side."""
        if self.client is not None or self.retries is not None:
            self._release()
        else:
            endpoint = self.endpoint
            if endpoint is not None:
                self.endpoint = None
                endpoint.in_flight -= 1
        self.path.completed(self)

    def _release(self) -> None:
        """Let go of the endpoint's side for good."""
        self._let_go()
        if self.retries is not None:
            self.retries.end()

    def _let_go(self) -> None:
        client = self.client
        if client is not None:
            self.client = None
            client.drop()
        waiting = self.waiting
        if waiting is not None:
            self.waiting = None
            waiting.forget()
        self._leave_endpoint()

    def _leave_endpoint(self) -> None:
        endpoint = self.endpoint
        if endpoint is not None:
            self.endpoint = None
            endpoint.in_flight -= 1
