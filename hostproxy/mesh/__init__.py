"""Words that every part of the mesh shares: identities, names, addresses, documents, policy.

Nothing here does network I/O, knows a reactor, or imports another room, so that a controller can use it
as it is. The way of an operator's text through these modules:

    document   bytes of a file -> a TOML document, refused when it could hurt the parser
    scan       where each key of it stands, for messages with line and column
    schema     tables declared as data; a document checked against them gives typed values and findings
    kinds      the value kinds that those tables are made of, with
    units      durations and sizes
    addresses  "ip:port", "unix:/path"
    names      services, hosts, datacenters, trust domains, as spiffe allows them
    policy     the policy file, built from all of these
"""
