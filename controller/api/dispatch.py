"""From a request to its answer: a plain path, its route, who asks, whether they may, the handler, the audit log.

An act of an operator that changes something has two lines in the audit log: one before it ("begun"), so that nothing
is done that could not be written down, and one with how it ended.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from controller.api import callers, routes
from controller.api.calls import Answer, Call, Caller, No, Role
from controller.api.http import Question, Reply
from controller.api.parts import Parts
from controller.api.routes import Route
from controller.audit import AuditFailed
from controller.authority import keys, requests
from controller.policy.generations import Unchanged, Unknown
from controller.registry.records import Refused
from controller.store import Conflict, NotLeading, TooLarge, Unavailable
from hostproxy.mesh.bundle import Refused as NotSealed
from hostproxy.mesh.messages import Malformed, Problem, encode

# Without percent-encoding, empty and dot segments: each path has one spelling.
_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,252})+")
_MOST_QUERY = 1024  # characters

# Of the registry's refusals: what does not exist, and what is otherwise than the caller thinks.
_STATUS = {
    "unknown-host": 404,
    "unknown-operator": 404,
    "token": 404,
    "name": 400,
    "expired": 400,
    "key": 400,
    "full": 409,
    "enrolled": 409,
    "operator": 409,
    "denied": 409,
    "service": 409,
    "busy": 409,
    "idle": 409,
}


class Dispatcher:
    """Answers every request."""

    log = Logger()

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def respond(self, question: Question) -> Deferred[Reply]:
        """Never fails."""
        return Deferred.fromCoroutine(self._respond(question))

    @staticmethod
    def limit(method: bytes, target: bytes, credential: bool) -> int:
        """The most bytes that the body of a request may have. Only who shows a credential sends a large one."""
        try:
            route, _ = routes.find(method.decode("ascii"), target.partition(b"?")[0].decode("ascii"))
        except (No, UnicodeDecodeError):
            return 0 if method in (b"GET", b"HEAD") else routes.SMALL
        return route.limit if credential else min(route.limit, routes.SMALL)

    async def _respond(self, question: Question) -> Reply:
        fields: tuple[tuple[str, str], ...] = ()
        try:
            found = await self._answered(question)
        except No as no:
            problem = Problem(error=str(no), problems=no.problems)
            found = Answer(no.status, encode(problem) + b"\n")
            if no.retry_after:
                fields = (("Retry-After", str(math.ceil(no.retry_after))),)
            if no.status == 401:
                fields = (("WWW-Authenticate", "Bearer"),)
            if no.status == 405 and no.code:
                fields = (("Allow", no.code),)
        self._parts.answers[found.status] += 1
        return Reply(found, fields)

    async def _answered(self, question: Question) -> Answer:
        try:
            method, path, query = _target(question)
            route, parameters = routes.find(method, path)
            caller = await self._admitted(question, route)
            if route.leader and not self._parts.leadership.leading:
                leader = self._parts.leadership.leader
                where = f"{leader} does: ask it" if leader else "none does at the moment: try again"
                raise No(503, f"this controller does not lead; {where}", retry_after=2.0)
            call = Call(caller, question.peer.address, parameters, query, question.body)
            return await self._handled(route, call)
        except No:
            raise
        except Exception as error:
            raise self._no(error) from None

    async def _admitted(self, question: Question, route: Route) -> Caller:
        """Who asks, if they may use the route. Who may not is written down. Raises :class:`No`."""
        parts = self._parts
        if route.role is Role.STRANGER:
            return Caller(Role.STRANGER, question.peer.address or "unix")
        actor = question.peer.address or f"uid {question.peer.uid}"
        try:
            caller = await callers.identify(
                parts, question.peer, [each.decode("latin-1") for each in question.authorization]
            )
            actor = caller.actor
            if caller.role is Role.STRANGER:
                raise No(401, "a client certificate or a bearer token is needed", code="nobody")
            if not may(caller.role, route.role):
                raise No(403, f"{_needed(route.role)} may do this, and {caller.actor} may not", code="role")
        except No as no:
            if no.status in (401, 403) and not parts.refusals.take(question.peer.address, parts.clock()):
                written = parts.audit.record(
                    actor, "call", f"{route.method} {route.path}", result="refused", detail=str(no)
                )
                written.addErrback(self._not_written)
            raise
        if question.first and caller.role >= Role.READ:
            # Whoever looks, is let look also when the disk is full: that is when they need to.
            parts.audit.record(caller.actor, "operator.login", question.peer.address).addErrback(self._not_written)
        return caller

    async def _handled(self, route: Route, call: Call) -> Answer:
        if not route.act:
            return await route.handler(self._parts, call)
        audit, actor = self._parts.audit, call.caller.actor
        await audit.record(actor, route.act, call.object, result="begun")
        try:
            found = await route.handler(self._parts, call)
        except Exception as error:
            no = error if isinstance(error, No) else self._no(error)
            problems = "; ".join((str(no), *no.problems))
            await audit.record(actor, route.act, call.object, result="refused", detail=problems)
            raise no from None
        await audit.record(
            actor, route.act, call.object, before=call.before, after=call.after, detail=call.detail
        )
        return found

    def _no(self, error: Exception) -> No:
        """What to answer for an error. Never a stack, a path or a secret."""
        if isinstance(error, No):
            return error
        if isinstance(error, Malformed | requests.Refused):
            return No(400, str(error))
        if isinstance(error, Refused):
            return No(_STATUS.get(error.code, 403), str(error), code=error.code)
        if isinstance(error, Unknown):
            return No(404, str(error))
        if isinstance(error, Unchanged | Conflict | NotSealed):
            return No(409, str(error))
        if isinstance(error, TooLarge):
            return No(413, str(error))
        if isinstance(error, AuditFailed):
            self.log.error("{error}", error=error)
            return No(503, "the audit log cannot be written, so nothing is done: see the log of the controller")
        if isinstance(error, NotLeading):
            return No(503, "this controller does not lead any more: try again", retry_after=2.0)
        if isinstance(error, Unavailable):
            self.log.warn("The store: {error}", error=error)
            return No(503, "the store does not answer as it should: try again", retry_after=2.0)
        if isinstance(error, keys.Unusable | OSError):
            self.log.error("The keys: {error}", error=error)
            return No(500, "the keys cannot be used as it was asked: see the log of the controller")
        self.log.failure("answering a request")
        return No(500, "this could not be answered: see the log of the controller")

    def _not_written(self, failure: object) -> None:
        """The audit log has said why, and what was not written about stands."""


def may(caller: Role, wanted: Role) -> bool:
    """Whether a caller with one role may use a route that wants another."""
    if wanted is Role.STRANGER:
        return True
    if Role.HOST in (wanted, caller):
        return caller is wanted
    return caller >= wanted


def _needed(role: Role) -> str:
    return "a host" if role is Role.HOST else f"an operator with role {role.name.lower()}"


def _target(question: Question) -> tuple[str, str, Mapping[str, str]]:
    """Method, path and query of a request that a plain client made. Raises :class:`No`."""
    if len(question.hosts) != 1:
        raise No(400, "exactly one Host field is needed")
    # A page of a foreign site can make a browser ask. It gives itself away by Origin; on the Unix socket nothing but
    # a program that knows better has another Host.
    if question.origins:
        raise No(403, "requests from web pages are not answered (Origin)")
    if not question.peer.address and question.hosts[0].partition(b":")[0].lower() != b"localhost":
        raise No(403, "the Host field on the Unix socket is localhost")
    method = question.method.decode("latin-1")
    if method not in routes.METHODS:
        raise No(501, "there is no such method here")
    path, _, query = question.target.decode("latin-1").partition("?")
    if not path.startswith("/"):
        raise No(400, "the target of a request is a path")
    if not _PATH.fullmatch(path):
        raise No(404, "there is no such path: each has one spelling, without % and //")
    if len(query) > _MOST_QUERY:
        raise No(414, "the query is too long")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=10) if query else []
    except ValueError:
        raise No(400, "the query cannot be read") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise No(400, "the query says something twice")
    return method, path, found
