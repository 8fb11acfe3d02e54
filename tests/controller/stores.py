"""Waiting for what stores and logs answer, on a real reactor."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.python.failure import Failure

from tests.discovery.conftest import Loop

T = TypeVar("T")


def result(loop: Loop, asked: Deferred[T] | Coroutine[Any, Any, T], seconds: float = 20.0) -> T:
    """What it fires with; raises what it fails with."""
    found: list[Any] = []
    ensureDeferred(asked).addBoth(found.append)
    loop.until(lambda: found, seconds)
    if isinstance(found[0], Failure):
        found[0].raiseException()
    return found[0]


def failure(loop: Loop, asked: Deferred[Any] | Coroutine[Any, Any, Any], seconds: float = 20.0) -> BaseException:
    """What it fails with."""
    try:
        found = result(loop, asked, seconds)
    except Exception as error:
        return error
    raise AssertionError(f"it did not fail, but gave {found!r:.200}")


def outcomes(loop: Loop, *asked: Deferred[Any] | Coroutine[Any, Any, Any]) -> list[Any]:
    """What each of several at the same time gives or fails with."""

    def settled(value: Any) -> Any:
        return value.value if isinstance(value, Failure) else value

    return result(loop, gatherResults([ensureDeferred(each).addBoth(settled) for each in asked]))
