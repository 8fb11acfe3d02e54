"""Whether this machine can have hosts: programs, rights, and what the kernel allows."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Where root's programs are; a user's PATH may be without.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PROGRAMS = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "ip": "iproute2",
    "mount": "mount",
    "nsenter": "util-linux",
    "perl": "perl",
    "ssh-keygen": "openssh-client",
    "tar": "tar",
    "unshare": "util-linux",
}

# Before a command: in a mount namespace that ends with it.
APART = ("unshare", "--mount", "--propagation", "private")

# What a host is made of, tried in namespaces that end with the try. Each line is one thing, and may fail for itself.
_TRIES = {
    "a mount namespace of its own (unshare --mount)": "true",
    "a cgroup v2 hierarchy (mount -t cgroup2)": "mount -t cgroup2 cgroup2 {0} && mkdir {0}/{1} && rmdir {0}/{1}",
    "overlay file systems (mount -t overlay)": (
        "mount -t tmpfs tmpfs {0} && mkdir {0}/lower {0}/upper {0}/work {0}/root"
        " && mount -t overlay overlay -o lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work {0}/root"
    ),
    "network namespaces with a bridge and veth pairs": (
        "unshare --net sh -ec"
        " 'ip link add br0 type bridge; ip link add v0 type veth peer name v1; ip link set v0 master br0'"
    ),
    "PID, IPC and UTS namespaces": "unshare --pid --fork --ipc --uts true",
}


class Impossible(Exception):
    """This machine doesn't allow such hosts, whatever is installed; the text says what is missing."""


class Missing(Exception):
    """Programs are not installed; the text says which, and how they would be."""


class Failed(Exception):
    """A host, or a command, did not do what was wanted; the text has the end of what it said."""


def environment() -> Mapping[str, str]:
    """For the programs that are run here: theirs, in English."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{PATH}", "LC_ALL": "C.UTF-8"}


def run(*command: str, timeout: float = 60.0, **more: Any) -> str:
    """Run a program of this machine and return its output. Raises Failed."""
    environ = {**environment(), **more.pop("extra", {})}
    try:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=timeout, check=False, **more
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[0]} took more than {timeout:g} s") from None
    if done.returncode:
        raise Failed(f"{' '.join(command)}: status {done.returncode}\n{done.stderr.strip()[-2000:]}")
    return done.stdout


def check() -> None:
    """Raises :class:`Impossible`, with everything that is in the way, or :class:`Missing`."""
    if os.geteuid() != 0:
        raise Impossible("hosts need root: namespaces, mounts and cgroups are made for them")
    if absent := [name for name in PROGRAMS if shutil.which(name, path=environment()["PATH"]) is None]:
        packages = " ".join(sorted({PROGRAMS[name] for name in absent}))
        raise Missing(f"not installed: {', '.join(absent)} (apt install {packages})")
    problems = []
    with tempfile.TemporaryDirectory(prefix="hostproxy-hosts-") as directory:
        for what, script in _TRIES.items():
            try:
                run(*APART, "sh", "-ec", script.format(directory, Path(directory).name))
            except Failed as failed:
                problems.append(f"{what}: {str(failed).splitlines()[-1]}")
    if problems:
        raise Impossible("the kernel, or who started this machine, doesn't allow\n  " + "\n  ".join(problems))
