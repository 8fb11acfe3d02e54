"""The controller: whether it is there, is the one that conf.toml means, and knows this host."""

from __future__ import annotations

import os
import re
import socket
import time
from typing import Any, NamedTuple

from hostproxy.config_controller import MODE
from hostproxy.doctor import certificates
from hostproxy.doctor.findings import Around, Group
from hostproxy.mesh import clocks
from hostproxy.mesh.addresses import split
from hostproxy.mesh.clocks import Skew

HEAD = 16 * 1024  # bytes of an answer that are read: its head
SILENT = 3.0  # intervals without a word
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")
_DATE = re.compile(rb"\r\nDate: ([^\r\n]{1,64})\r\n", re.IGNORECASE)


class NoAnswer(Exception):
    """It can't be reached, or is not the one. The message says why."""

    def __init__(self, text: str, skew: Skew | None = None) -> None:
        """``skew``: our clock against its own, as far as that is why."""
        super().__init__(text)
        self.skew = skew


class Answer(NamedTuple):
    """What it said to the question for a newer bundle."""

    status: int
    date: str  # "": it said none
    asked: float  # Unix seconds
    seconds: float
    pinned: bool  # it was known by the fingerprint or file of conf.toml: there is nothing from an earlier contact
    identified: bool  # our certificate was shown


def examine(group: Group, around: Around) -> None:
    """Ask it."""
    config = around.config
    if config.identity.mode != MODE:
        group.skip("reach", "certificates and policy come from files")
        return
    if not config.controller.url:
        group.skip("reach", "conf.toml does not say where it is")
        return
    try:
        answer = ask(around)
    except NoAnswer as error:
        fix = "is it running, and do name, port and firewall let this host through? Traffic goes on without it"
        group.fail("reach", f"{config.controller.url}: {error}", fix)
    except PermissionError:
        group.skip("reach", f"{config.host.state_directory} is not for our eyes", "run it as root")
    else:
        how = "known by conf.toml" if answer.pinned else "known by the roots that it gave"
        group.ok("reach", f"{config.controller.url} answers in {answer.seconds * 1000:.0f} ms, {how}")
        _enrolled(group, around, answer)
    _steering(group, around)
    _push(group, around)


def _enrolled(group: Group, around: Around, answer: Answer) -> None:
    if not answer.identified:
        token = around.config.controller.join_token_file
        if token and os.path.exists(token):
            group.warn("enrolled", "this host has not joined yet, and has a token", "systemctl start hostproxy")
        else:
            fix = f"hostproxy-controller token create --host {around.config.host.name}, and put it in join_token_file"
            group.fail("enrolled", "this host has not joined, and has no token", fix)
    elif answer.status in (401, 403):
        fix = "hostproxy-controller hosts says whether it is denied; else join again with a new token"
        group.fail("enrolled", f"the controller refuses this host (status {answer.status})", fix)
    else:
        group.ok("enrolled", "the controller knows this host")


def _steering(group: Group, around: Around) -> None:
    """How the daemon stands with it."""
    state = around.status["controller"] if around.status is not None else None
    if state is None:
        group.skip("synced", "only the daemon knows, and it does not answer")
        return
    for problem in state["problems"]:
        group.warn("synced", problem, "see hostproxy status, and hostproxy-controller hosts")
    if state["refused_code"]:
        version = "-".join(map(str, state["refused"]))
        found = f"version {version} was not taken: {state['refused_code']}"
        group.warn("synced", found, "hostproxy-controller rollout says more")
    if not state["generation"]:
        group.fail("synced", "there is no policy yet, and nothing listens before", "hostproxy-controller policy apply")
        return
    silence = around.now() - state["last_contact"]
    if state["last_contact"] and silence > SILENT * around.config.controller.interval + 30.0:
        group.warn("synced", f"no word from it for {silence:.0f} s", "see reach; what holds goes on to hold")
    elif not state["problems"]:
        group.ok("synced", f"generation {state['generation']} of epoch {state['epoch']} is in force")


def _push(group: Group, around: Around) -> None:
    """The listener that the controller brings policy to, as far as that can be seen from here."""
    ip, port = split(around.config.controller.listen)
    ip = around.config.host.address if ip in ("0.0.0.0", "::") else ip
    if around.status is None or not around.status["ready"]:
        group.skip("push", "it is open while the daemon is ready")
        return
    try:
        socket.create_connection((ip, port), around.left(1.0)).close()
    except OSError as error:
        found = f"{ip}:{port} takes no connection: {error.strerror or error}"
        fix = "let the controller in: [controller] listen, and the firewall; until then policy comes once an interval"
        group.warn("push", found, fix)
    else:
        group.ok("push", f"{ip}:{port} takes connections of this host; firewalls in between cannot be seen from here")


def skew(around: Around) -> Skew | None:
    """How far our clock is from its own; None: it does not say."""
    try:
        answer = ask(around)
    except NoAnswer as error:
        return error.skew
    except OSError:
        return None
    ahead = clocks.ahead(answer.date, answer.asked, answer.seconds)
    return Skew(ahead) if ahead is not None else None


def ask(around: Around) -> Answer:
    """Ask for a newer bundle, as the daemon does. Raises :class:`NoAnswer`, PermissionError."""
    from hostproxy.steering.certificates import Untimely, Wrong
    from hostproxy.steering.record import Disk
    from hostproxy.steering.tls import ClientSide, TlsError, text_of

    config = around.config
    state = config.host.state_directory
    if os.path.exists(state) and not os.access(state, os.R_OK | os.X_OK):
        raise PermissionError
    record, _ = Disk(state).load()
    trust = _trust(around, record)
    identity = certificates.load(around, []).identities.get("host") if record is not None else None
    side = ClientSide(config.controller.host, config.mesh.trust_domain, trust, identity)
    version = (record.newest.epoch, record.newest.generation) if record is not None else (0, 0)
    path = f"/v1/bundle?epoch={version[0]}&generation={version[1]}"
    start, until = time.monotonic(), time.monotonic() + around.left()
    try:
        with socket.create_connection((config.controller.host, config.controller.port), around.left()) as sock:
            tls = _Tls(sock, side.clientConnectionForTLS(None), until)
            tls.handshake()
            side.check(tls.connection, around.now())
            asked = around.now()
            began = time.monotonic()
            tls.send(f"GET {path} HTTP/1.1\r\nHost: {config.controller.host}\r\nConnection: close\r\n\r\n".encode())
            head = tls.head()
    except TimeoutError:
        raise NoAnswer(f"no answer within {time.monotonic() - start:.1f} s") from None
    except OSError as error:
        raise NoAnswer(error.strerror or str(error)) from None
    except TlsError as error:
        untimely = side.untimely(around.now())
        if untimely is not None:
            raise NoAnswer(str(untimely), untimely.skew) from None
        raise NoAnswer(f"no TLS: {text_of(error)}") from None
    except Untimely as untimely:
        raise NoAnswer(str(untimely), untimely.skew) from None
    except Wrong as wrong:
        raise NoAnswer(str(wrong)) from None
    status, told = _STATUS.match(head), _DATE.search(head)
    if status is None:
        raise NoAnswer("it answers, but not as a controller does")
    return Answer(
        int(status[1]),
        told[1].decode("ascii", "replace") if told is not None else "",
        asked,
        time.monotonic() - began,
        record is None,
        identity is not None,
    )


def _trust(around: Around, record: Any) -> Any:
    """By what the controller is known: the roots that it gave, or before that what conf.toml says."""
    from cryptography import x509

    from hostproxy.steering.certificates import roots_of
    from hostproxy.steering.tls import Pin

    if record is not None:
        return roots_of(record.roots)
    config = around.config.controller
    if config.ca_fingerprint:
        return Pin(config.ca_fingerprint)
    try:
        with open(config.ca_file, "rb") as file:
            return x509.load_pem_x509_certificates(file.read(1024 * 1024))
    except (OSError, ValueError) as error:
        raise NoAnswer(f"{config.ca_file} cannot be read: {error}") from None


class _Tls:
    """TLS in memory over a socket, bounded in time."""

    def __init__(self, sock: socket.socket, connection: Any, until: float) -> None:
        self.connection = connection
        self._sock = sock
        self._until = until

    def handshake(self) -> None:
        self._pump(self.connection.do_handshake)

    def send(self, data: bytes) -> None:
        self._pump(lambda: self.connection.sendall(data))

    def head(self) -> bytes:
        """What comes, up to the end of the head."""
        from OpenSSL import SSL

        head = b""
        while b"\r\n\r\n" not in head and len(head) < HEAD:
            try:
                head += self._pump(lambda: self.connection.recv(4096))
            except SSL.ZeroReturnError:
                break
        return head

    def _pump(self, act: Any) -> Any:
        from OpenSSL import SSL

        while True:
            try:
                result = act()
            except SSL.WantReadError:
                self._flush()
            else:
                self._flush()
                return result
            self._sock.settimeout(max(0.05, self._until - time.monotonic()))
            data = self._sock.recv(16 * 1024)
            if not data:
                raise ConnectionError("the connection was cut")
            self.connection.bio_write(data)

    def _flush(self) -> None:
        from OpenSSL import SSL

        while True:
            try:
                data = self.connection.bio_read(16 * 1024)
            except SSL.WantReadError:
                return
            self._sock.sendall(data)
