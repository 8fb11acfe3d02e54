"""Who may have which certificate: hosts, join tokens, and which service runs where.

    registry   the questions that are asked before a certificate is issued
    hosts      hosts that have enrolled, and what they reported last
    tokens     one-time join tokens
    services   which service runs on which host, as operators say
    catalog    and as Consul's catalog says
    denied     identities that are refused although their certificates are valid
    keys       keys that have been certified: each is, once
    limits     how often somebody may guess, or ask
    records    all of them in the store
"""
