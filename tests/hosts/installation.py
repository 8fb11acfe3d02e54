"""hostproxy on a host, as it is installed by hand: from wheels, without an index, with the units of systemd/."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from tests.hosts.bed import SOURCES, Host
from tests.hosts.machine import run

PREFIX = "/opt/hostproxy"
VERSION = version("hostproxy")
PROGRAM = f"{PREFIX}/current/bin/hostproxy"
CONTROLLER = f"{PREFIX}/current/bin/hostproxy-controller"
BUILT = ("LICENSE", "README.md", "controller", "hostproxy", "pyproject.toml", "setup.cfg")

_INSTALL = """
python3 -m venv "$1/$2"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
"$1/$2/bin/pip" install -q --no-index --find-links /root/wheels hostproxy
ln -sfn "$2" "$1/current"
cd /root/systemd
install -m 644 *.service *.socket /etc/systemd/system/
install -D -m 644 -t /etc/sysusers.d sysusers.d/*
install -D -m 644 -t /etc/tmpfiles.d tmpfiles.d/*
systemd-sysusers
systemd-tmpfiles --create
systemctl daemon-reload
"""


def wheels(directory: Path) -> Path:
    """hostproxy and what it needs, as wheels in a directory; the sources stay as they are."""
    sources = directory / "sources"
    sources.mkdir()
    for name in BUILT:
        path = SOURCES / name
        if path.is_dir():
            shutil.copytree(path, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, sources)
    made = directory / "wheels"
    run(sys.executable, "-m", "pip", "wheel", "-q", "-w", str(made), str(sources), timeout=300)
    return made


def install(host: Host, wheels: Path) -> None:
    """Have hostproxy, its users, directories and units on ``host``; nothing is started."""
    host.copy(wheels, "/root/wheels")
    host.copy(SOURCES / "systemd", "/root/systemd")
    host.run("sh", "-ec", _INSTALL, "sh", PREFIX, VERSION, timeout=300)
