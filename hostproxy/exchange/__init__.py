"""One request and its answer, between a client's connection and an instance's.

::

    server.py        a client's connection, its requests: bytes -> Exchange
    answers.py       a client's connection, the responses: Exchange -> bytes
    surroundings.py  what client connections share: limits, deadlines, draining
    exchange.py      one request on its way: what was decided, what was counted, who answers it
    retries.py       what policy lets be sent again: the body kept, the tries timed, the backoff
    client.py        a connection to an endpoint: Exchange -> bytes -> Exchange
    forward.py       the heads as they are sent on: what a proxy adds and takes away
    replies.py       what is said when nobody else answers

``server`` and ``answers`` on the one side and ``client`` on the other speak HTTP/1.1, and know nothing of each other,
of services or of policy. Between them stands the :class:`~hostproxy.exchange.exchange.Exchange`, and it alone: an
HTTP/2 stream takes the place of either by having the same few methods
(:class:`~hostproxy.exchange.exchange.Responder`, :class:`~hostproxy.exchange.exchange.Requester`).
"""
