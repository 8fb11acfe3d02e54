"""The control plane of hostproxy: who is who, who may do what, and which host knows it.

    authority   keys and certificates             api        HTTPS for hosts and operators
    store       where everything is kept          push       bundles to hosts
    registry    hosts, tokens, services           rollout    in waves, and back
    policy      generations of TOML files         audit      what was done, and by whom

It imports nothing of hostproxy but the words of ``hostproxy.mesh``, and no traffic waits for it.
"""
