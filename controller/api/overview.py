"""How things stand, and what was done."""

from __future__ import annotations

import msgspec

from controller.api.access import url
from controller.api.calls import Answer, Call, No, answer
from controller.api.messages import Heads
from controller.api.parts import Parts
from controller.api.states import state
from controller.audit import Head


async def status(parts: Parts, call: Call) -> Answer:
    """GET /v1/status: everything at a glance."""
    now = parts.now()
    reports = await parts.registry.reports.all()
    counts = {"SYNCED": 0, "STALE": 0, "ERROR": 0, "AWAY": 0}
    view = await parts.rollouts.view()
    version = view.newest.version if view.newest is not None else None
    for name in await parts.decider.hosts():
        counts[state(reports.get(name), view.wanted(name), version, now)] += 1
    document = {
        "name": parts.config.serving.name,
        "url": url(parts),
        "version": parts.software,
        "trust_domain": parts.trust_domain,
        "fingerprint": parts.authority.fingerprint,
        "started": parts.started,
        "now": now,
        "leading": parts.leadership.leading,
        "leader": parts.leadership.leader,
        "term": parts.leadership.term,
        "role": call.caller.role.name.lower(),
        "generation": version,
        "rollout": view.rollout,
        "hosts": counts,
        "problem": parts.reissuing.problem,
        "catalog_problem": parts.registry.catalog_problem,
        "told_in_vain": len(parts.distribution.failures),
        "answers": {str(status): count for status, count in sorted(parts.answers.items())},
        "turned_away": parts.turned_away(),
        "certificate_ends": parts.leaf.ends.timestamp(),
        "issuing_ends": parts.authority.issuing_ends.timestamp(),
        "audit": {"lines": parts.audit.head.number, "hash": parts.audit.head.hash, "failures": parts.audit.failures},
    }
    return answer(document)


async def audit_tail(parts: Parts, call: Call) -> Answer:
    """GET /v1/audit?count=N: the last lines of this controller's log, the oldest first."""
    count = call.number("count", 1000, 100)
    lines = await parts.in_thread(lambda: parts.audit.tail(count))
    head = parts.audit.head
    return answer({"lines": [msgspec.Raw(line.encode()) for line in lines], "number": head.number, "hash": head.hash})


async def audit_verify(parts: Parts, call: Call) -> Answer:
    """POST /v1/audit/verify: the first line that is not as it was written, if there is one."""
    try:
        kept = [Head(int(number), found) for number, found in call.decode(Heads).kept.items()]
    except ValueError as error:
        raise No(400, f"a number of a line: {error}") from None
    broken = await parts.audit.verify(kept)
    head = parts.audit.head
    document = {
        "broken": {"line": broken.line, "why": broken.why} if broken is not None else None,
        "number": head.number,
        "hash": head.hash,
    }
    return answer(document)
