"""HTTPS for hosts and operators, and a Unix socket for operators on this machine.

    listeners   the ports                          routes      every path, and who may use it
    http        requests, with limits              dispatch    route -> role -> handler -> answer, and the audit log
    connections those that are open                callers     who asks: by certificate, bearer token or Unix socket
    tls         the controller's own certificate   parts       what handlers work with
    calls       one request, and its answer        interfaces  what is wanted of push and rollout
    messages    bodies of operators' requests

Handlers: for_hosts, access (tokens, hosts, services), operators, policies, keys, overview. Hosts and controller speak
the words of :mod:`hostproxy.mesh.messages`; how a host stands for people is in states, operators in operator_records.
"""
