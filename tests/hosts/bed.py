"""Hosts on a wire: bringing them up, running commands in them, taking them down."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.hosts import access, base, keeper, machine
from tests.hosts.machine import APART, Failed, run

ROOT = Path("/var/tmp/hostproxy-hosts")
SOURCES = Path(__file__).parent.parent.parent
NAME = re.compile(r"[a-z][a-z0-9-]{0,8}")  # with two letters before it, an interface's name
BED = re.compile(r"[a-z0-9]{1,8}")
UP = 120.0  # seconds for a boot; it takes half of one
LOOK = 0.05

Done = subprocess.CompletedProcess[str]


class Host:
    """One host. Everything about it is in its directory, so that any process can find it."""

    def __init__(self, bed: Bed, name: str) -> None:
        self.bed = bed
        self.name = name
        self.directory = bed.directory / "hosts" / name
        self.cgroup = f"{bed.name}-{name}"

    @property
    def address(self) -> str:
        """Its IPv4 address."""
        return (self.directory / "address").read_text()

    @property
    def keeper(self) -> int:
        """The process that holds it; 0 when there is none."""
        with contextlib.suppress(OSError, ValueError):
            pid, began = (self.directory / "keeper").read_text().split()
            if _began(int(pid)) == began:  # and not somebody who has got its number since
                return int(pid)
        return 0

    def _payload(self) -> Path:
        """The host's own root of cgroups, seen through the keeper: the machine may have none mounted."""
        return Path(f"/proc/{self.keeper}/root{keeper.CGROUPS}/{self.cgroup}/payload")

    def _init(self) -> int:
        """Its process 1; 0 while there is none."""
        with contextlib.suppress(OSError):
            for pid in (self._payload() / "init.scope/cgroup.procs").read_text().split():
                status = Path(f"/proc/{pid}/status").read_text()
                if re.search(r"^NSpid:.*\t1$", status, re.MULTILINE):
                    return int(pid)
        return 0

    def command(self, *arguments: str) -> list[str]:
        """A command line for this machine that runs ``arguments`` there, as root. Raises Failed."""
        init = self._init()
        if not init:
            raise Failed(f"{self.name} is not up")
        inside = self._payload() / "from-outside"
        # A cgroup of its own, so that it belongs to no unit, and ends with the host.
        enter = f'mkdir -p "{inside}"; echo $$ > "{inside}/cgroup.procs"; exec "$@"'
        clean = ["env", "-i", f"PATH={machine.PATH}", "HOME=/root", "TERM=dumb", "LANG=C.UTF-8"]
        return ["sh", "-ec", enter, "sh", "nsenter", "--all", f"--target={init}", "--", *clean, *arguments]

    def run(self, *arguments: str, check: bool = True, timeout: float = 60.0, **more: Any) -> Done:
        """Run it there, as root, and return what it printed. With ``check``, raises Failed unless its status is 0."""
        done = subprocess.run(
            self.command(*arguments), text=True, capture_output=True, timeout=timeout, check=False, **more
        )
        if check and done.returncode:
            said = f"{done.stdout}{done.stderr}".strip()
            raise Failed(f"{self.name}: {' '.join(arguments)}: status {done.returncode}\n{said}")
        return done

    def write(self, path: str, content: str, mode: str = "0644", owner: str = "root:root") -> None:
        """Have a file there."""
        script = 'umask 077; mkdir -p "${1%/*}"; cat >"$1"; chown "$3" "$1"; chmod "$2" "$1"'
        self.run("sh", "-ec", script, "sh", path, mode, owner, input=content)

    def copy(self, source: Path, target: str) -> None:
        """Have a file, or what is in a directory, in the directory ``target`` there, as root's."""
        self.run("mkdir", "-p", target)
        place, what = (source, ".") if source.is_dir() else (source.parent, source.name)
        pack = ["tar", "--dereference", "--owner=0", "--group=0", "--numeric-owner", "-C", str(place), "-c", what]
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as packed:
            subprocess.run(self.command("tar", "-x", "-C", target), stdin=packed.stdout, check=True, timeout=120)
        if packed.returncode:
            raise Failed(f"{source}: tar ended with status {packed.returncode}")

    def wait(self) -> None:
        """Until it has booted. Raises Failed when it doesn't, or something in it failed to start."""
        deadline = time.monotonic() + UP
        state = ""
        while time.monotonic() < deadline:
            if not self.keeper:
                raise Failed(f"{self.name} ended while it booted:\n{self.console()}")
            with contextlib.suppress(Failed):
                state = self.run("systemctl", "is-system-running", "--wait", check=False, timeout=UP).stdout.strip()
            if state == "running":
                return
            if state == "degraded":
                failed = self.run("systemctl", "--failed", "--no-legend", "--plain").stdout
                raise Failed(f"{self.name} is up, but for\n{failed}")
            time.sleep(LOOK)
        raise Failed(f"{self.name} has not booted in {UP:g} s (state {state or 'unknown'}):\n{self.console()}")

    def reboot(self) -> None:
        """Have it boot again, by itself, and wait for that."""
        before = self._init()
        self.run("systemctl", "reboot", "--no-block")
        deadline = time.monotonic() + UP
        while self._init() in (0, before):
            if time.monotonic() > deadline:
                raise Failed(f"{self.name} does not reboot")
            time.sleep(LOOK)
        self.wait()

    def console(self) -> str:
        """The end of what it printed while it booted."""
        with contextlib.suppress(OSError):
            return (self.directory / "console.log").read_text(errors="replace")[-3000:]
        return ""


class Bed:
    """Some hosts and their wire. A context manager: when it is left they are gone."""

    def __init__(self, name: str = "hphosts", packages: Sequence[str] = ()) -> None:
        """``packages``: of Debian, beside the usual ones."""
        if not BED.fullmatch(name):
            raise ValueError(f"{name}: a bed's name is of 1 to 8 letters and digits")
        self.name = name
        self.directory = ROOT / name
        self.wire = f"/run/netns/{name}"
        self.inventory = self.directory / access.INVENTORY
        self._packages = packages

    def __enter__(self) -> Bed:
        self.down_all()  # what somebody left who had no time to tidy up
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.down_all()

    def host(self, name: str) -> Host:
        """One of its hosts."""
        return Host(self, name)

    def hosts(self) -> list[Host]:
        """Those that are there, in whatever state."""
        return [self.host(path.parent.name) for path in sorted(self.directory.glob("hosts/*/address"))]

    def enter(self, *command: str) -> list[str]:
        """A command line that runs ``command`` on the wire: a program of this machine, beside the hosts."""
        return ["nsenter", f"--net={self.wire}", "--", *command]

    # Up

    def up(self, name: str, address: str) -> Host:
        """Boot a host with this IPv4 address (/24). Raises Impossible, Missing, Failed, or ValueError."""
        if not NAME.fullmatch(name):
            raise ValueError(f"{name}: a host's name is a letter and up to 8 letters, digits and -")
        network = ipaddress.ip_interface(f"{address}/24").network
        if ipaddress.ip_address(address) in (network[0], network[1], network[255]):
            raise ValueError(f"{address}: a network's first address is this machine's own, and its last is nobody's")
        machine.check()
        made = base.prepare(ROOT, self._packages)
        host = self.host(name)
        with self._locked():
            if host.directory.exists():
                raise Failed(f"{name} is there already: down {name} comes first")
            host.directory.mkdir(parents=True)
            for part in ("upper", "work", "root"):
                (host.directory / part).mkdir()
            (host.directory / "address").write_text(address)
            self._files()
            self._furnish(host)
            self._connect(host, str(network[1]))
            self._start(host, made)
        host.wait()
        with self._locked():
            for other in self.hosts():
                if other.keeper:
                    other.write("/etc/hosts", self._names())
        return host

    def _furnish(self, host: Host) -> None:
        """What distinguishes it from the base image."""
        upper = host.directory / "upper"
        (upper / "root/.ssh").mkdir(0o700, parents=True)
        (upper / "root").chmod(0o700)
        shutil.copy(self.directory / f"{access.KEY}.pub", upper / "root/.ssh/authorized_keys")
        (upper / "etc/ssh").mkdir(parents=True)
        (upper / "etc/hostname").write_text(f"{host.name}\n")
        (upper / "etc/hosts").write_text(self._names())
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(upper / "etc/ssh/ssh_host_ed25519_key"))

    def _connect(self, host: Host, ours: str) -> None:
        """Its network namespace, and a cable from there to the bridge."""
        if not os.path.exists(self.wire):
            run("ip", "netns", "add", self.name)
            run(*self.enter("ip", "link", "set", "lo", "up"))
            run(*self.enter("ip", "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0"))
            run(*self.enter("ip", "link", "set", "br0", "up"))
        run(*self.enter("ip", "address", "replace", f"{ours}/24", "dev", "br0"))
        namespace = host.cgroup
        run("ip", "netns", "add", namespace)
        # The address decides it, so that a neighbour's cache stays right when the host is made again.
        mac = "52:54:" + ":".join(f"{part:02x}" for part in ipaddress.ip_address(host.address).packed)
        peer = ["peer", "name", "host0", "address", mac, "netns", namespace]
        run(*self.enter("ip", "link", "add", f"v-{host.name}", "type", "veth", *peer))
        run(*self.enter("ip", "link", "set", f"v-{host.name}", "master", "br0", "up"))
        for step in (
            ["link", "set", "lo", "up"],
            ["link", "set", "host0", "up"],
            ["address", "add", f"{host.address}/24", "dev", "host0"],
            ["route", "add", "default", "via", ours],
        ):
            run("ip", "-netns", namespace, *step)

    def _start(self, host: Host, made: base.Base) -> None:
        settings = keeper.Settings(
            name=host.name,
            cgroup=host.cgroup,
            network=f"/run/netns/{host.cgroup}",
            root=str(made.root),
            nspawn=made.nspawn,
            libraries=made.libraries,
        )
        (host.directory / "keeper.json").write_text(json.dumps(settings._asdict()))
        with (host.directory / "console.log").open("wb") as log:
            process = subprocess.Popen(
                [*APART, sys.executable, "-m", "tests.hosts.keeper", str(host.directory)],
                cwd=SOURCES,
                env=machine.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # it outlives this process, until down
            )
        process.returncode = 0  # nobody waits for it: no warning about that
        (host.directory / "keeper").write_text(f"{process.pid} {_began(process.pid)}")

    # Down

    def down(self, *names: str) -> None:
        """Cut the power of hosts, and remove them. Raises Failed for names that are not there."""
        hosts = [self.host(name) for name in names]
        for host in hosts:
            if not host.directory.exists():
                raise Failed(f"there is no host {host.name}")
        with self._locked():
            for host in hosts:
                self._remove(host)
            self._files()

    def down_all(self) -> None:
        """Take all of them down, and the wire; what makes them (the base image) stays."""
        names = [path.name for path in self.directory.glob("hosts/*")]
        if names:
            self.down(*names)
        if os.path.exists(self.wire):
            run("ip", "netns", "delete", self.name)

    def _remove(self, host: Host) -> None:
        if pid := host.keeper:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run(*APART, "sh", "-ec", _REMOVE_CGROUPS, "sh", str(keeper.CGROUPS), host.cgroup)
        # With its namespace goes its end of the cable, and with that the other.
        if os.path.exists(f"/run/netns/{host.cgroup}"):
            run("ip", "netns", "delete", host.cgroup)
        shutil.rmtree(host.directory)

    # Files

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _names(self) -> str:
        lines = [f"{host.address} {host.name}" for host in self.hosts()]
        return "\n".join(["127.0.0.1 localhost", "::1 localhost", *lines, ""])

    def _files(self) -> None:
        """For ssh and Ansible, as the hosts are now."""
        access.write(self.directory, [(host.name, host.address) for host in self.hosts()], self.enter())


# Ends all that is left in a cgroup, and removes it: it outlives the mount that it was made in.
_REMOVE_CGROUPS = """
mount -t cgroup2 cgroup2 "$1"
cd "$1"
[ -d "$2" ] || exit 0
echo 1 >"$2/cgroup.kill"
for i in $(seq 100); do
    find "$2" -depth -type d -exec rmdir {} + 2>/dev/null || true
    [ -d "$2" ] || exit 0
    sleep 0.05
done
echo "$2: does not end" >&2
exit 1
"""


def _began(pid: int) -> str:
    """When a process began, as the kernel counts; "" when there is none, or it has ended and nobody took note."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state == "Z" else fields[18]
