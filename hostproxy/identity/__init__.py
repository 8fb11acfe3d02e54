"""Who is who: certificates out of files, TLS contexts made of them, and the judgement on peers.

    supervisor   files        ca.pem, NAME.pem and NAME.key -> Identities, or every fault with its remedy
    worker       contexts     Identity -> ssl.SSLContext; a server's one is chosen by the server name
                 peer         a verified certificate -> SPIFFE ID; every refusal -> a word for its counter
    command      development  an authority for development, and the certificates that it issues
    all          storage      files read with suspicion and replaced in one step

OpenSSL decides whether a chain, its times and its purpose are good; ``peer`` decides whether the leaf is one of
this mesh, and of whom. Private keys travel from file to worker inside :class:`hostproxy.snapshot.Identity`
and reach OpenSSL through a memfd: no process but these two ever has them, and no disk has them twice.
"""
