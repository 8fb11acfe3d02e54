"""The certificate authority: a root, an issuing authority under it, leaves under that.

    authority   which of them is in use, rotation, and what may be issued
    requests    what is wrong with a request for a certificate
    minting     certificates, built from records and never from requests
    keys        private keys on disk, encrypted
"""
