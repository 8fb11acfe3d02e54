"""The process that holds one host, in a mount namespace of its own, and starts it again when it reboots.

``unshare --mount --propagation private python -m tests.hosts.keeper DIRECTORY``; everything that it mounts ends with
it. The directory is the host's, and has ``keeper.json``: see :class:`Settings`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

CGROUPS = Path("/sys/fs/cgroup")
REBOOT = 133  # the status of systemd-nspawn when the host asks for it

# What a container is usually denied, and a unit on a plain host may ask for.
CAPABILITIES = ("CAP_BPF", "CAP_IPC_LOCK", "CAP_NET_ADMIN", "CAP_PERFMON", "CAP_SYSLOG", "CAP_WAKE_ALARM")
SYSTEM_CALLS = ("add_key", "bpf", "keyctl", "request_key")


class Settings(NamedTuple):
    """What the keeper is told, by the bed."""

    name: str
    cgroup: str  # the name of the host's cgroup
    network: str  # the path of its network namespace
    root: str  # of the base image
    nspawn: str
    libraries: str


def mount(kind: str, point: Path, options: str = "") -> None:
    subprocess.run(["mount", "-t", kind, *(["-o", options] if options else []), kind, str(point)], check=True)


def spawn(settings: Settings, root: Path, cgroup: Path) -> subprocess.Popen[bytes]:
    """Start the host's init, in the host's cgroup."""
    command = [
        *(settings.nspawn, "--boot", "--register=no", "--keep-unit", "--console=read-only"),
        *(f"--directory={root}", f"--machine={settings.name}", f"--hostname={settings.name}"),
        *("--resolv-conf=off", "--timezone=off", "--link-journal=no"),
        f"--network-namespace-path={settings.network}",
        f"--capability={','.join(CAPABILITIES)}",
        f"--system-call-filter={' '.join(SYSTEM_CALLS)}",
    ]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": settings.libraries,
        "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",  # net.* of sysctl are the host's own
    }
    # The shell moves itself, so that not one process of the host is ever anywhere else.
    enter = f'echo $$ > "{cgroup}/cgroup.procs"; exec "$@"'
    return subprocess.Popen(["sh", "-ec", enter, "sh", *command], env=environment)


def main(directory: Path) -> int:
    """Hold the host until it powers off."""
    settings = Settings(**json.loads((directory / "keeper.json").read_text()))
    # systemd-nspawn looks at both. It is to see cgroup v2 and nothing else, whatever this machine has.
    Path("/run/systemd").mkdir(exist_ok=True)
    mount("tmpfs", Path("/run/systemd"), "mode=755")
    mount("cgroup2", CGROUPS)
    cgroup = CGROUPS / settings.cgroup
    cgroup.mkdir(exist_ok=True)
    root = directory / "root"
    mount("overlay", root, f"lowerdir={settings.root},upperdir={directory}/upper,workdir={directory}/work")
    while spawn(settings, root, cgroup).wait() == REBOOT:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
