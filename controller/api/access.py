"""Who is in the mesh: join tokens, hosts, services, and who is refused."""

from __future__ import annotations

from typing import Any

from controller.api.calls import Answer, Call, No, Role, answer
from controller.api.for_hosts import dns_of
from controller.api.messages import CreateToken, Reason
from controller.api.parts import Parts
from controller.api.states import row
from controller.policy.generations import Generation
from controller.registry.denied import Denial
from controller.registry.tokens import token_id
from hostproxy.mesh.document import Invalid
from hostproxy.mesh.policy import parse_files
from hostproxy.mesh.spiffe import InvalidName, Kind, SpiffeId


async def list_tokens(parts: Parts, call: Call) -> Answer:
    """GET /v1/tokens"""
    now = parts.now()
    tokens = await parts.registry.tokens.all()
    rows = [
        {
            "id": name,
            "host": token.host,
            "created": token.created,
            "expires": token.expires,
            "by": token.by,
            "reenrol": token.reenrol,
            "state": "used" if token.used else "expired" if token.expires <= now else "open",
        }
        for name, token in sorted(tokens.items(), key=lambda item: item[1].created)
    ]
    return answer({"tokens": rows})


async def create_token(parts: Parts, call: Call) -> Answer:
    """POST /v1/tokens: the answer is the only place where the token ever is."""
    request = call.decode(CreateToken)
    call.object = f"host/{request.host}"
    if request.reenrol and call.caller.role < Role.ADMIN:
        raise No(403, "the name of a host that has enrolled is given to another machine by role admin only")
    dns_of(parts, request.host)
    secret, token = await parts.registry.invite(
        request.host, by=call.caller.actor, life=request.life, reenrol=request.reenrol
    )
    call.after, call.detail = token_id(token), "for a host that has enrolled before" if request.reenrol else ""
    document = {
        "token": secret,
        "id": token_id(token),
        "host": token.host,
        "expires": token.expires,
        "fingerprint": parts.authority.fingerprint,
        "url": url(parts),
    }
    return answer(document, 201)


async def revoke_token(parts: Parts, call: Call) -> Answer:
    """DELETE /v1/tokens/{token}, by its id."""
    token = await parts.registry.tokens.revoke(call.parameters["token"])
    call.detail = f"for host/{token.host}" + (", which had used it" if token.used else "")
    return answer({"revoked": token_id(token), "host": token.host, "used": bool(token.used)})


async def list_hosts(parts: Parts, call: Call) -> Answer:
    """GET /v1/hosts: how each one stands."""
    reports = await parts.registry.reports.all()
    denied = {denial.identity: denial for denial in await parts.registry.denied.all()}
    view = await parts.rollouts.view()
    newest = view.newest.version if view.newest is not None else None
    rows = []
    for name, host in sorted((await parts.registry.hosts.all()).items()):
        denial = denied.get(str(SpiffeId.host(parts.trust_domain, name)))
        rows.append(row(parts, host, reports.get(name), view.wanted(name), newest, denial))
    return answer({"hosts": rows, "now": parts.now()})


async def show_host(parts: Parts, call: Call) -> Answer:
    """GET /v1/hosts/{host}"""
    name = call.parameters["host"]
    host = await parts.registry.hosts.get(name)
    if host is None:
        raise No(404, f"{name} has not enrolled")
    report = (await parts.registry.reports.all()).get(name)
    identity = str(SpiffeId.host(parts.trust_domain, name))
    denial = next((each for each in await parts.registry.denied.all() if each.identity == identity), None)
    services = [service for service, hosts in (await parts.registry.services.all()).items() if name in hosts]
    view = await parts.rollouts.view()
    newest = view.newest.version if view.newest is not None else None
    shown = row(parts, host, report, view.wanted(name), newest, denial)
    details = {"services": services, "report": report.report if report is not None else None}
    return answer({"host": {**shown, **details}, "now": parts.now()})


async def deny_host(parts: Parts, call: Call) -> Answer:
    """POST /v1/hosts/{host}/deny: refused everywhere as soon as the other hosts have heard of it."""
    return await _deny(parts, call, "host")


async def allow_host(parts: Parts, call: Call) -> Answer:
    """POST /v1/hosts/{host}/allow"""
    return await _allow(parts, call, "host")


async def deny_service(parts: Parts, call: Call) -> Answer:
    """POST /v1/services/{service}/deny"""
    return await _deny(parts, call, "service")


async def allow_service(parts: Parts, call: Call) -> Answer:
    """POST /v1/services/{service}/allow"""
    return await _allow(parts, call, "service")


async def forget_host(parts: Parts, call: Call) -> Answer:
    """DELETE /v1/hosts/{host}: it is no host of the mesh any more. Its certificates are good until they end."""
    name = call.parameters["host"]
    await parts.registry.hosts.forget(name)
    parts.news()
    return answer({"forgotten": name})


async def list_services(parts: Parts, call: Call) -> Answer:
    """GET /v1/services: the hosts of each."""
    denied = {SpiffeId.parse(denial.identity) for denial in await parts.registry.denied.all()}
    refused = {identity.name for identity in denied if identity.kind == "service"}
    assigned = await parts.registry.services.all()
    rows = [
        {"name": name, "hosts": sorted(assigned.get(name, ())), "denied": name in refused}
        for name in sorted({*assigned, *refused})
    ]
    return answer({"services": rows})


async def assign(parts: Parts, call: Call) -> Answer:
    """PUT /v1/services/{service}/hosts/{host}: the host may have the service's certificate."""
    service, host = call.parameters["service"], call.parameters["host"]
    await parts.registry.services.assign(service, host)
    return answer({"service": service, "host": host})


async def withdraw(parts: Parts, call: Call) -> Answer:
    """DELETE /v1/services/{service}/hosts/{host}: it gets no other one. What it has is good until it ends."""
    service, host = call.parameters["service"], call.parameters["host"]
    await parts.registry.services.withdraw(service, host)
    return answer({"service": service, "host": host})


def url(parts: Parts) -> str:
    """Where hosts reach this controller."""
    return f"https://{parts.config.serving.dns}:{parts.config.serving.listen.rpartition(':')[2]}"


async def _deny(parts: Parts, call: Call, kind: Kind) -> Answer:
    identity, name = str(_identity(parts, call, kind)), call.parameters[kind]
    request = call.decode(Reason)
    denial = Denial(identity=identity, at=parts.now(), by=call.caller.actor, reason=request.reason)
    await parts.registry.denied.deny(denial)
    call.detail = request.reason
    # Who is refused, is refused at once: a rollout can be begun again.
    generation = await parts.reissuing.look(call.caller.actor, f"{identity} is denied", stop_rollout=True)
    return answer({**_told(parts, generation), "denied": identity, "known": await _known(parts, kind, name)})


async def _allow(parts: Parts, call: Call, kind: Kind) -> Answer:
    identity = str(_identity(parts, call, kind))
    denial = await parts.registry.denied.lift(identity)
    call.before = f"denied by {denial.by}"
    generation = await parts.reissuing.look(call.caller.actor, f"{identity} is denied no more")
    return answer({**_told(parts, generation), "allowed": identity})


def _told(parts: Parts, generation: Generation | None) -> dict[str, Any]:
    """How hosts hear of it, and why they do not."""
    version = generation.version if generation is not None else None
    return {"generation": version, "problem": parts.reissuing.problem}


async def _known(parts: Parts, kind: Kind, name: str) -> bool:
    """Whether there is such a host, or anybody has said so of a service: names are easily mistyped."""
    if kind == "host":
        return await parts.registry.hosts.get(name) is not None
    if name in await parts.registry.known_services():
        return True
    newest = (await parts.rollouts.view()).newest
    if newest is None:
        return False
    files = newest.files
    try:
        return name in (await parts.in_thread(lambda: parse_files(files))).services
    except Invalid:
        return True  # an older release took it; there is nothing to hold the name against


def _identity(parts: Parts, call: Call, kind: Kind) -> SpiffeId:
    try:
        return SpiffeId(parts.trust_domain, kind, call.parameters[kind])
    except InvalidName as error:
        raise No(400, str(error)) from None
