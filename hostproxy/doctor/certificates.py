"""The identities of this host, read as the daemon reads them: from files, or as the controller gave them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from hostproxy.config import Config
from hostproxy.config_controller import MODE
from hostproxy.doctor.findings import Around, Group, span
from hostproxy.mesh.document import Invalid, Problem
from hostproxy.snapshot import Identity

HOST = "host"
# Of the life of a certificate. The controller's are renewed at half of it, so one in its last 40% was not.
LATE = {MODE: 0.4, "files": 0.2}
DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Held:
    """What could be read."""

    identities: Mapping[str, Identity] = field(default_factory=dict, repr=False)  # services and "host"; with keys
    authorities: bytes = b""  # PEM
    validity: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # begin and end, Unix seconds
    authorities_end: float = 0.0  # Unix seconds; 0.0: unknown
    problems: tuple[Problem, ...] = ()
    hidden: str = ""  # why it could not be looked at; that is no fault


def examine(group: Group, around: Around) -> None:
    """Look at each."""
    held = load(around, [service.name for service in around.config.services])
    now = around.now()
    if held.hidden:
        group.skip("files", held.hidden, "run it as root")
    for problem in held.problems:
        group.fail("files", str(problem), problem.hint or "see hostproxy status")
    if not held.hidden and not held.problems:
        group.ok("files", f"{len(held.identities)} are under the roots, match their keys and name who runs here")
    times = dict(held.validity) or _shown(around)
    if not times:
        if not held.problems:
            group.skip("times", "no certificate can be seen")
        return
    _times(group, times, LATE[around.config.identity.mode], now)
    if held.authorities_end and held.authorities_end - now < 30 * DAY:
        found = f"the first root ends in {span(held.authorities_end - now)}"
        group.warn("roots", found, "rotate it: hostproxy-controller authority, or replace [identity.files] ca")


def _times(group: Group, times: Mapping[str, tuple[float, float]], late: float, now: float) -> None:
    bad = False
    for name, (start, end) in sorted(times.items()):
        left = end - now
        if left <= 0:
            bad = True
            group.fail("times", f"that of {name} has expired", "replace it; with a controller see the group controller")
        elif end - start > 0 and left < late * (end - start):
            bad = True
            found = f"that of {name} ends in {span(left)}, and should have been renewed"
            group.warn("times", found, "renew it; with a controller see the group controller")
    if not bad:
        name, (_, end) = min(times.items(), key=lambda item: item[1][1])
        group.ok("times", f"the first to end is that of {name}, in {span(end - now)}")


def concerns(config: Config, problem: Problem) -> bool:
    """Whether a problem is one of certificates."""
    directory = config.identity.directory
    return problem.file == config.identity.authorities_path or (
        bool(directory) and (problem.file == directory or os.path.dirname(problem.file) == directory)
    )


def starts(around: Around) -> dict[str, float]:
    """When each certificate begins to hold, of those that can be seen; also of those that are refused for it."""
    found = {name: validity[0] for name, validity in _shown(around).items()}
    directory = around.config.identity.directory
    for name in (HOST, *(service.name for service in around.config.services)) if directory else ():
        try:
            with open(os.path.join(directory, f"{name}.pem"), "rb") as file:
                found[name] = _begin(file.read(256 * 1024))
        except (OSError, ValueError):
            continue  # the group certificates says what is wrong with it
    return found


def _begin(content: bytes) -> float:
    from cryptography import x509

    return x509.load_pem_x509_certificates(content)[0].not_valid_before_utc.timestamp()


def load(around: Around, services: list[str]) -> Held:
    """The identity of the host, and those of ``services``."""
    if around.config.identity.mode == MODE:
        return _given(around, services)
    return _brought(around, services)


def _shown(around: Around) -> dict[str, tuple[float, float]]:
    """What the daemon says."""
    if around.status is None:
        return {}
    identities = around.status["certificates"]["identities"]
    return {each["name"]: (each["not_before"], each["not_after"]) for each in identities}


def _brought(around: Around, services: list[str]) -> Held:
    from hostproxy.identity import files

    config = around.config
    if not (config.identity.directory and config.identity.authorities_path):
        return Held(hidden="conf.toml does not say where they are")
    try:
        found = files.load(config.identity, services, config.mesh.trust_domain, config.host.name, around.now)
    except Invalid as invalid:
        if os.geteuid() != 0 and all("cannot be read by user" in problem.message for problem in invalid.problems):
            return Held(hidden=f"{config.identity.directory} is not for our eyes")
        return Held(problems=tuple(invalid.problems))
    validity = {name: (each.not_before, each.not_after) for name, each in found.validity.items()}
    return Held(found.by_name, found.authorities, validity, found.authorities_end)


def _given(around: Around, services: list[str]) -> Held:
    """Those that the controller gave, out of the state directory."""
    from cryptography import x509

    from hostproxy.mesh import storage
    from hostproxy.steering import certificates
    from hostproxy.steering.record import Disk

    config, now = around.config, around.now()
    disk = Disk(config.host.state_directory)
    if not os.access(config.host.state_directory, os.R_OK | os.X_OK):
        return Held(hidden=f"{config.host.state_directory} is not for our eyes")
    record, problem = disk.load()
    if record is None:
        what = problem or "the controller has given nothing yet"
        return Held(problems=(Problem(config.host.state_directory, 0, 0, "", what, "see the group controller"),))
    roots = certificates.roots_of(record.roots)
    identities, validity, problems = {}, {}, []
    for name in (HOST, *services):
        wanted = certificates.wanted_identity(config.mesh.trust_domain, config.host.name, name)
        path = os.path.join(disk.identity, f"{name}.pem")
        try:
            content, written = disk.load_identity(name)
            held = certificates.stored(content, name, wanted, written, now)
            validity[name] = (held.validity.not_before, held.validity.not_after)
            certificates.verify(x509.load_pem_x509_certificates(held.identity.certificate), roots, now)
        except (certificates.Wrong, storage.Unusable, OSError) as error:
            hint = "hostproxy-controller service assign, and see the group controller"
            problems.append(Problem(path, 0, 0, "", str(error), hint))
        else:
            identities[name] = held.identity
    end = min(root.not_valid_after_utc.timestamp() for root in roots)
    return Held(identities, "".join(record.roots).encode("ascii"), validity, end, tuple(problems))
