#!/usr/bin/env python3
"""Builds a wheelhouse: everything that a host needs to install one version of hostproxy without a package index.

::

    wheelhouse.py DIRECTORY [--source TREE] [--lock REQUIREMENTS]

DIRECTORY gets three files, and is what the roles' ``hostproxy_wheelhouse`` names:

    hostproxy-VERSION.tar   the wheels of hostproxy and of all that it needs, that of pip, and systemd/
    requirements.lock       each with its version and SHA-256, as ``pip install --require-hashes`` wants it
    wheelhouse.json         the version, the Python and the machine that it is for, and the SHA-256 of the tar

Run it with the Python version of the hosts, on their kind of machine: wheels with compiled code are for one of each.
What is not in the source tree comes from the index that pip is configured for; with ``--lock``, in the versions that an
earlier requirements.lock has.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

PROJECT = "hostproxy"
PIP = "pip"
LOCK = "requirements.lock"
UNITS = "systemd"
PINNED = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)")


class Failed(Exception):
    """There is no wheelhouse; the text says why."""


class Wheel(NamedTuple):
    """One of the files."""

    name: str  # as PEP 503 compares it
    version: str
    path: Path
    digest: str  # SHA-256, hexadecimal


def main(arguments: list[str] | None = None) -> int:
    """Build it. 0: all is there, 1: nothing was written."""
    parser = argparse.ArgumentParser(description="build what hosts install hostproxy from, without a package index")
    parser.add_argument("directory", metavar="DIRECTORY", type=Path, help="where to; its files are replaced")
    tree = Path(__file__).resolve().parent.parent
    parser.add_argument("--source", metavar="TREE", type=Path, default=tree, help=f"hostproxy's sources ({tree})")
    parser.add_argument("--lock", metavar="FILE", type=Path, help="take the versions of an earlier requirements.lock")
    parsed = parser.parse_args(arguments)
    try:
        version = build(parsed.directory, parsed.source, parsed.lock)
    except (Failed, OSError) as error:
        sys.stderr.write(f"wheelhouse.py: {error}\n")
        return 1
    sys.stdout.write(f"{PROJECT} {version} in {parsed.directory}\n")
    return 0


def build(directory: Path, source: Path, lock: Path | None = None) -> str:
    """Write the three files; returns the version. Raises :class:`Failed` or OSError."""
    with tempfile.TemporaryDirectory() as name:
        wheels = _wheels(Path(name), source.resolve(), lock)
        by_name = {wheel.name: wheel for wheel in wheels}
        for needed in (PROJECT, PIP):
            if needed not in by_name:
                raise Failed(f"there is no wheel of {needed}: is {source} the source tree of {PROJECT}?")
        if not (source / UNITS).is_dir():
            raise Failed(f"{source / UNITS}: there are no units: is {source} the source tree of {PROJECT}?")
        version = by_name[PROJECT].version
        text = _lock_text([wheel for wheel in wheels if wheel.name != PIP])
        directory.mkdir(parents=True, exist_ok=True)
        archive = directory / f"{PROJECT}-{version}.tar"
        _archive(archive, wheels, source / UNITS)
    about = {
        "version": version,
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "machine": platform.machine(),
        "archive": archive.name,
        "sha256": _digest(archive),
        "pip": by_name[PIP].path.name,
    }
    (directory / LOCK).write_text(text)
    (directory / "wheelhouse.json").write_text(json.dumps(about, indent=2) + "\n")
    return version


def _wheels(scratch: Path, source: Path, lock: Path | None) -> list[Wheel]:
    """Have pip make them, sorted by name."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-input"]
    if lock is not None:
        pins = scratch / "constraints.txt"
        # Without the project, whose version is that of the source tree.
        found = [match for match in PINNED.finditer(lock.read_text()) if _normal(match[1]) != PROJECT]
        if not found:
            raise Failed(f"{lock}: has no line NAME==VERSION")
        pins.write_text("".join(f"{match[0]}\n" for match in found))
        command += ["--constraint", str(pins)]
    # A copy: building leaves a directory in the tree, and would take in what an earlier build left there.
    copy = scratch / "source"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".*", "build", "tests", "*.egg-info", "__pycache__"))
    target = scratch / "wheels"
    done = subprocess.run(  # noqa: S603  # pip, with paths that the caller gave
        [*command, "--wheel-dir", str(target), str(copy), PIP], check=False
    )
    if done.returncode:
        raise Failed(f"pip wheel failed with status {done.returncode}; what it said is above")
    wheels = []
    for path in target.glob("*.whl"):
        name, version = path.name.split("-")[:2]
        wheels.append(Wheel(_normal(name), version, path, _digest(path)))
    return sorted(wheels)


def _lock_text(wheels: list[Wheel]) -> str:
    python, machine = platform.python_version_tuple(), platform.machine()
    head = f"# Made by wheelhouse.py for Python {python[0]}.{python[1]} on {machine}.\n"
    return head + "".join(f"{each.name}=={each.version} --hash=sha256:{each.digest}\n" for each in wheels)


def _archive(path: Path, wheels: list[Wheel], units: Path) -> None:
    """Write the tar: the same files make the same bytes."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for unit in sorted(each for each in units.rglob("*") if each.is_file()):
            _add(archive, f"{UNITS}/{unit.relative_to(units)}", unit.read_bytes())
        for wheel in wheels:
            _add(archive, wheel.path.name, wheel.path.read_bytes())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = 0o644
    archive.addfile(entry, io.BytesIO(content))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _normal(name: str) -> str:
    """The name of a distribution as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
