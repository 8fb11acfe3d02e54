"""The document that explains the decision on one call."""

from __future__ import annotations

from typing import Any

from hostproxy import explanation
from hostproxy.admin.moment import Moment, plain
from hostproxy.decision import Candidate, Question, World, decide, question
from hostproxy.mesh.policy import Policy
from hostproxy.mesh.units import Wrong


def why(moment: Moment, **asked: Any) -> dict[str, Any]:
    """The answer of /why: what would happen to a call from this host. Raises :class:`Wrong`."""
    state = moment.state
    call = _question(**{"from_" if name == "from" else name: value for name, value in asked.items()})
    if state.snapshot is None:
        raise Wrong("nothing is decided here yet: hostproxy is starting")
    decision = decide(call, World(state.policy or Policy(), state.catalog, state.snapshot, state.bands))
    head = call.head
    return {
        "allowed": decision.allowed,
        "reason": decision.reason,
        "rule": decision.rule,
        "from": decision.caller,
        "method": head.method.decode("latin-1"),
        "path": head.target.decode("latin-1").partition("?")[0],
        "name": decision.name,
        "destination": decision.destination,
        "service": decision.service,
        "subset": decision.subset,
        "protocol": decision.protocol,
        "opaque": decision.opaque,
        **explanation.document(decision.rules, decision.routes, decision.treatment, decision.retries),
        "parts": [plain(part) for part in decision.parts],  # with what keeps them from working
        "audited": [audit._asdict() for audit in decision.audited],
        "instances": [_instance(candidate) for candidate in decision.candidates],
        "notes": plain(decision.notes),
    }


def _question(from_: str = "", method: str = "GET", url: str = "", header: tuple[str, ...] = ()) -> Question:
    if not from_ or not url:
        raise Wrong("from and url are needed", "as in /why?from=cart&method=POST&url=http://payments/make-payment")
    return question(from_, method, url, header)


def _instance(candidate: Candidate) -> dict[str, Any]:
    verdict = candidate.verdict
    instance = verdict.instance
    return {
        "subset": candidate.subset,
        "address": instance.address,
        "host": instance.host,
        "zone": instance.zone,
        "datacenter": instance.datacenter,
        "health": instance.health,
        "used": verdict.used,
        "share": round(verdict.share, 6),
        "why": verdict.why,
    }
