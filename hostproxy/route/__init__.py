"""From a request to a destination: which service a request means. Pure look-ups, no Twisted."""
