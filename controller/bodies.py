"""Bodies of requests and answers of Twisted's HTTP client: sent in one piece, read within a limit."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer


class TooLong(Exception):
    """An answer has more bytes than anybody wants."""


@implementer(IBodyProducer)
class Body:
    """The body of a request. The transport cuts it up."""

    def __init__(self, body: bytes) -> None:
        self.length = len(body)
        self._body = body

    async def _produce(self, consumer: Any) -> None:
        consumer.write(self._body)

    def startProducing(self, consumer: Any) -> Deferred[None]:  # Twisted's names
        """Hand it over."""
        return Deferred.fromCoroutine(self._produce(consumer))

    def pauseProducing(self) -> None:
        """It has been handed over already."""

    resumeProducing = stopProducing = pauseProducing  # noqa: N815


def read(response: Any, limit: int) -> Deferred[bytes]:
    """The whole body of an answer. Fails with :class:`TooLong`, or with what ended the connection before its end."""
    reader = _Reader(limit)
    response.deliverBody(reader)
    return reader.done


class _Reader(Protocol):
    def __init__(self, limit: int) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self._abort())
        self._limit = limit
        self._data = bytearray()

    def dataReceived(self, data: bytes) -> None:  # Twisted's names
        self._data += data
        if len(self._data) > self._limit and not self.done.called:
            self.done.errback(TooLong(f"an answer of more than {self._limit} bytes"))
            self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        # Without a length an answer ends with its connection, and nobody can tell whether it is whole.
        if isinstance(reason.value, ResponseDone):
            self.done.callback(bytes(self._data))
        else:
            self.done.errback(reason)

    def _abort(self) -> None:
        transport: Any = self.transport
        transport.loseConnection()
