from __future__ import annotations

from collections.abc import Callable

from twisted.logger import LogLevel, globalLogPublisher

from hostproxy.discovery.watch import Watch


def test_subscribers_hear_of_every_later_value() -> None:
    watch, heard = Watch(1), []
    watch.subscribe(heard.append)
    assert (watch.value, heard) == (1, [])
    watch.publish(2)
    watch.publish(3)
    assert (watch.value, heard) == (3, [2, 3])


def test_who_cancelled_hears_no_more() -> None:
    watch, heard = Watch(1), []
    cancel = watch.subscribe(heard.append)
    other = watch.subscribe(heard.append)
    cancel()
    cancel()
    watch.publish(2)
    assert heard == [2]
    other()
    watch.publish(3)
    assert heard == [2]


def test_one_may_cancel_another_while_both_are_told() -> None:
    watch, heard = Watch(1), []
    cancels: list[Callable[[], None]] = []
    watch.subscribe(lambda value: cancels[0]())
    cancels.append(watch.subscribe(heard.append))
    watch.publish(2)
    assert heard == []


def test_a_value_published_by_a_subscriber_is_the_last_that_anybody_hears() -> None:
    watch, heard = Watch(1), []
    watch.subscribe(lambda value: watch.publish(3) if value == 2 else None)
    watch.subscribe(heard.append)
    watch.publish(2)
    assert (watch.value, heard) == (3, [3])


def test_a_subscriber_that_fails_is_logged_and_the_others_are_told() -> None:
    watch, heard, logged = Watch(1), [], []
    watch.subscribe(lambda value: 1 / 0)
    watch.subscribe(heard.append)
    globalLogPublisher.addObserver(logged.append)
    try:
        watch.publish(2)
    finally:
        globalLogPublisher.removeObserver(logged.append)
    assert heard == [2]
    assert [event["log_level"] for event in logged] == [LogLevel.critical]
