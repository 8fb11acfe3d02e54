"""Show: what this host's daemon knows and does, as JSON and metrics over HTTP, for operators on this host.

    socket -> http (twisted.web's parser, limits) -> guard (who may ask) -> pages (which path, 1 s cache)
           -> documents, services, problems (a Moment of SupervisorState -> JSON), facts (-> metrics), off the reactor

It listens on loopback or a Unix socket only, changes nothing, and never carries traffic: twisted.web's parser
is good enough for operators and not for strangers. A page shows no key, token or password.
"""
