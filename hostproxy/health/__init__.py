"""Whether the instances on this host are well: each is asked again and again, and some answers in a row decide.

    probe       one question to one instance: HTTP, or only a connection
    judgement   what a row of answers means; pure
    checks      all instances that are checked, asked in turn

Checks with ``run_by = "consul"`` are the business of Consul's agent, and not run here.
"""

from hostproxy.health.checks import LocalHealth, Result

__all__ = ["LocalHealth", "Result"]
