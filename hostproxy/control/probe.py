"""The last question to workers on trial: one request to each kind of listener, which reaches no service.

The request has no Host, so it is refused by whoever reads it. That it is shows that the worker accepts, does its TLS
handshake with the certificates in force, parses, and answers.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hostproxy.identity.contexts import client_context
from hostproxy.mesh.spiffe import ALPN_HTTP1, ServerName

if TYPE_CHECKING:
    from hostproxy.snapshot import Listener, Snapshot

LIMIT = 5.0  # seconds for each
REQUEST = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
ANSWER = b"HTTP/1.1 4"


def examine(snapshot: Snapshot, places: Mapping[str, str]) -> str:
    """Ask at ``places``, paths of Unix sockets by listener id. Returns what is wrong; it waits for answers."""
    asked = set()
    for listener in snapshot.listeners:
        if listener.kind in asked:
            continue
        try:
            if listener.kind == "mesh":
                answer = _ask_mesh(snapshot, places[listener.id])
            elif _speaks_http(snapshot, listener):
                answer = _ask(places[listener.id])
            else:
                continue  # whatever comes there goes to a service
        except OSError as error:  # of which errors of TLS are some
            return f"its listener {listener.id} does not answer: {error}"
        if not answer.startswith(ANSWER):
            return f"its listener {listener.id} answers a bad request with {answer[:40]!r}"
        asked.add(listener.kind)
    return ""


def _speaks_http(snapshot: Snapshot, listener: Listener) -> bool:
    if listener.kind == "proxy":
        return True
    service = snapshot.services.get(listener.service)
    return service is not None and service.protocol == "http"


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(LIMIT)
    sock.connect(path)
    return sock


def _ask(path: str) -> bytes:
    with _connect(path) as sock:
        sock.sendall(REQUEST)
        return _answer(sock)


def _ask_mesh(snapshot: Snapshot, path: str) -> bytes:
    """As a service of this host calls itself. Without one nobody calls here."""
    name = next((each.name for each in snapshot.locals.values() if each.protocol == "http"), "")
    identity = snapshot.identities.get(name)
    if identity is None:
        return ANSWER
    context: ssl.SSLContext = client_context(identity, snapshot.authorities, (ALPN_HTTP1,))
    server = str(ServerName(name, snapshot.datacenter, snapshot.trust_domain))
    with _connect(path) as plain, context.wrap_socket(plain, server_hostname=server) as sock:
        sock.sendall(REQUEST)
        return _answer(sock)


def _answer(sock: socket.socket) -> bytes:
    received = b""
    while len(received) < len(ANSWER):
        data = sock.recv(4096)
        if not data:
            break
        received += data
    return received
