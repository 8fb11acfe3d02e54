"""Everything that a bug report needs, in one file, without secrets and of a bounded size."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import platform
import pwd
import ssl
import stat
import subprocess
import sys
import tarfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import msgspec
import tomli_w

from hostproxy.config import Config
from hostproxy.doctor import sockets, tokens
from hostproxy.doctor.findings import Finding
from hostproxy.doctor.redaction import Redaction

DIRECTORY = "hostproxy-debug"  # in the archive
PART = 4 * 1024 * 1024  # bytes of one file, before compression
TOTAL = 24 * 1024 * 1024  # bytes of all
KEPT = 4  # times PART, of each part until all are there
COMMAND_TIME = 10.0  # seconds for journalctl and systemctl
PAGES = ("status", "ready", "config", "workers", "discovery", "snapshot", "catalog")  # of the admin address
SYSCTLS = (
    *("kernel/osrelease", "kernel/random/boot_id", "fs/file-nr", "fs/nr_open"),
    *("net/core/somaxconn", "net/core/netdev_max_backlog", "net/ipv4/ip_local_port_range"),
    *("net/ipv4/ip_unprivileged_port_start", "net/ipv4/tcp_max_syn_backlog", "net/ipv4/tcp_fin_timeout"),
    *("net/ipv4/tcp_mem", "net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem", "net/ipv4/tcp_congestion_control"),
    *("net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max"),
)
FACTS = (
    *("loadavg", "meminfo", "uptime", "net/sockstat", "net/sockstat6"),
    *("pressure/cpu", "pressure/memory", "pressure/io"),
)
UNIT_PROPERTIES = (
    *("Id", "LoadState", "ActiveState", "SubState", "Result", "UnitFileState", "FragmentPath", "DropInPaths"),
    *("NRestarts", "ExecMainStatus", "ActiveEnterTimestamp", "WatchdogUSec", "User", "Group"),
    *("LimitNOFILE", "AmbientCapabilities", "MemoryCurrent", "TasksCurrent", "NeedDaemonReload", "StatusText"),
)

# Told by name, so that nobody has to wonder whether they are in it.
NEVER = {
    "private keys": "they are never read",
    "tokens": "their files are read only to take what is in them out of everything else",
    "policy files": "snapshot.json has the rules that are in force, without the values of headers",
    "access log": "it has the paths and peers of requests",
    "environment variables, command lines of other programs": "they may hold secrets of other programs",
}

Ask = Callable[[str], bytes]  # a page of the admin address; raises an exception whose text says why not
Command = Callable[[list[str]], bytes]  # its output; raises OSError or subprocess.SubprocessError


class Entry(msgspec.Struct, kw_only=True):
    """A line of the manifest."""

    name: str
    what: str
    bytes: int = 0  # as it is in the archive
    cut: int = 0  # bytes that were left out at its end
    left_out: str = ""  # why it is not there


class Bundle:
    """Collects parts."""

    def __init__(self, redaction: Redaction) -> None:
        self.redaction = redaction
        self.entries: list[Entry] = []
        self._parts: dict[str, bytes] = {}

    def add(self, name: str, what: str, make: Callable[[], bytes]) -> None:
        """Add what ``make`` returns, or say why it could not be made."""
        entry = Entry(name=name, what=what)
        self.entries.append(entry)
        try:
            content = make()
        except Exception as error:  # whatever goes wrong with one part, the others are needed all the more
            entry.left_out = self.redaction.text((str(error) or repr(error)).encode()).decode("utf-8", "replace")
            return
        content = self.redaction.text(content)
        # Cut to its size only when all secrets are known: of one that is cut in two, half would not be known any more.
        entry.cut = max(0, len(content) - KEPT * PART)
        self._parts[name] = content[: KEPT * PART]

    def _finish(self) -> None:
        """Hide in each part what only a later one has told to be a secret, and cut them to their sizes."""
        room = TOTAL
        for entry in self.entries:
            entry.left_out = self.redaction.text(entry.left_out.encode()).decode("utf-8", "replace")
            if entry.name not in self._parts:
                continue
            content = self.redaction.text(self._parts.pop(entry.name))
            if not room:
                entry.left_out, entry.cut = f"all parts together have {TOTAL // (1024 * 1024)} MiB already", 0
                continue
            kept = content[: min(PART, room)]
            entry.cut += len(content) - len(kept)
            entry.bytes = len(kept)
            room -= len(kept)
            self._parts[entry.name] = kept

    def archive(self, now: float) -> bytes:
        """The file: the manifest first, the rest in the order of being added. Nothing can be added any more."""
        self._finish()
        manifest = {
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
            "redacted": self.redaction.count,
            "redacted_only_there": self.redaction.only_there,
            "never": NEVER,
            "parts": self.entries,
        }
        listing = self.redaction.text(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        packed = io.BytesIO()
        with (
            gzip.GzipFile(fileobj=packed, mode="wb", mtime=int(now)) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name, content in {"manifest.json": listing, **self._parts}.items():
                member = tarfile.TarInfo(f"{DIRECTORY}/{name}")
                member.size, member.mtime, member.mode = len(content), int(now), 0o600
                tar.addfile(member, io.BytesIO(content))
        return packed.getvalue()


def collect(
    bundle: Bundle,
    path: str,
    config: Config | None,
    findings: Callable[[], list[Finding]],
    ask: Ask,
    logs: int,
    run: Command,
    proc: str = "/proc",
) -> None:
    """Add everything that there is to know of the host with the conf.toml at ``path``."""
    redact = bundle.redaction

    def page(name: str) -> Callable[[], bytes]:
        return lambda: _json(redact.document(json.loads(ask(f"/{name}"))))

    # First what names secrets, so that they are known in all that follows.
    bundle.add("conf.toml", "the configuration, without comments and secrets", lambda: _conf(path, redact))
    bundle.add("doctor.json", "what hostproxy doctor finds", lambda: _json(findings()))
    bundle.add("versions.json", "hostproxy, Python, OpenSSL and all packages", lambda: _json(_versions()))
    for name in PAGES:
        bundle.add(f"admin/{name}.json", f"/{name} of the admin address", page(name))
    bundle.add("admin/metrics.txt", "/metrics of the admin address", lambda: ask("/metrics"))
    bundle.add("kernel.txt", "settings and figures of the kernel", lambda: _kernel(proc))
    bundle.add("processes.txt", "limits and state of the daemon's processes", lambda: _processes(proc, ask))
    bundle.add("sockets.txt", "TCP sockets by state, and who listens", lambda: _sockets(proc))
    bundle.add("files.txt", "names, owners and modes of the daemon's files", lambda: _files(path, config))
    properties = ",".join(UNIT_PROPERTIES)
    bundle.add(
        "unit.txt",
        "what systemd says of hostproxy.service",
        lambda: run(["systemctl", "show", "hostproxy.service", f"--property={properties}", "--no-pager"]),
    )
    if logs:
        journal = ["journalctl", "--unit=hostproxy.service", f"--lines={logs}", "--output=short-iso"]
        journal += ["--no-pager", "--quiet"]
        bundle.add("journal.txt", f"the last {logs} lines of the daemon's log", lambda: run(journal))


def execute(command: list[str]) -> bytes:
    """Run a program of this system, within a time."""
    done = subprocess.run(  # noqa: S603  # fixed words, and a number that was checked
        command, capture_output=True, stdin=subprocess.DEVNULL, timeout=COMMAND_TIME, check=False
    )
    if done.returncode:
        said = done.stderr[:500].decode("utf-8", "replace").strip()
        raise OSError(f"{command[0]} ended with status {done.returncode}: {said}")
    return done.stdout


def _json(document: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _conf(path: str, redact: Redaction) -> bytes:
    """Without its comments, in which anything may stand."""
    with open(path, "rb") as file:
        content = file.read(tokens.CONF_SIZE)
    try:
        document = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        for name, value in tokens.pairs(content):
            redact.document(value, name)
        redact.text(content)
        raise ValueError("it is no TOML, so what is secret in it cannot be told; hostproxy check says where") from None
    return tomli_w.dumps(redact.document(document)).encode()


def _versions() -> Mapping[str, Any]:
    packages = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    return {
        "hostproxy": packages.get("hostproxy", ""),
        "python": sys.version,
        "executable": sys.executable,
        "openssl": ssl.OPENSSL_VERSION,
        "platform": platform.platform(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def _kernel(proc: str) -> bytes:
    lines = [f"uname: {' '.join(os.uname())}\n"]
    for name in SYSCTLS:
        with contextlib.suppress(OSError), open(f"{proc}/sys/{name}", encoding="utf-8") as file:
            lines.append(f"{name.replace('/', '.')}: {file.read(512).strip()}\n")
    for name in FACTS:
        with contextlib.suppress(OSError), open(f"{proc}/{name}", encoding="utf-8") as file:
            lines.append(f"\n== {name}\n{file.read(16 * 1024)}")
    return "".join(lines).encode()


def _processes(proc: str, ask: Ask) -> bytes:
    status = json.loads(ask("/status"))
    lines = []
    for pid in (status["pid"], *(worker["pid"] for worker in status["workers"] if worker["pid"])):
        lines.append(f"== process {pid}\n")
        try:
            lines.append(f"descriptors: {len(os.listdir(f'{proc}/{pid}/fd'))}\n")
        except OSError as error:
            lines.append(f"descriptors: {error.strerror}\n")
        for name in ("status", "limits", "cgroup"):
            with contextlib.suppress(OSError), open(f"{proc}/{pid}/{name}", encoding="utf-8") as file:
                lines.append(f"-- {name}\n{file.read(16 * 1024)}")
    return "".join(lines).encode()


_NAMES = (
    *("ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT"),
    *("CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV"),
)
_STATES = dict(enumerate(_NAMES, 1))  # as linux/tcp.h counts them


def _sockets(proc: str) -> bytes:
    """Like ss -s and ss -ltn. Peers are left out: who calls is nobody else's business."""
    every = list(sockets.table(proc, _STATES))
    counts = Counter(_STATES[each.state] for each in every)
    listening = [each for each in every if each.state == sockets.LISTEN]
    owners, everything = sockets.owners(proc, {each.inode for each in listening})
    lines = [f"{name}: {count}\n" for name, count in sorted(counts.items())]
    lines.append("\n" if everything else "\nnot every process could be looked at: that takes root\n")
    for each in sorted(listening):
        lines.append(f"LISTEN {each.address} {', '.join(map(str, owners.get(each.inode, []))) or f'user {each.uid}'}\n")
    return "".join(lines).encode()


def _files(path: str, config: Config | None) -> bytes:
    lines = []
    roots = [os.path.dirname(os.path.abspath(path))]
    if config is not None:
        roots += [config.host.state_directory, config.host.runtime_directory, config.identity.directory]
    for root in dict.fromkeys(filter(None, roots)):
        lines.append(f"== {root}\n")
        try:
            names = sorted(os.listdir(root))
        except OSError as error:
            lines.append(f"{error.strerror}\n")
            continue
        lines += [_line(os.path.join(root, name)) for name in (".", *names[:1000])]
    return "".join(lines).encode()


def _line(path: str) -> str:
    try:
        status = os.lstat(path)
    except OSError as error:
        return f"{path}: {error.strerror}\n"
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    changed = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(status.st_mtime))
    return f"{stat.filemode(status.st_mode)} {owner} {status.st_gid} {status.st_size} {changed} {path}\n"
