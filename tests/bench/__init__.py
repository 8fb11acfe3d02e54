"""hostproxy measured beside HAProxy, nginx, Envoy and Traefik: ``python -m tests.bench``.

nginx is the origin, wrk and a paced client are the load, all on one core; the proxy under test has the
other core to itself. Every proxy of a case runs at the same time, and the rounds are interleaved
(A B C D A B C D ...), so that whatever else the machine does falls on all of them alike.

``cases`` says what is measured, ``peers`` how each proxy is configured to do that work, ``load`` and
``pump`` make the traffic, ``measure`` reads CPU and memory, ``report`` prints the tables.
"""
