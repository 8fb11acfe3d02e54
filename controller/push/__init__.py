"""Bundles on their way to hosts.

    tls           mutual TLS with a host: who it is, is checked by its identity and not by its address
    pusher        one request to one host
    distribution  all hosts, in parallel and bounded, again and again until each has what it should have
"""
