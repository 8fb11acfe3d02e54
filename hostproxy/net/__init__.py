"""Sockets on the reactor.

``reactor`` is Twisted's epoll reactor with a monotonic clock and a direct way to its poller;
``stream`` is one connected socket with bounded buffering, ``tls`` the same with TLS 1.3 inside;
``listen`` accepts, ``connect`` opens, ``splice`` relays plain TCP without copying it,
``deadlines`` keeps thousands of timeouts for the price of an attribute each.

Nothing here knows HTTP, services or policy.
"""
