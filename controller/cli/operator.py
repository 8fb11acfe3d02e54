"""``hostproxy-controller operator``: who may use the controller from elsewhere, and for what."""

from __future__ import annotations

import argparse
import os
import shlex

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from controller.cli import client, terminal
from controller.cli.client import Misused
from controller.cli.command import NO, YES, Actions, perform
from controller.cli.terminal import moment, pairs, say, shown, table
from hostproxy.mesh import storage

ROLES = ("read", "deploy", "admin")
HEAD = ("NAME", "ROLE", "CREATED", "BY")

run = perform


def configure(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    actions = Actions(parser)
    create = actions.add("create", _create, "let somebody use the controller, and show their token, once")
    create.add_argument("name", metavar="NAME", type=client.host)
    text = "read: look; deploy: policy, tokens, services; admin: everything"
    create.add_argument("--role", choices=ROLES, required=True, help=text)
    actions.add("list", _list, "show all operators")
    revoke = actions.add("revoke", _revoke, "take neither token nor certificate of an operator any more")
    revoke.add_argument("name", metavar="NAME", type=client.host)
    text = "get a client certificate in place of the token, for half a day"
    certificate = actions.add("certificate", _certificate, text)
    certificate.add_argument("directory", metavar="DIR", help="gets operator.pem, operator.key and root.pem")


def _create(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).post("/v1/operators", {"name": arguments.name, "role": arguments.role})
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        terminal.write(pairs([("name", answer["name"]), ("role", answer["role"]), ("token", answer["token"])]))
    return YES


def _list(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).get("/v1/operators")
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        rows = [(each["name"], each["role"], moment(each["created"]), each["by"]) for each in answer["operators"]]
        terminal.write(table(HEAD, rows))
    return YES


def _revoke(arguments: argparse.Namespace) -> int:
    answer = client.connect(arguments).call("DELETE", f"/v1/operators/{arguments.name}")
    if arguments.output == "json":
        terminal.write_json(answer)
    else:
        terminal.write([f"{shown(answer['revoked'])} is no operator any more"])
    return YES


def _certificate(arguments: argparse.Namespace) -> int:
    """The key is made here and never sent."""
    if not os.access(arguments.directory, os.W_OK | os.X_OK):
        raise Misused(f"{arguments.directory} is no directory that can be written to")
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    csr = request.public_bytes(Encoding.PEM).decode()
    answer = client.connect(arguments).post("/v1/operator-certificate", {"csr": csr})
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    names = {"key": "operator.key", "certificate": "operator.pem", "ca": "root.pem"}
    files = {option: os.path.join(arguments.directory, name) for option, name in names.items()}
    try:
        storage.write(files["key"], plain, 0o600)
        storage.write(files["certificate"], answer["certificate"].encode(), 0o644)
        storage.write(files["ca"], "".join(answer["roots"]).encode(), 0o644)
    except OSError as error:
        say(f"{arguments.directory}: {error.strerror}")
        return NO
    if arguments.output == "json":
        terminal.write_json(files)
    else:
        terminal.write([" ".join(f"--{option} {shlex.quote(path)}" for option, path in files.items())])
    return YES
