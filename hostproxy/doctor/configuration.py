"""conf.toml, the files that it names, who may read them, and the directories that the daemon writes to."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from collections.abc import Iterator

from hostproxy.config import Config
from hostproxy.config_controller import MODE
from hostproxy.doctor import certificates
from hostproxy.doctor.findings import Around, Group, User, some


def examine(group: Group, around: Around) -> None:
    """Look at all of it."""
    _valid(group, around)
    _in_force(group, around)
    _secrets(group, around)
    _directories(group, around)


def _valid(group: Group, around: Around) -> None:
    """As ``hostproxy check`` has it; certificates have a group of their own."""
    problems = [problem for problem in around.problems if not certificates.concerns(around.config, problem)]
    for problem in problems:
        group.fail("valid", str(problem), problem.hint or "see hostproxy check")
    for warning in around.warnings:
        if not certificates.concerns(around.config, warning):
            group.warn("valid", str(warning), warning.hint or "see hostproxy check")
    if not problems:
        group.ok("valid", f"{around.config.path} and the files that it names")


def _in_force(group: Group, around: Around) -> None:
    """Whether the daemon runs by what the file says now."""
    from hostproxy.admin.moment import plain

    document = around.ask("/config", "host")
    if document is None:
        return  # the group "daemon" says why
    wanted = plain(around.config)
    # The number of cores may differ between the daemon and us.
    different = [name for name in wanted if name not in ("warnings", "workers") and document.get(name) != wanted[name]]
    if document.get("path") != wanted["path"]:
        found = f"the daemon runs by {document.get('path')}, not by {wanted['path']}"
        group.warn("in force", found, f"name that file: -c {document.get('path')}")
    elif different:
        found = f"the daemon runs by another content of {', '.join(different)}"
        group.warn("in force", found, "have it read again: systemctl reload hostproxy, or SIGHUP")
    else:
        group.ok("in force", "the daemon runs by what the file says")


def _secrets(group: Group, around: Around) -> None:
    """Keys are their owner's alone; tokens may be a group's."""
    count, hidden = 0, []
    for path, others in _private_files(around.config):
        try:
            status = os.stat(path)
        except FileNotFoundError:
            continue  # whether it is needed, "valid" and "certificates" say
        except OSError:
            hidden.append(path)
            continue
        count += 1
        mode, quoted = stat.S_IMODE(status.st_mode), shlex.quote(path)
        if mode & others:
            fix = f"chmod {'600' if others == 0o077 else 'o='} {quoted}"
            group.fail("secrets", f"{path} is open to others (mode {mode:04o})", fix)
        if not permits(around.user, status, 4):
            fix = f"chown {around.user.name} {quoted}"
            group.fail("secrets", f"user {around.user.name} ({around.user.how}) may not read {path}", fix)
    if hidden:
        group.skip("secrets", f"not for our eyes: {some(hidden)}", "run it as root")
    if not any(finding.check == "secrets" for finding in group.findings):
        group.ok("secrets", f"{count} files of keys and tokens are closed to others")


def _private_files(config: Config) -> Iterator[tuple[str, int]]:
    """Paths, with the permissions that they must not have."""
    if config.identity.directory:
        for name in ("host", *(service.name for service in config.services)):
            yield os.path.join(config.identity.directory, f"{name}.key"), 0o077
    if config.identity.mode == MODE:
        yield config.controller.join_token_file, 0o007
    consul = config.discovery.consul
    if config.discovery.backend == "consul":
        yield consul.token_file, 0o007
        yield consul.key, 0o007


def _directories(group: Group, around: Around) -> None:
    config = around.config
    wanted = {"state_directory": config.host.state_directory, "runtime_directory": config.host.runtime_directory}
    if config.log.access_path:
        wanted["[log.access] path"] = os.path.dirname(config.log.access_path)
    good = []
    for name, path in wanted.items():
        if not path:
            continue
        if not os.path.exists(path) and _made_by_systemd(path, around):
            good.append(path)
            continue
        made, user, quoted = _nearest(path), around.user, shlex.quote(path)
        try:
            status = os.stat(made)
        except OSError as error:
            group.skip("directories", f"{name} {path}: {error.strerror}", "run it as root")
            continue
        if not stat.S_ISDIR(status.st_mode):
            group.fail("directories", f"{name}: {made} is no directory", "name another one in conf.toml")
        elif not permits(user, status, 3):
            fix = f"install -d -o {user.name} -m 700 {quoted}"
            group.fail("directories", f"{name}: user {user.name} ({user.how}) may not write to {made}", fix)
        elif _full(made):
            group.fail("directories", f"{name}: the disk of {made} is full", "make room there")
        else:
            good.append(path)
    if good:
        group.ok("directories", f"user {around.user.name} can write to {', '.join(good)}")


def _made_by_systemd(path: str, around: Around) -> bool:
    """Whether the unit has it made at the start, for the daemon's user."""
    return any(
        path == os.path.join(parent, name)
        for parent, key in (("/run", "RuntimeDirectory"), ("/var/lib", "StateDirectory"), ("/var/log", "LogsDirectory"))
        for name in around.unit.get(key, "").split()
    )


def _nearest(path: str) -> str:
    """The directory itself, or the one that it is made in."""
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def _full(path: str) -> bool:
    with contextlib.suppress(OSError):
        return os.statvfs(path).f_bavail == 0
    return False


def permits(user: User, status: os.stat_result, wanted: int) -> bool:
    """Whether the permission bits give ``user`` all of ``wanted`` (4 read, 2 write, 1 search)."""
    if user.uid == 0:
        return True
    if status.st_uid == user.uid:
        bits = status.st_mode >> 6
    elif status.st_gid in user.groups:
        bits = status.st_mode >> 3
    else:
        bits = status.st_mode
    return bits & wanted == wanted
