"""``hostproxy-controller init``: everything that a new mesh begins with, in one directory."""

from __future__ import annotations

import argparse
import base64
import ipaddress
import os
import secrets
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime

import tomli_w
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controller import config
from controller.authority import keys
from controller.authority.authority import LONGEST_LEAF, Authority
from controller.signing import Signing, name
from hostproxy.mesh import addresses, names, spiffe, storage
from hostproxy.mesh.document import Invalid
from hostproxy.mesh.spiffe import SpiffeId
from hostproxy.mesh.units import Wrong

ADMIN = "admin"  # the first operator
PASSPHRASE = 32  # bytes of randomness


class Refused(Exception):
    """Nothing is made; the text says why."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what can be written on the command line."""
    parser.add_argument("directory", metavar="DIR", help="a new or empty directory, which will hold the keys")
    parser.add_argument(
        "--trust-domain",
        required=True,
        type=_checked(names.trust_domain),
        metavar="NAME",
        help="the name that every identity of the mesh starts with",
    )
    parser.add_argument(
        "--dns",
        required=True,
        type=_checked(names.domain),
        metavar="NAME",
        help="the DNS name that hosts reach the controller by",
    )
    parser.add_argument(
        "--name",
        default="controller-1",
        type=_checked(names.host),
        help="the name of this controller among its replicas (controller-1)",
    )
    parser.add_argument(
        "--listen",
        default="0.0.0.0:15008",
        type=_checked(addresses.listening_ip),
        metavar="ADDRESS",
        help="where hosts and operators come to, HTTPS (0.0.0.0:15008)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Make it. 0: all is there, 1: nothing was made, 4: something was before it failed."""
    directory = os.path.abspath(arguments.directory)
    os.umask(0o077)
    try:
        _claim(directory)
    except Refused as refused:
        sys.stderr.write(f"hostproxy-controller init: {refused}\n")
        return 1
    try:
        text = _make(directory, arguments)
    except (OSError, Invalid, keys.Unusable, _NotKept) as error:
        sys.stderr.write(f"hostproxy-controller init: {error}\n{directory} is not complete: remove it, and try again\n")
        return 4
    sys.stdout.write(text)
    for warning in _warnings(arguments.dns, arguments.listen):
        sys.stderr.write(f"warning: {warning}\n")
    return 0


def _warnings(dns: str, listen: str) -> list[str]:
    """What keeps hosts from reaching the controller, as far as names and addresses tell without asking anybody."""
    ip = ipaddress.ip_address(addresses.split(listen)[0])
    here = dns == "localhost" or dns.endswith(".localhost")
    if ip.is_loopback and not here:
        hint = "[controller] listen in controller.toml"
        return [f"only this machine can reach {listen}, and hosts ask for {dns} wherever they are: see {hint}"]
    if here and not ip.is_loopback:
        return [f"{dns} is another machine on each host: for other hosts, make it anew with the DNS name of this one"]
    return []


class _NotKept(Exception):
    """The first operator is not in the store, or the audit log is not begun."""


def _claim(directory: str) -> None:
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        if os.listdir(directory):
            raise Refused(f"{directory} is not empty: nothing in it is replaced")
        os.chmod(directory, 0o700)
    except OSError as error:
        raise Refused(f"{directory}: {error.strerror}") from None
    socket = os.path.join(directory, "operator.sock")
    if len(socket.encode()) > addresses.UNIX_PATH_SIZE:
        raise Refused(f"{socket}: the path of a Unix socket has {addresses.UNIX_PATH_SIZE} bytes at most")


def _make(directory: str, arguments: argparse.Namespace) -> str:
    path: Callable[[str], str] = lambda file: os.path.join(directory, file)  # noqa: E731
    now = datetime.now(UTC)
    passphrase = base64.b64encode(secrets.token_bytes(PASSPHRASE))
    storage.write(path("passphrase"), passphrase + b"\n", 0o600)
    authority = Authority.create(path("authority"), arguments.trust_domain, passphrase, now)
    signing = Signing.create(path("authority/signing.key"), passphrase)
    storage.write(path("controller.toml"), _configuration(arguments).encode(), 0o644)
    loaded = config.load(path("controller.toml"))
    storage.write(path("root.pem"), authority.roots[0].encode(), 0o644)
    key = ec.generate_private_key(ec.SECP256R1())
    identity = SpiffeId(arguments.trust_domain, "operator", ADMIN)
    token = _begin(loaded)
    # After the operator's record, whose certificates are not taken when they are older.
    certificate = authority.issue(key.public_key(), identity, now=datetime.now(UTC), life=LONGEST_LEAF)
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    storage.write(path("operator.key"), plain, 0o600)
    storage.write(path("operator.pem"), certificate, 0o644)
    storage.write(path("operator.token"), token.encode() + b"\n", 0o600)
    return _told(directory, arguments, authority, signing)


def _configuration(arguments: argparse.Namespace) -> str:
    document = {
        "mesh": {"trust_domain": arguments.trust_domain},
        "controller": {
            "name": arguments.name,
            "dns": arguments.dns,
            "listen": arguments.listen,
            "operator_socket": "operator.sock",
            "state_directory": "state",
        },
        "authority": {
            "directory": "authority",
            "passphrase_file": "passphrase",
            "signing_key": "authority/signing.key",
        },
        "store": {"backend": "sqlite"},
    }
    return "# Paths are relative to this file. Keys and their defaults: docs/controller.md\n" + tomli_w.dumps(document)


def _begin(loaded: config.Config) -> str:
    """Begin the audit log, and keep the first operator; returns its token. Raises :class:`_NotKept`."""
    # With Twisted, which nothing before this needs.
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from controller import process
    from controller.beginning import begin

    reactor = process.install()
    found: list[str | Failure] = []

    def work() -> None:
        beginning = Deferred.fromCoroutine(begin(reactor, loaded, ADMIN))
        beginning.addBoth(found.append)
        beginning.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(work)
    reactor.run(installSignalHandlers=False)
    if isinstance(found[0], Failure):
        raise _NotKept(found[0].getErrorMessage())
    return found[0]


def _told(directory: str, arguments: argparse.Namespace, authority: Authority, signing: Signing) -> str:
    quoted = shlex.quote(directory)
    return (
        f"trust domain   {arguments.trust_domain}\n"
        f"fingerprint    {authority.fingerprint}\n"
        f"signing key    {name(signing.current)}\n\n"
        f"Next:\n"
        f"  1. Move {directory}/passphrase to another place than the keys and their backups (a secret store,\n"
        f"     systemd's LoadCredential=), and name that place in controller.toml: [authority] passphrase_file.\n"
        f"     Whoever has it and {directory}/authority can be any service.\n"
        f"  2. Give {directory}/operator.token to the first operator, and remove it here. operator.pem and\n"
        f"     operator.key do the same until tomorrow. root on this machine needs neither.\n"
        f"  3. hostproxy-controller run -c {quoted}/controller.toml\n"
        f"  4. hostproxy-controller token create --host NAME\n"
    )


def _checked(check: Callable[[str], str]) -> Callable[[str], str]:
    def value(text: str) -> str:
        try:
            return check(text)
        except (Wrong, spiffe.InvalidName) as wrong:
            raise argparse.ArgumentTypeError(str(wrong)) from None

    return value
