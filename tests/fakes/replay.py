"""Replays the hostile corpus through a proxy and judges what both ends saw.

A lane is one way through the proxy with an origin of its own, used by one case at a time: whatever that
origin receives belongs to the case. Behind a case goes a canary, an ordinary request on a new connection. Its
answer shows that the case left nothing behind: no bytes on a pooled connection, no response out of place.
"""

from __future__ import annotations

import itertools
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.fakes.cases import Message, RequestCase, ResponseCase, Verdict, get
from tests.fakes.client import Outcome, converse
from tests.fakes.delivery import Delivery
from tests.fakes.origin import Answer, Connection, Origin, reply
from tests.fakes.reader import Received

GATEWAY_STATUSES = frozenset({502, 503, 504})
TIMEOUT = 4.0  # seconds for one exchange; a right verdict takes milliseconds
SETTLE = 0.015  # seconds until the proxy has seen what the origin sent behind a complete response


@dataclass(slots=True)
class Lane:
    """A way to connect to the proxy and the origin behind it."""

    connect: Callable[[], socket.socket]
    origin: Origin
    canaries: itertools.count[int] = field(default_factory=itertools.count)


def run(
    lanes: Sequence[Lane],
    cases: Sequence[RequestCase] | Sequence[ResponseCase],
    delivery: Delivery,
) -> list[str]:
    """Replay ``cases`` over all lanes at once; one line for each that went wrong."""
    waiting: queue.SimpleQueue[RequestCase | ResponseCase] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)
    failures: list[str] = []

    def work(lane: Lane) -> None:
        while True:
            try:
                case = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                if isinstance(case, RequestCase):
                    problems = replay_request(lane, case, delivery)
                else:
                    problems = replay_response(lane, case, delivery)
            except OSError as error:
                problems = [f"cannot talk to the proxy: {error}"]
            if problems:
                failures.append(f"{case.name} [{delivery.value}] must {case.verdict.value}: {'; '.join(problems)}")

    threads = [threading.Thread(target=work, args=(lane,)) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(failures)


def replay_request(lane: Lane, case: RequestCase, delivery: Delivery) -> list[str]:
    """One request case and its canary."""
    origin = lane.origin
    origin.forget()
    origin.respond = _echo
    methods = [message.method for message in case.messages]
    with lane.connect() as sock:
        outcome = converse(
            sock,
            case.data,
            delivery,
            methods=methods,
            expect=max(1, len(case.messages)),
            until_end=case.closes or _refused,
            half_close=case.half_close,
            timeout=TIMEOUT,
        )
    problems = [] if case.verdict is Verdict.FORWARD else _canary(lane, case.name)
    origin.quiesce()
    requests = [request for request in origin.requests if not request.target.startswith(b"/canary-")]
    problems += [f"the origin got what no strict reader takes: {fault}" for fault in origin.faults()]
    problems += _judge_request(case, outcome, requests, origin.unfinished())
    if problems:
        problems.append(f"client saw: {outcome}; origin got: {', '.join(map(_brief, requests)) or 'nothing'}")
    return problems


def replay_response(lane: Lane, case: ResponseCase, delivery: Delivery) -> list[str]:
    """One response case and its canary."""
    origin = lane.origin
    origin.forget()

    def respond(request: Received, connection: Connection) -> Answer:
        if request.target.startswith(b"/canary-"):
            return _echo(request, connection)
        return Answer(case.data, delivery, case.ending, late=case.late)

    origin.respond = respond
    with lane.connect() as sock:
        outcome = converse(sock, case.request, methods=[case.request.split(b" ")[0]], timeout=TIMEOUT)
    if case.late or case.forbidden:
        origin.settle()
        time.sleep(SETTLE)
    problems = _canary(lane, case.name) + _judge_response(case, outcome)
    problems += [f"the origin got what no strict reader takes: {fault}" for fault in origin.faults()]
    if problems:
        problems.append(f"client saw: {outcome}")
    return problems


def _echo(request: Received, connection: Connection) -> Answer:
    """The target as the body, so that the client sees which request was answered."""
    answer = reply(request.target)
    if request.method == b"HEAD":
        answer = answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    return Answer(answer)


def _refused(responses: list[Received]) -> bool:
    return any(response.status != 200 for response in responses)


def _canary(lane: Lane, name: str) -> list[str]:
    target = b"/canary-%d" % next(lane.canaries)
    with lane.connect() as sock:
        outcome = converse(sock, get(target), timeout=TIMEOUT)
    if outcome.statuses == [200] and outcome.responses[0].body == target and outcome.fault is None:
        return []
    return [f"the next request of somebody else was answered with {outcome}"]


def _brief(request: Received) -> str:
    line = b"%b %b" % (request.method, request.target[:80])
    return f"{line.decode('latin-1')} ({len(request.body)} bytes)"


def _judge_request(case: RequestCase, outcome: Outcome, requests: list[Received], unfinished: list[bytes]) -> list[str]:
    forwarded = _judge_forwarded(case, outcome, requests, unfinished)
    if case.verdict is Verdict.FORWARD:
        return forwarded
    refused = _judge_refused(case, outcome, requests, unfinished)
    if case.verdict is Verdict.REFUSE:
        return refused
    return min(forwarded, refused, key=len)


def _compare(messages: Sequence[Message], requests: list[Received]) -> list[str]:
    problems = []
    if len(requests) != len(messages):
        problems.append(f"{len(requests)} requests reached the origin instead of {len(messages)}")
    for message, request in zip(messages, requests, strict=False):
        problems += _differences(message, request)
    return problems


def _differences(message: Message, request: Received) -> list[str]:
    problems = []
    targets = message.target if isinstance(message.target, tuple) else (message.target,)
    if request.method != message.method:
        problems.append(f"method {request.method!r} instead of {message.method!r}")
    if request.target not in targets:
        problems.append(f"target {request.target[:200]!r} instead of {targets[0][:200]!r}")
    if request.body != message.body:
        problems.append(
            f"body of {len(request.body)} bytes {bytes(request.body[:60])!r} instead of {len(message.body)}"
        )
    if message.host is not None and request.values(b"host") != [message.host]:
        problems.append(f"Host {request.values(b'host')!r} instead of {message.host!r}")
    if message.trailers is not None and tuple(request.trailers) != message.trailers:
        problems.append(f"trailers {request.trailers!r} instead of {message.trailers!r}")
    return problems + _fields(message.present, message.absent, request)


def _fields(present: Sequence[tuple[bytes, bytes]], absent: Sequence[bytes], message: Received) -> list[str]:
    problems = []
    for pair in present:
        if pair not in message.fields:
            problems.append(f"field {pair!r} is missing, there is {message.values(pair[0])!r}")
    for name in absent:
        if any(key == name for key, _ in message.fields + message.trailers):
            problems.append(f"field {name.decode()} was passed on")
    return problems


def _judge_forwarded(
    case: RequestCase, outcome: Outcome, requests: list[Received], unfinished: list[bytes]
) -> list[str]:
    problems = _compare(case.messages, requests)
    if outcome.statuses != [200] * len(case.messages):
        problems.append(f"answered with {outcome.statuses}")
    else:
        for message, request, response in zip(case.messages, requests, outcome.responses, strict=False):
            if response.body != (b"" if message.method == b"HEAD" else request.target):
                problems.append(f"{_brief(request)} got the answer {bytes(response.body[:60])!r} of another")
    if outcome.fault is not None or outcome.unfinished is not None:
        problems.append("more bytes came than the answers")
    if case.closes and outcome.ended not in ("end", "reset"):
        problems.append("the connection stays open")
    if unfinished:
        problems.append(f"the origin got the beginning of another message: {unfinished[0]!r}")
    return problems


def _judge_refused(case: RequestCase, outcome: Outcome, requests: list[Received], unfinished: list[bytes]) -> list[str]:
    legal = len(case.messages) if case.verdict is Verdict.REFUSE else min(len(requests), len(case.messages))
    problems = _compare(case.messages[:legal], requests)
    statuses = outcome.statuses
    if statuses[:legal] != [200] * legal:
        problems.append(f"answered with {statuses}, the legal requests before were not")
    rest = statuses[legal:]
    if not (len(rest) == 1 and rest[0] in case.statuses) and not (case.silent and not rest):
        problems.append(f"not refused with one of {sorted(case.statuses)} but {rest or 'nothing'}")
    if outcome.fault is not None or outcome.unfinished is not None:
        problems.append("something that is no whole response came")
    if outcome.ended not in ("end", "reset"):
        problems.append("the connection stays open")
    if unfinished and not case.partial:
        problems.append(f"bytes of a refused message reached the origin: {unfinished[0]!r}")
    return problems


def _judge_response(case: ResponseCase, outcome: Outcome) -> list[str]:
    passed, failed = _judge_passed(case, outcome), _judge_failed(outcome)
    problems = {
        Verdict.PASS: passed,
        Verdict.BAD_GATEWAY: failed,
        Verdict.EITHER: min(passed, failed, key=len),
    }[case.verdict]
    for unwanted in case.forbidden:
        if unwanted in outcome.raw:
            problems.append(f"{unwanted!r} reached the client")
    return problems


def _judge_passed(case: ResponseCase, outcome: Outcome) -> list[str]:
    if len(outcome.responses) != 1:
        return ["no complete response"]
    response = outcome.responses[0]
    problems = []
    if response.status != case.status:
        problems.append(f"status {response.status} instead of {case.status}")
    if response.body != case.body:
        problems.append(f"body of {len(response.body)} bytes {bytes(response.body[:60])!r} instead of {len(case.body)}")
    if outcome.fault is not None:
        problems.append("more bytes came than the response")
    if case.trailers is not None and tuple(response.trailers) != case.trailers:
        problems.append(f"trailers {response.trailers!r} instead of {case.trailers!r}")
    if case.informational is not None and tuple(r.status for r in outcome.interim) != case.informational:
        problems.append(f"interim responses {[r.status for r in outcome.interim]} instead of {case.informational}")
    if b"HTTP/1.0\r\n" in case.request and response.values(b"transfer-encoding"):
        problems.append("an HTTP/1.0 client was sent Transfer-Encoding")
    return problems + _fields(case.present, case.absent, response)


def _judge_failed(outcome: Outcome) -> list[str]:
    if outcome.ended == "timeout":
        return ["the client waits without end"]
    if any(status not in GATEWAY_STATUSES for status in outcome.statuses):
        return [f"a faulty response was completed with {outcome.statuses}"]
    if not outcome.responses and outcome.ended not in ("end", "reset"):
        return ["neither answered nor ended"]
    if outcome.fault is not None:
        return ["bytes came that are no response"]
    return []
