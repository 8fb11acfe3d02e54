"""What hosts are made from: systemd-nspawn and mmdebstrap, fetched and unpacked, and the base image of Debian."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.hosts.machine import Impossible, environment, run

RELEASE = "bookworm"  # Debian 12
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TOOLS = ("mmdebstrap", "systemd-container", "libsystemd-shared")
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "libpam-systemd"),  # a host with its service manager
    *("ca-certificates", "curl", "iproute2", "nftables", "procps", "sudo"),
    *("openssh-server", "python3", "python3-apt", "python3-venv"),  # Ansible, and hostproxy itself
)
# They would look for the network, or print on a console that nobody reads.
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "console-getty.service", "e2scrub_all.timer", "fstrim.timer")

FETCH = 120.0  # seconds for the lists and the programs; they take 2
BUILD = 600.0  # seconds for the base image; it takes half a minute


class Base(NamedTuple):
    """Ready to make hosts from."""

    root: Path  # of the image; nobody writes to it
    tools: Path  # the root below which the programs are unpacked

    @property
    def nspawn(self) -> str:
        """The program that a host runs in."""
        return str(self.tools / "usr/bin/systemd-nspawn")

    @property
    def libraries(self) -> str:
        """For $LD_LIBRARY_PATH of that program."""
        return str(self.tools / f"usr/lib/{platform.machine()}-linux-gnu/systemd")


def prepare(directory: Path, packages: Sequence[str] = ()) -> Base:
    """Have a base image with ``packages`` beside the usual ones below ``directory``; made once, for all beds.

    Raises Impossible where apt has no Debian to make it from, and Failed.
    """
    names = (*PACKAGES, *sorted(packages))
    key = hashlib.sha256("\n".join((*names, Path(__file__).read_text())).encode()).hexdigest()[:12]
    base = Base(directory / f"base-{key}" / "root", directory / f"tools-{key}")
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / "lock"):
        if not base.root.exists():
            run("apt-get", "-qq", "update", timeout=FETCH)
            _fetch(base.tools)
            _build(base, names)
    return base


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(tools: Path) -> None:
    """Download the programs, which apt checks, and unpack them."""
    shutil.rmtree(tools, ignore_errors=True)
    tools.mkdir()
    # Not as the user _apt, who can't write here.
    run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *TOOLS, timeout=FETCH, cwd=tools)
    for package in tools.glob("*.deb"):
        run("dpkg-deb", "-x", str(package), str(tools), timeout=FETCH)
        package.unlink()


def _sources() -> str:
    """Where this machine's apt gets Debian from, as lines of a sources.list."""
    line = "$(ORIGIN)|$(CODENAME)|$(REPO_URI) $(RELEASE) $(COMPONENT)"
    found = set()
    for target in run("apt-get", "indextargets", "--format", line, "Identifier: Packages", timeout=FETCH).splitlines():
        origin, codename, place = target.split("|")
        if origin == "Debian" and codename.startswith(RELEASE):
            found.add(f"deb [signed-by={KEYS}] {place}\n")
    if not found:
        raise Impossible(f"the base image is of Debian {RELEASE}, of which this machine's apt knows no source")
    return "".join(sorted(found))


def _proxy() -> str:
    """The HTTP proxy of apt, which mmdebstrap's own apt is to use as well; "" when there is none."""
    return run("apt-config", "--format", "%v", "dump", "Acquire::http::Proxy", timeout=FETCH).strip()


def _build(base: Base, packages: Sequence[str]) -> None:
    made = base.root.with_name("making")
    shutil.rmtree(base.root.parent, ignore_errors=True)
    made.parent.mkdir()
    proxy = _proxy()
    run(
        *("perl", str(base.tools / "usr/bin/mmdebstrap"), "--quiet", "--mode=root", "--variant=minbase"),
        *(f"--include={','.join(packages)}", "--aptopt=APT::Install-Recommends false"),
        *("--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*"),
        *(RELEASE, str(made), "-"),
        timeout=BUILD,
        input=_sources(),
        extra={
            "PATH": f"{base.tools}/usr/bin:{environment()['PATH']}",  # it has helpers
            **({"http_proxy": proxy} if proxy else {}),
        },
    )
    etc = made / "etc"
    (etc / "machine-id").write_text("")  # each host makes its own
    for leftover in ("hostname", "resolv.conf"):
        (etc / leftover).unlink(missing_ok=True)
    (etc / "resolv.conf").touch()
    (etc / "default/locale").write_text("LANG=C.UTF-8\n")
    (etc / "ssh/sshd_config.d/hosts.conf").write_text("UseDNS no\n")
    for key in etc.glob("ssh/ssh_host_*"):
        key.unlink()
    for unit in MASKED:
        (etc / "systemd/system" / unit).symlink_to("/dev/null")
    (made / "var/log/journal").mkdir(exist_ok=True)  # kept over a reboot
    made.rename(base.root)
