"""What a bundle does to the record: which one is taken, which one holds, and which one is gone back to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import msgspec

from hostproxy.mesh import storage
from hostproxy.mesh.bundle import FORMAT, KEY_ID, Bundle, Newest, Refused, key_id, open_bundle
from hostproxy.mesh.document import Invalid
from hostproxy.mesh.policy import Policy
from hostproxy.steering.certificates import Wrong, roots_of
from hostproxy.steering.record import Disk, Kept, Record

KEEP = 3  # bundles on the disk
FOREVER = float("inf")

Parse = Callable[[Mapping[str, bytes]], Policy]  # raises Invalid


class Opened(NamedTuple):
    """A bundle that can be put in force: verified, and its policy understood."""

    bundle: Bundle
    policy: Policy
    kept: Kept
    data: bytes  # as it came


class Refusal(Exception):
    """A bundle is not taken. ``problems`` say why; ``version`` is (0, 0) when not even that can be believed."""

    def __init__(self, code: str, problems: tuple[str, ...], version: tuple[int, int] = (0, 0)) -> None:
        super().__init__("\n".join(problems))
        self.code = code
        self.problems = problems
        self.version = version


def opened(data: bytes, record: Record, now: float, parse: Parse) -> Opened:
    """Verify and read a bundle that has come. Raises :class:`Refusal`."""
    return _opened(data, record, record.signers, now, record.newest, parse)


def reopened(data: bytes, record: Record, kept: Kept, parse: Parse) -> Opened:
    """Verify and read one that was kept. Raises :class:`Refusal`."""
    # It was issued before it was kept, whatever the clock says after a reboot; and it is what was taken once.
    found = _opened(data, record, (kept.signer,), FOREVER, Newest(), parse)
    if found.kept != kept:
        raise Refusal("damaged", (f"bundle {kept.file} is not the one that was kept under that name",))
    return found


def _opened(
    data: bytes, record: Record, signers: Collection[bytes], now: float, newest: Newest, parse: Parse
) -> Opened:
    try:
        bundle = open_bundle(
            data, signers=signers, mesh=record.trust_domain, host=record.host, now=now, newest=newest
        )
    except Refused as refused:
        raise Refusal(refused.code, (f"bundle: {refused}",)) from None
    manifest = bundle.manifest
    if newest.digest and bundle.digest == record.reverted:
        text = "it was in force and was not confirmed in time: apply a newer one"
        raise Refusal("reverted", (f"bundle: {text}",), bundle.version)
    try:
        roots_of(manifest.roots)
    except Wrong as wrong:
        raise Refusal("roots", (f"bundle: {wrong}",), bundle.version) from None
    try:
        policy = parse(bundle.files)
    except Invalid as invalid:
        raise Refusal("policy", tuple(str(problem) for problem in invalid.problems), bundle.version) from None
    wanted = data[len(FORMAT) : len(FORMAT) + KEY_ID]
    signer = next(each for each in signers if key_id(each) == wanted)
    return Opened(bundle, policy, Kept(manifest.epoch, manifest.generation, bundle.digest, signer), data)


def taken(record: Record, new: Opened, now: float) -> Record:
    """The record with ``new`` in force."""
    manifest, digest = new.bundle.manifest, new.bundle.digest
    # What was not confirmed itself is nothing to go back to.
    fallback = record.fallback if record.deadline else record.current
    kept = [new.kept]
    for each in (record.entry(fallback), *record.kept):
        if each is not None and each not in kept:
            kept.append(each)
    trial = manifest.confirm_within > 0
    return msgspec.structs.replace(
        record,
        roots=manifest.roots,
        signers=manifest.signers,
        newest=Newest(manifest.epoch, manifest.generation, digest),
        kept=tuple(kept[:KEEP]),
        current=digest,
        fallback=fallback if trial and fallback != digest else "",
        deadline=now + manifest.confirm_within if trial else 0.0,
        reverted="",
    )


def confirmed(record: Record) -> Record:
    """The record once the bundle in force is to stay."""
    return msgspec.structs.replace(record, fallback="", deadline=0.0)


def gone_back(record: Record, before: Opened) -> Record:
    """The record with the bundle before in force again: its policy, its roots, what it denies.

    Signers stay the newest: or nobody could ever say anything new to this host.
    """
    return msgspec.structs.replace(
        record,
        roots=before.bundle.manifest.roots,
        current=before.bundle.digest,
        fallback="",
        deadline=0.0,
        reverted=record.current,
    )


def restored(record: Record, disk: Disk, parse: Parse) -> tuple[Opened | None, tuple[str, ...]]:
    """What is in force after a start, and what is wrong with those that should be: the best that can be read."""
    problems: list[str] = []
    first = (record.entry(record.current), record.entry(record.fallback))
    for kept in dict.fromkeys((*first, *record.kept)):
        if kept is None or kept.digest == record.reverted:
            continue
        try:
            return reopened(disk.bundle(kept), record, kept, parse), tuple(problems)
        except storage.Unusable as error:
            problems.append(f"bundle {kept.file}, which was kept, {error}")
        except Refusal as refusal:
            problems.extend(f"bundle {kept.file}, which was kept: {each}" for each in refusal.problems)
    return None, tuple(problems)
