from __future__ import annotations

from random import Random

from hostproxy.telemetry.metrics import RequestSeries
from hostproxy.upstream.destination import Destination
from hostproxy.upstream.endpoint import Endpoint
from tests.support import Loop
from tests.upstream.fixtures import dialling, endpoint

# What a destination does with requests is in tests/exchange/test_exchange.py, with real endpoints.


def destination(endpoints: list[Endpoint], balance: str = "round-robin") -> Destination:
    return Destination("payments", endpoints, balance, 0.0, RequestSeries(), Random(5).random)


def three(loop: Loop) -> list[Endpoint]:
    shared = dialling(loop)
    return [endpoint(shared, f"127.0.0.1:{port}") for port in (1, 2, 3)]


def test_without_endpoints_there_is_no_choice(loop: Loop) -> None:
    assert destination([]).choose((), 0.0) is None


def test_all_take_their_turn(loop: Loop) -> None:
    endpoints = three(loop)
    to = destination(endpoints)
    assert {to.choose((), 0.0) for _ in range(3)} == set(endpoints)


def test_those_that_rest_are_passed_over(loop: Loop) -> None:
    endpoints = three(loop)
    endpoints[0].resting_until = 10.0
    to = destination(endpoints)
    assert {to.choose((), 5.0) for _ in range(12)} == set(endpoints[1:])


def test_whoever_has_rested_gets_its_turn_again(loop: Loop) -> None:
    """With any number of others: round robin must not step over it for ever."""
    for count in (2, 3):
        endpoints = three(loop)[:count]
        endpoints[0].resting_until = 10.0
        to = destination(endpoints)
        assert endpoints[0] in {to.choose((), 10.0) for _ in range(count)}


def test_those_tried_are_not_chosen_again(loop: Loop) -> None:
    endpoints = three(loop)
    to = destination(endpoints)
    for _ in range(6):
        assert to.choose(tuple(endpoints[:2]), 0.0) is endpoints[2]
    assert to.choose(tuple(endpoints), 0.0) is None


def test_it_is_secure_when_an_endpoint_is(loop: Loop) -> None:
    endpoints = three(loop)
    assert not destination(endpoints).secure
    endpoints[1].security = object()  # type: ignore[assignment]
    assert destination(endpoints).secure


def test_retiring_spares_those_kept(loop: Loop) -> None:
    endpoints = three(loop)
    destination(endpoints).retire([endpoints[1]])
    assert [one.retired for one in endpoints] == [True, False, True]


def test_retiring_thousands_is_quick(loop: Loop) -> None:
    import time

    shared = dialling(loop)
    endpoints = [endpoint(shared, f"127.0.0.1:{port}") for port in range(1, 10_001)]
    to = destination(endpoints)
    began = time.process_time()
    to.retire(endpoints)
    assert time.process_time() - began < 0.1
