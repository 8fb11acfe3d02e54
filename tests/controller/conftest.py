"""A controller for tests: its rooms on a clock and a store in memory, or the real command in a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock

from controller.api.callers import Peer
from controller.api.http import Question, Reply
from controller.api.parts import Parts
from controller.app import Controller
from controller.audit import AuditFailed, Head
from controller.authority.authority import Authority
from controller.config import AuthorityConfig, Config, Log, Mesh, PushConfig, Serving, StoreConfig
from controller.signing import Signing
from controller.store.leadership import Alone
from hostproxy.mesh.messages import HostReport, encode
from hostproxy.mesh.spiffe import SpiffeId
from tests.controller.memory import MemoryStore
from tests.integration.host import free_port

DOMAIN = "corp.example"
DNS = "controller.corp.example"
PASSPHRASE = b"a passphrase that is long enough"
NOON = 1_800_000_000.0  # Unix seconds
POLICY = {"payments.toml": '[service.payments]\nprotocol = "http"\n[[service.payments.allow]]\nfrom = ["cart"]\n'}


class MemoryAudit:
    """An audit log that only remembers. ``broken`` is a full disk."""

    def __init__(self) -> None:
        self.lines: list[dict[str, str]] = []
        self.broken = False
        self.failures = 0
        self.head = Head(0, "0" * 64)

    def record(self, actor: str, act: str, object: str = "", **more: str) -> Deferred[int]:
        if self.broken:
            return fail(AuditFailed("/var/lib/hostproxy-controller/audit.log: No space left on device"))
        self.lines.append({"actor": actor, "act": act, "object": object, "result": "ok", **more})
        return succeed(len(self.lines))

    def acts(self, result: str = "ok") -> list[str]:
        """What was done, or refused."""
        return [line["act"] for line in self.lines if line["result"] == result]

    def tail(self, count: int) -> list[str]:
        return [json.dumps(line) for line in self.lines[-count:]]

    def verify(self, kept: object = ()) -> Deferred[None]:
        return succeed(None)

    def close(self) -> Deferred[None]:
        return succeed(None)


class Scene:
    """A controller that leads and serves nothing: requests are handed to it as if they had been read."""

    def __init__(self, directory: Path, store: Any = None, **authority_settings: Any) -> None:
        self.clock = Clock()
        self.clock.advance(NOON)
        # Threads of the reactor are there only in the processes.
        self.clock.getThreadPool = lambda: None  # type: ignore[attr-defined]
        self.store = store or MemoryStore()
        self.audit = MemoryAudit()
        self.directory = directory
        config = Config(
            path=str(directory / "controller.toml"),
            mesh=Mesh(trust_domain=DOMAIN),
            serving=Serving(dns=DNS),
            authority=AuthorityConfig(
                directory=str(directory / "authority"),
                passphrase_file=str(directory / "passphrase"),
                signing_key=str(directory / "authority" / "signing.key"),
                **authority_settings,
            ),
            store=StoreConfig(),
            push=PushConfig(),
            log=Log(),
        )
        self.controller = Controller(self.clock, config, now=self.clock.seconds, random=lambda: 0.5)
        self.controller._passphrase = PASSPHRASE
        authority = Authority.load(config.authority.directory, PASSPHRASE)
        signing = Signing.load(config.authority.signing_key, PASSPHRASE)
        leadership = Alone(self.store, "controller-1", self.controller.led)
        audit: Any = self.audit
        self.controller.build(authority, signing, self.store, leadership, audit)
        self.parts.in_thread = lambda work: maybeDeferred(work)
        leadership.start()

    @property
    def parts(self) -> Parts:
        return self.controller.parts

    # Asking

    def begin(
        self,
        method: str,
        target: str,
        body: Any = b"",
        *,
        peer: Peer | None = None,
        authorization: str = "",
        host: bytes = b"",
        **fields: Any,
    ) -> list[Reply]:
        """Ask; the list has the answer once there is one. Without a ``peer``: root on the Unix socket."""
        peer = Peer(uid=0) if peer is None else peer
        octets = body if isinstance(body, bytes) else msgspec.json.encode(body)
        question = Question(
            method.encode(),
            target.encode(),
            fields.get("hosts", [host or (DNS.encode() if peer.address else b"localhost")]),
            fields.get("origins", []),
            [authorization.encode()] if authorization else [],
            octets,
            peer,
        )
        found: list[Reply] = []
        failed: list[Any] = []
        self.controller.dispatcher.respond(question).addCallbacks(found.append, failed.append)
        assert not failed
        return found

    def ask(self, method: str, target: str, body: Any = b"", **more: Any) -> tuple[int, Any]:
        """Ask; status, and the JSON or the octets of the answer."""
        (reply,) = self.begin(method, target, body, **more)
        answer = reply.answer
        content: Any = answer.body
        if answer.kind == "application/json" and answer.body:
            content = json.loads(answer.body)
        return answer.status, content

    def expect(self, status: int, method: str, target: str, body: Any = b"", **more: Any) -> Any:
        """Ask; the answer has to have this status."""
        found, content = self.ask(method, target, body, **more)
        assert found == status, content
        return content

    # Who asks

    def token(self, host: str, **more: Any) -> str:
        token: str = self.expect(201, "POST", "/v1/tokens", {"host": host, **more})["token"]
        return token

    def host(self, name: str = "web-1", address: str = "10.0.0.1") -> Peer:
        """Enrol a host; who it is from then on."""
        secret = self.token(name)
        body = {"host": name, "token": secret, "csr": csr()}
        enrolled = self.expect(200, "POST", "/v1/enrol", body, peer=Peer(address))
        return Peer(address, None, first(enrolled["certificate"]))

    def certified(self, kind: Any, name: str, life: float = 3600.0) -> Peer:
        """Somebody with a certificate of the mesh."""
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        chain = self.parts.authority.issue(
            key, SpiffeId(DOMAIN, kind, name), now=self.parts.moment(), life=timedelta(seconds=life)
        )
        return Peer("10.9.9.9", None, first(chain.decode()))

    def operator(self, name: str, role: str) -> str:
        """Make an operator; what to put into Authorization."""
        token: str = self.expect(201, "POST", "/v1/operators", {"name": name, "role": role})["token"]
        return f"Bearer {token}"

    def report(self, peer: Peer, generation: int, epoch: int = 1, **more: Any) -> Any:
        """Have a host say that it has a generation."""
        values = {"software": "1", "epoch": epoch, "generation": generation, "state": "applied", **more}
        return self.expect(200, "POST", "/v1/report", encode(HostReport(**values)), peer=peer)

    def apply(self, policy: Mapping[str, str] = POLICY, **more: Any) -> Any:
        return self.expect(201, "POST", "/v1/policy", {"files": dict(policy), **more})


def csr(key: Any = None, build: Callable[[Any], Any] = lambda builder: builder) -> str:
    """A request for a certificate, PEM."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = build(x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def first(chain: str) -> x509.Certificate:
    return x509.load_pem_x509_certificates(chain.encode())[0]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an authority and a signing key."""
    directory = tmp_path_factory.mktemp("controller")
    (directory / "passphrase").write_bytes(PASSPHRASE)
    (directory / "passphrase").chmod(0o600)
    Authority.create(str(directory / "authority"), DOMAIN, PASSPHRASE, datetime.fromtimestamp(NOON, UTC))
    Signing.create(str(directory / "authority" / "signing.key"), PASSPHRASE)
    return directory


@pytest.fixture
def directory(made: Path, tmp_path: Path) -> Path:
    """A copy of it, which a test may change."""
    copy = tmp_path / "controller"
    shutil.copytree(made, copy)
    return copy


@pytest.fixture
def scene(directory: Path) -> Scene:
    return Scene(directory)


# The real thing


class Process:
    """``hostproxy-controller run`` with the directory that ``init`` made."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.process: subprocess.Popen[bytes]

    @property
    def socket(self) -> str:
        return str(self.directory / "operator.sock")

    @property
    def token(self) -> str:
        return (self.directory / "operator.token").read_text().strip()

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def start(self, leading: bool = True) -> None:
        """Start it, and wait until it serves, and leads if it is to."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "controller", "run", "-c", str(self.directory / "controller.toml")],
                stderr=log,
                stdout=log,
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log
            with contextlib.suppress(OSError):
                found = self.local("GET", "/v1/status")[1]
                if found.get("leading") or (found.get("leader") and not leading):
                    return
            time.sleep(0.05)
        raise AssertionError(f"it does not serve:\n{self.log}")

    def stop(self) -> int:
        """End it as systemd would; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)

    def local(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask over the Unix socket."""
        connection = http.client.HTTPConnection("localhost", timeout=5)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as raw:
            raw.settimeout(5)
            raw.connect(self.socket)
            connection.sock = raw
            return _asked(connection, method, path, body, {})

    def https(
        self, method: str, path: str, body: Any = None, token: str = "", certificate: tuple[str, str] | None = None
    ) -> tuple[int, Any]:
        """Ask over HTTPS, with Python's own client."""
        context = ssl.create_default_context(cafile=str(self.directory / "root.pem"))
        if certificate:
            context.load_cert_chain(*certificate)
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        connection = http.client.HTTPConnection(DNS, timeout=5)
        connection.sock = context.wrap_socket(raw, server_hostname=DNS)
        return _asked(connection, method, path, body, {"Authorization": f"Bearer {token}"} if token else {})


def _asked(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any, fields: dict[str, str]
) -> tuple[int, Any]:
    with contextlib.closing(connection):
        octets = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, octets, fields)
        response = connection.getresponse()
        content = response.read()
        is_json = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(content) if is_json else content


def initialise(directory: Path, port: int) -> subprocess.CompletedProcess[str]:
    arguments = ["init", str(directory), "--trust-domain", DOMAIN, "--dns", DNS, "--listen", f"127.0.0.1:{port}"]
    return subprocess.run(
        [sys.executable, "-m", "controller", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """A controller of its own for one test."""
    yield from _process(tmp_path / "c")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One controller for all tests of a module."""
    yield from _process(tmp_path_factory.mktemp("shared") / "c")


def _process(directory: Path) -> Iterator[Process]:
    port = free_port()
    made = initialise(directory, port)
    assert made.returncode == 0, made.stderr
    running = Process(directory, port)
    running.start()
    try:
        yield running
    finally:
        running.kill()


