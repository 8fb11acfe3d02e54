"""``hostproxy demo``: two hosts on one machine, as real as they get without a second one.

::

    load.py --> cart's outbound port --> hostproxy of "shop"  (127.0.1.1)
                                              | TLS 1.3, cart's certificate, payments' certificate
                                              v
                instance.py (two of them) <-- hostproxy of "vault" (127.0.1.2)

A controller, ``python -m controller``, gives both their certificates and the policy (``controller.py``). Nothing of it
is imported: what an operator would do is done by its commands.

``site.py`` writes what an operator would write (conf.toml, a catalog, tokens) and starts what systemd would start, by
``processes.py``; ``load.py`` calls, ``story.py`` changes policy meanwhile, and ``screen.py`` shows what comes of it.
Everything is in a temporary directory and goes with it.

With ``--consul`` there is an agent of a real Consul on each host (``consul.py``) in place of the catalog: a ``-dev``
server on vault and a client on shop. Then things happen to them as well.
"""
