"""Is this host fit to carry traffic? Every question that an operator would go through, asked at once.

A group of checks is a module with ``examine(group, around)``. It asks what it wants in a thread of its own, within the
time that :class:`~hostproxy.doctor.findings.Around` gives, and works without the daemon, without Consul, without the
controller and without root, as far as that goes: what could not be looked at is said too. Nothing here changes
anything, and nothing needs the reactor.
"""
