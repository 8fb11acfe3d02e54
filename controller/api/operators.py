"""Operators: who they are, and what proves it."""

from __future__ import annotations

from datetime import timedelta

from controller.api.calls import OPERATORS, Answer, Call, No, answer
from controller.api.messages import CreateOperator, OperatorCertificate
from controller.api.parts import Parts
from controller.authority import requests
from controller.authority.authority import LONGEST_LEAF
from hostproxy.mesh.spiffe import SpiffeId

CERTIFICATE_LIFE = timedelta(hours=12)
assert CERTIFICATE_LIFE <= LONGEST_LEAF


async def list_all(parts: Parts, call: Call) -> Answer:
    """GET /v1/operators"""
    rows = [
        {"name": each.name, "role": each.role, "created": each.created, "by": each.by}
        for each in (await parts.operators.all()).values()
    ]
    return answer({"operators": rows})


async def create(parts: Parts, call: Call) -> Answer:
    """POST /v1/operators: the answer is the only place where the bearer token ever is."""
    request = call.decode(CreateOperator)
    call.object = request.name
    if request.role not in OPERATORS:
        raise No(400, f"a role is one of {', '.join(OPERATORS)}")
    token, operator = await parts.operators.create(request.name, request.role, call.caller.actor)
    call.after = operator.role
    return answer({"name": operator.name, "role": operator.role, "token": token}, 201)


async def revoke(parts: Parts, call: Call) -> Answer:
    """DELETE /v1/operators/{operator}: neither token nor certificate is taken from now on."""
    operator = await parts.operators.revoke(call.parameters["operator"])
    call.before = operator.role
    return answer({"revoked": operator.name})


async def certificate(parts: Parts, call: Call) -> Answer:
    """POST /v1/operator-certificate: a client certificate for whoever asks, for half a day."""
    if not call.caller.name:
        raise No(400, "the Unix socket needs no certificate: ask with the token of an operator")
    key = requests.public_key(call.decode(OperatorCertificate).csr.encode())
    identity = SpiffeId(parts.trust_domain, "operator", call.caller.name)
    chain = parts.authority.issue(key, identity, now=parts.moment(), life=CERTIFICATE_LIFE)
    call.object = str(identity)
    return answer({"certificate": chain.decode("ascii"), "roots": parts.authority.roots})
