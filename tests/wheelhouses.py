"""Wheelhouses for tests: one that is built, and more versions of the same."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "ansible" / "wheelhouse.py"


def build(directory: Path, source: Path = ROOT) -> str:
    """Have wheelhouse.py make one of ``source``; its version. Raises RuntimeError with what it said."""
    command = [sys.executable, str(BUILD), str(directory), "--source", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    version: str = json.loads((directory / "wheelhouse.json").read_text())["version"]
    return version


def another(
    made: Path, directory: Path, version: str, change: Callable[[str, bytes], bytes] = lambda name, content: content
) -> Path:
    """What is in ``made`` as another version, which takes no time. ``change`` may change files of hostproxy itself."""
    directory.mkdir()
    about = json.loads((made / "wheelhouse.json").read_text())
    before = about["version"]
    archive = directory / f"hostproxy-{version}.tar"
    digest = ""
    with tarfile.open(made / about["archive"]) as old, tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as new:
        for entry in old.getmembers():
            file = old.extractfile(entry)
            assert file is not None
            content = file.read()
            if entry.name.startswith(f"hostproxy-{before}-"):
                content = _renumbered(content, before, version, change)
                entry.name = entry.name.replace(before, version, 1)
                digest = hashlib.sha256(content).hexdigest()
            entry.size = len(content)
            new.addfile(entry, io.BytesIO(content))
    about |= {"version": version, "archive": archive.name, "sha256": hashlib.sha256(archive.read_bytes()).hexdigest()}
    (directory / "wheelhouse.json").write_text(json.dumps(about))
    lock = re.sub(
        r"(?m)^hostproxy==.*", f"hostproxy=={version} --hash=sha256:{digest}", (made / "requirements.lock").read_text()
    )
    (directory / "requirements.lock").write_text(lock)
    return directory


def _renumbered(wheel: bytes, before: str, version: str, change: Callable[[str, bytes], bytes]) -> bytes:
    buffer = io.BytesIO()
    own = f"hostproxy-{before}."  # what is about the wheel itself, and its data
    with zipfile.ZipFile(io.BytesIO(wheel)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if name.endswith(".dist-info/METADATA"):
                content = content.replace(f"\nVersion: {before}\n".encode(), f"\nVersion: {version}\n".encode(), 1)
            elif name.endswith(".dist-info/RECORD"):
                content = content.replace(own.encode(), f"hostproxy-{version}.".encode())
            new.writestr(name.replace(own, f"hostproxy-{version}.", 1), content)
    return buffer.getvalue()
