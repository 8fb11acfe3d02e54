"""Keys of the mesh: authorities and the bundles' signer, and their rotation.

Each rotation has two or three acts with a wait between them, until every host has heard of the one before. An act that
comes too early is refused with the hosts that are behind, unless ``?force=true`` says that they may be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from cryptography import x509

from controller import signing
from controller.api.calls import Answer, Call, No, answer
from controller.api.parts import Parts
from controller.authority.authority import fingerprint
from controller.authority.keys import Unusable
from controller.policy.generations import Version
from controller.registry.hosts import Report

SHOWN = 20  # hosts named in a refusal


async def status(parts: Parts, call: Call) -> Answer:
    """GET /v1/authority"""
    authority = parts.authority
    roots = [x509.load_pem_x509_certificate(root.encode()) for root in authority.roots]
    noted = await parts.reissuing.noted()
    behind, untold = await _behind(parts)
    document = {
        "trust_domain": authority.trust_domain,
        "fingerprint": authority.fingerprint,
        "roots": [
            {
                "number": number,
                "fingerprint": fingerprint(root),
                "ends": root.not_valid_after_utc.timestamp(),
                "used": number == authority.state.root,
            }
            for number, root in zip(authority.state.roots, roots, strict=True)
        ],
        "issuing": authority.state.issuing,
        "issuing_ends": authority.issuing_ends.timestamp(),
        "issuing_began": parts.leaf.issuing_began.timestamp(),
        "controller_certificate_ends": parts.leaf.ends.timestamp(),
        "signer": signing.name(parts.signing.current),
        "next_signer": signing.name(parts.signing.following) if parts.signing.following is not None else None,
        "told_since": noted.version if noted is not None and not untold else None,
        "behind": behind,
        "untold": untold,
        "problem": parts.reissuing.problem,
    }
    return answer(document)


async def rotate_issuing(parts: Parts, call: Call) -> Answer:
    """POST /v1/authority/rotate-issuing: hosts need not hear of it, they trust the root above."""
    await _act(parts, lambda: parts.authority.rotate_issuing(parts.moment()))
    parts.trust_changed()
    call.after = f"issuing {parts.authority.state.issuing}"
    return await status(parts, call)


async def add_root(parts: Parts, call: Call) -> Answer:
    """POST /v1/authority/roots: trusted by all from now on, and signs nothing yet."""
    await _not_busy(parts)
    await _act(parts, lambda: parts.authority.add_root(parts.moment()))
    call.object = f"root {parts.authority.state.roots[-1]}"
    return await _announced(parts, call, "a root is trusted as well")


async def use_root(parts: Parts, call: Call) -> Answer:
    """POST /v1/authority/roots/{root}/use: a new issuing authority under it signs from now on."""
    await _all_have_heard(parts, call)
    number = call.number("root", 1_000_000)
    call.object, call.before = f"root {number}", f"root {parts.authority.state.root}"
    await _act(parts, lambda: parts.authority.use_root(number, parts.moment()))
    parts.trust_changed()
    return await status(parts, call)


async def drop_root(parts: Parts, call: Call) -> Answer:
    """DELETE /v1/authority/roots/{root}: trusted by nobody any more, as soon as they have heard."""
    await _not_busy(parts)
    number = call.number("root", 1_000_000)
    call.object = f"root {number}"
    renewed = parts.leaf.issuing_began + timedelta(seconds=parts.config.authority.leaf_life)
    if number != parts.authority.state.root and parts.moment() < renewed and not call.flag("force"):
        when = renewed.strftime("%Y-%m-%d %H:%M:%S UTC")
        raise No(409, f"certificates under it may be in use until {when}: wait, or add ?force=true")
    await _act(parts, lambda: parts.authority.drop_root(number))
    parts.trust_changed()
    return await _announced(parts, call, f"root {number} is trusted no more")


async def next_signer(parts: Parts, call: Call) -> Answer:
    """POST /v1/signing/next: a new key, which bundles name from now on, and which signs nothing yet."""
    await _not_busy(parts)
    await _act(parts, parts.signing.announce)
    assert parts.signing.following is not None
    call.object, call.after = "signer", signing.name(parts.signing.following)
    return await _announced(parts, call, "the next key for bundles is announced")


async def use_signer(parts: Parts, call: Call) -> Answer:
    """POST /v1/signing/use: the announced key signs from now on, and the one before is forgotten."""
    await _not_busy(parts)
    await _all_have_heard(parts, call)
    call.object, call.before = "signer", signing.name(parts.signing.current)
    await _act(parts, parts.signing.use)
    call.after = signing.name(parts.signing.current)
    return await _announced(parts, call, "bundles are signed with another key")


async def _act(parts: Parts, change: Callable[[], object]) -> None:
    """Change keys on the disk; what is impossible is told without the paths in it."""
    try:
        await parts.keys.run(parts.in_thread, change)
    except Unusable as error:
        text = str(error)
        if "/" in text:
            raise
        raise No(409, text) from None


async def _announced(parts: Parts, call: Call, why: str) -> Answer:
    await parts.reissuing.look(call.caller.actor, why)
    return await status(parts, call)


async def _not_busy(parts: Parts) -> None:
    busy = await parts.rollouts.busy()
    if busy:
        raise No(409, busy)


async def _all_have_heard(parts: Parts, call: Call) -> None:
    behind, untold = await _behind(parts)
    if behind and not call.flag("force"):
        because = f" ({untold})" if untold else ""
        raise No(
            409,
            f"{len(behind)} hosts have not heard of it yet and would be lost{because}: wait, or add ?force=true",
            tuple(behind[:SHOWN]),
        )


async def _behind(parts: Parts) -> tuple[list[str], str]:
    """Hosts whose bundle does not say yet what bundles say now; and why nobody's does, "" when some may."""
    untold = await parts.reissuing.untold()
    noted = await parts.reissuing.noted()
    newest = await parts.generations.newest()
    hosts = sorted(await parts.decider.hosts())
    if untold or noted is None or newest is None:
        return hosts, untold
    reports = await parts.registry.reports.all()
    since, until = noted.version, newest.version
    return [host for host in hosts if not _heard(reports.get(host), since, until)], ""


def _heard(report: Report | None, since: Version, until: Version) -> bool:
    """Whether a host has one of these generations, as it was made here, and stays with it."""
    if report is None or report.differs or not report.report.confirmed:
        return False
    return since <= Version(report.report.epoch, report.report.generation) <= until
