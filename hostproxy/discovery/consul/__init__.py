"""Consul: the services that it knows become the catalog, and those of this host are made known to it.

    client      py-consul's whole interface on Twisted
    transport   one request to the agent and its answer, bounded in time, size and number
    connection  connections to it: http, https or Unix socket
    tls         authorities and certificate for https, read again when their files change
    token       the ACL token, read again when its file changes
    errors, reasons   why there is no answer, and what to do
    counters    what is counted about all of it
    query       one blocking query, by all the rules; pace says how often
    ask         questions that do not block

    discovery    what is needed is watched, and becomes the catalog (composition)
    watched      one service in one datacenter: what is believed, and what is kept
    instances    an answer about health becomes instances, in slices; refusals says which addresses are not used
    budget       who gets a blocking query; polls asks about the others in turn
    firstuse     a name that a request uses for the first time
    names        every name in Consul, and whether an empty answer is true
    coordinates  round-trip estimates become bands

    registration  what the agent is told about this host: definition says what, difference what of it is new,
                  writer and heartbeat tell it, leaving takes it back; repeated is a clock for all that

Only a supervisor with ``backend = "consul"`` imports :mod:`~.client`: py-consul brings ``requests`` with it, which
takes a tenth of a second to import.
"""
