"""Files by which ssh and Ansible on this machine reach the hosts of a bed, which are on no network of its."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.hosts.machine import run

INVENTORY = "inventory.ini"
SSH_CONFIG = "ssh_config"
KEY = "id_ed25519"  # of root on this machine, who is root on all hosts
GROUP = "hosts"  # of all of them, in the inventory
CONNECT = Path(__file__).with_name("connect.py")


def write(directory: Path, hosts: Sequence[tuple[str, str]], enter: Sequence[str]) -> None:
    """Have them in ``directory``; ``hosts`` are names and addresses, and ``enter`` leads a command onto the wire."""
    key, config = directory / KEY, directory / SSH_CONFIG
    if not key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(key))
    lines = [f"Host {name}\n  HostName {address}" for name, address in hosts]
    lines += [
        "Host *",
        "  User root",
        f"  IdentityFile {key}",
        "  IdentitiesOnly yes",
        "  StrictHostKeyChecking no",  # each host is made anew, with a new key
        "  UserKnownHostsFile /dev/null",
        "  LogLevel ERROR",
        f"  ProxyCommand {' '.join([*enter, sys.executable, str(CONNECT)])} %h %p",
        "  ProxyUseFdpass yes",
    ]
    config.write_text("\n".join([*lines, ""]))
    lines = [f"[{GROUP}]"]
    lines += [f"{name} ansible_host={address}" for name, address in hosts]
    lines += [
        f"[{GROUP}:vars]",
        "ansible_user=root",
        "ansible_python_interpreter=/usr/bin/python3",
        f"ansible_ssh_common_args=-F {config}",
    ]
    (directory / INVENTORY).write_text("\n".join([*lines, ""]))
