"""What services may do: checked, compared, applied, rolled out, and taken back."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from controller.api.calls import Answer, Call, No, answer
from controller.api.messages import Apply, Policy, Reason, Rollback
from controller.api.parts import Parts
from controller.api.states import LIES, named, restored
from controller.policy import files as policy_files
from controller.policy.difference import difference
from controller.policy.generations import Generation, Unknown, digest_of
from controller.rollout.plan import Plan, parse_waves
from hostproxy.mesh.bundle import FILES, file_name
from hostproxy.mesh.document import Invalid
from hostproxy.mesh.units import Wrong

MOST = 1_000_000_000_000  # the number of a generation
LINES = 20_000  # of a difference


async def check(parts: Parts, call: Call) -> Answer:
    """POST /v1/policy/check: what is wrong with files, and what is only strange. 200 either way."""
    problems, warnings = await _examined(parts, _files(call.decode(Policy).files))
    return answer({"problems": problems, "warnings": warnings})


async def diff(parts: Parts, call: Call) -> Answer:
    """POST /v1/policy/diff: what files say otherwise than a generation, by default the newest; a unified diff.

    The first ``LINES`` of it: ``cut`` says that there are more.
    """
    files = _files(call.decode(Policy).files)
    number = call.number("generation", MOST)
    base = await parts.generations.get(number) if number else await parts.generations.newest()
    before = base.files if base is not None else {}
    names = (f"generation {base.version}" if base is not None else "nothing", "yours")
    lines = await parts.in_thread(lambda: list(islice(difference(before, files, names), LINES + 1)))
    generation = base.version.generation if base is not None else 0
    return answer({"generation": generation, "difference": lines[:LINES], "cut": len(lines) > LINES})


async def apply(parts: Parts, call: Call) -> Answer:
    """POST /v1/policy: a new generation, for all hosts at once or in waves."""
    request = call.decode(Apply)
    plan = _plan(request.plan)
    files = _files(request.files)
    problems, warnings = await _examined(parts, files)
    if problems:
        raise No(400, "the policy is not applied: it has problems", tuple(problems))
    newest = await parts.generations.newest()
    number = newest.version.generation if newest is not None else 0
    if request.expect is not None and request.expect != number:
        raise No(409, f"the newest generation is {number}, not {request.expect}: look at what has changed")
    warnings += await _not_behind(parts, newest)
    call.before = newest.digest if newest is not None else ""
    await _not_busy(parts)
    if request.dry_run:
        call.detail = "dry run"
        changed = newest is None or newest.digest != digest_of(files)
        return answer({"dry_run": True, "changed": changed, "generation": number, "warnings": warnings})
    staged = plan is not None
    generation = await parts.generations.apply(files, call.caller.actor, parts.now(), request.note, staged=staged)
    return await _applied(parts, call, generation, plan, warnings)


async def rollback(parts: Parts, call: Call) -> Answer:
    """POST /v1/policy/{generation}/rollback: its files, as a new generation."""
    request = call.decode(Rollback)
    plan = _plan(request.plan)
    earlier = await parts.generations.get(call.number("generation", MOST))
    newest = await parts.generations.newest()
    call.before = newest.digest if newest is not None else ""
    # What was right for the controller of that time may not be for this one.
    problems, warnings = await _examined(parts, earlier.files)
    if problems:
        raise No(409, "that generation cannot be applied any more: it has problems", tuple(problems))
    warnings += await _not_behind(parts, newest)
    await _not_busy(parts)
    number = earlier.version.generation
    if request.dry_run:
        call.detail = "dry run"
        changed = newest is None or newest.digest != earlier.digest
        return answer({"dry_run": True, "changed": changed, "generation": number, "warnings": warnings})
    staged = plan is not None
    generation = await parts.generations.rollback(number, call.caller.actor, parts.now(), request.note, staged=staged)
    return await _applied(parts, call, generation, plan, warnings)


async def raise_epoch(parts: Parts, call: Call) -> Answer:
    """POST /v1/policy/epoch: after the store was restored from a backup. Hosts take it whatever they have."""
    await _not_busy(parts)
    generation = await parts.generations.raise_epoch(call.caller.actor, parts.now())
    return await _applied(parts, call, generation, None, [])


async def history(parts: Parts, call: Call) -> Answer:
    """GET /v1/policy: every generation that is kept, the newest first."""
    found = await parts.generations.history()
    return answer({"generations": [_row(each) for each in found], "now": parts.now()})


async def show(parts: Parts, call: Call) -> Answer:
    """GET /v1/policy/{generation}, with its files; 0 is the newest."""
    number = call.number("generation", MOST)
    generation = await parts.generations.get(number) if number else await parts.generations.newest()
    if generation is None:
        raise Unknown("no policy has been applied yet")
    files = {name: _text(content) for name, content in sorted(generation.files.items())}
    return answer({**_row(generation), "files": files})


async def rollout(parts: Parts, call: Call) -> Answer:
    """GET /v1/rollout: what is under way, or how the last one ended."""
    return answer({"rollout": await parts.rollouts.status(), "now": parts.now()})


async def stop_rollout(parts: Parts, call: Call) -> Answer:
    """POST /v1/rollout/stop"""
    request = call.decode(Reason)
    call.detail = request.reason
    await parts.rollouts.stop(request.reason, call.caller.actor)
    return answer({"rollout": await parts.rollouts.status(), "now": parts.now()})


async def _applied(
    parts: Parts, call: Call, generation: Generation, plan: Plan | None, warnings: list[str]
) -> Answer:
    call.object, call.after = f"generation {generation.version}", generation.digest
    if plan is not None:
        await parts.rollouts.start(generation, plan, call.caller.actor)
        call.detail = f"waves {','.join(plan.waves)}"
    await parts.reissuing.applied(generation)
    parts.news()
    return answer({**_row(generation), "rollout": plan is not None, "warnings": warnings}, 201)


async def _not_behind(parts: Parts, newest: Generation | None) -> list[str]:
    """Refuse where the next generation would have the number of one that hosts have already, with other content.

    Returns what is to be said of hosts that only say so: one that lies must not keep policy from all others.
    """
    version = newest.version if newest is not None else None
    claims = await parts.claims(version)
    if claims.believed:
        raise No(409, restored(claims))
    if not claims.others:
        return []
    text = "a generation that this controller never made is claimed, and not shown, by"
    return [f"{text} {named(claims.others)}: {LIES}"]


async def _not_busy(parts: Parts) -> None:
    busy = await parts.rollouts.busy()
    if busy:
        raise No(409, busy)


def _plan(plan: Plan | None) -> Plan | None:
    if plan is not None:
        try:
            parse_waves(",".join(plan.waves))
        except Wrong as wrong:
            raise No(400, f"waves {wrong}") from None
        if not (0 <= plan.hold <= 86400 and 0 < plan.patience <= 86400):
            raise No(400, "hold and patience are at most a day, in seconds")
    return plan


def _files(texts: Mapping[str, str]) -> dict[str, bytes]:
    """Files as they came. Raises :class:`No`."""
    try:
        files = {file_name(name): text.encode() for name, text in texts.items()}
    except (ValueError, UnicodeEncodeError) as error:
        raise No(400, str(error)) from None
    if len(files) > FILES or sum(map(len, files.values())) > policy_files.MOST:
        raise No(413, f"a policy has {FILES} files and {policy_files.MOST} bytes at most")
    return files


async def _examined(parts: Parts, files: Mapping[str, bytes]) -> tuple[list[str], list[str]]:
    """What hosts would refuse, and what its writer may not have meant, each with file and line."""
    services = await parts.registry.known_services()
    try:
        _, warnings = await parts.in_thread(lambda: policy_files.check(files, services))
    except Invalid as invalid:
        return [str(problem) for problem in invalid.problems], []
    return [], warnings


def _text(content: bytes | None) -> str | None:
    return content.decode() if content is not None else None


def _row(generation: Generation) -> dict[str, Any]:
    return {
        "generation": generation.version.generation,
        "epoch": generation.version.epoch,
        "applied": generation.applied,
        "actor": generation.actor,
        "note": generation.note,
        "restored": generation.restored,
        "digest": generation.digest,
        "names": sorted(generation.files),
    }
