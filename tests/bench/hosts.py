"""Many hosts in one process, as the controller sees them: ``python -m tests.bench.hosts DIRECTORY``.

Each has an address, a key and a certificate of its own, enrols with its token, asks for its bundle, reports, and takes
bundles over mutual TLS. Every bundle is verified as hostproxy does it. None of it is the code of the controller or of
hostproxy but the bundle's and the messages': asyncio and OpenSSL are there to be cheap, so that one core can be a
thousand hosts.

What is to be done stands in ``task.json``. What happened is told on stdout, one JSON document a line, by the clock that
all processes of a machine share. Each SIGUSR1 makes the next of the task's storms: so many hosts that were restarted.
"""

from __future__ import annotations

import asyncio
import random
import resource
import signal
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hostproxy.mesh.bundle import Newest, open_bundle
from hostproxy.mesh.messages import Enrolled, EnrolRequest, HostReport, decode, encode

AT_A_TIME = 32  # hosts that enrol
PATIENCE = 60.0  # seconds for one answer


class Storm(msgspec.Struct, frozen=True):
    """Hosts that come at about the same time."""

    hosts: int
    spread: float  # seconds over which they come, at random
    restarted: bool = True  # with nothing on the disk; else for their report of every minute


class Task(msgspec.Struct, frozen=True):
    """What the process is told."""

    controller: tuple[str, int]
    dns: str  # the name in the controller's certificate
    root: str  # path, PEM
    trust_domain: str
    port: int  # where every host listens
    hosts: dict[str, tuple[str, str]]  # name -> address, token
    arrival: float  # seconds over which the hosts come first
    storms: tuple[Storm, ...]


class Failed(Exception):
    """The controller did not do what hosts need of it."""


class Host:
    """One host."""

    def __init__(self, task: Task, directory: Path, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.newest = Newest()
        self._task = task
        self._path = directory / f"{name}.pem"
        self._signers: tuple[bytes, ...] = ()
        self._confirmed = True
        self._client: ssl.SSLContext

    async def enrol(self, token: str) -> None:
        """Become one, and listen."""
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        csr = request.public_bytes(serialization.Encoding.PEM).decode()
        stranger = ssl.create_default_context(cafile=self._task.root)
        link = await Link.open(self._task, self.address, stranger)
        body = await link.ask("POST", "/v1/enrol", encode(EnrolRequest(host=self.name, token=token, csr=csr)))
        link.close()
        enrolled = decode(body, Enrolled)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._path.write_bytes(pem + enrolled.certificate.encode())
        self._signers = tuple(bytes.fromhex(each) for each in enrolled.signers)
        self._client = self._context(ssl.PROTOCOL_TLS_CLIENT)
        server = self._context(ssl.PROTOCOL_TLS_SERVER)
        await asyncio.start_server(self._serve, self.address, self._task.port, ssl=server)

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self._task.root)
        context.load_cert_chain(self._path)
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0
        return context

    async def come(self, restarted: bool) -> tuple[float, float]:
        """Ask and report; seconds for the bundle, or that there is none, the connection included, and for a report."""
        epoch, generation = (0, 0) if restarted else (self.newest.epoch, self.newest.generation)
        began = time.monotonic()
        link = await Link.open(self._task, self.address, self._client)
        bundle = await link.ask("GET", f"/v1/bundle?epoch={epoch}&generation={generation}")
        had = time.monotonic()
        if bundle:
            self._take(bundle)
        asked = time.monotonic()
        await link.ask("POST", "/v1/report", encode(self._report()))
        ended = time.monotonic()
        link.close()
        return had - began, ended - asked

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A request of the controller."""
        try:
            shown: Any = writer.get_extra_info("peercert")
            prefix = f"spiffe://{self._task.trust_domain}/controller/"
            if not any(kind == "URI" and uri.startswith(prefix) for kind, uri in shown["subjectAltName"]):
                raise Failed(f"{shown} is no controller")
            head, body = await _message(reader)
            if head.startswith(b"PUT /v1/bundle "):
                self._take(body)
                tell(taken=time.monotonic(), host=self.name, generation=self.newest.generation)
            elif head.startswith(b"POST /v1/confirm "):
                self._confirmed = True
            answer = encode(self._report())
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
            await writer.drain()
        except Exception as error:
            tell(problem=f"{self.name}: {error!r}")
        finally:
            writer.close()

    def _take(self, data: bytes) -> None:
        task = self._task
        bundle = open_bundle(
            data,
            signers=self._signers,
            mesh=task.trust_domain,
            host=self.name,
            now=time.time(),
            newest=self.newest,
        )
        self._signers = bundle.manifest.signers
        self._confirmed = not bundle.manifest.confirm_within
        self.newest = Newest(*bundle.version, bundle.digest)

    def _report(self) -> HostReport:
        newest = self.newest
        return HostReport(
            software="1",
            listen=f"{self.address}:{self._task.port}",
            epoch=newest.epoch,
            generation=newest.generation,
            digest=newest.digest,
            state="applied",
            confirmed=self._confirmed,
        )


class Link:
    """A connection to the controller."""

    def __init__(self, dns: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._dns = dns
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, task: Task, address: str, context: ssl.SSLContext) -> Link:
        streams = asyncio.open_connection(
            *task.controller, ssl=context, server_hostname=task.dns, local_addr=(address, 0)
        )
        return cls(task.dns, *await asyncio.wait_for(streams, PATIENCE))

    async def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The body of a good answer. Raises :class:`Failed`."""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._dns}\r\n"
        length = f"Content-Length: {len(body)}\r\n" if method != "GET" else ""
        self._writer.write(f"{head}{length}\r\n".encode() + body)
        head, answer = await asyncio.wait_for(_message(self._reader), PATIENCE)
        if not head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 204 ")):
            raise Failed(f"{method} {path}: {head.splitlines()[0]!r} {answer[:200]!r}")
        return answer

    def close(self) -> None:
        self._writer.close()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of a request or an answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    return head, await reader.readexactly(int(fields.get(b"content-length", b"0")))


async def main(directory: Path) -> None:
    """Until SIGTERM."""
    task = msgspec.json.decode((directory / "task.json").read_bytes(), type=Task)
    hosts = [Host(task, directory, name, address) for name, (address, _) in task.hosts.items()]
    free = asyncio.Semaphore(AT_A_TIME)

    async def enrol(host: Host) -> None:
        async with free:
            await host.enrol(task.hosts[host.name][1])

    began = time.monotonic()
    await asyncio.gather(*(enrol(host) for host in hosts))
    tell(event="enrolled", seconds=time.monotonic() - began)
    await _storm("arrived", hosts, Storm(len(hosts), task.arrival))
    storms = list(task.storms)
    waiting: set[asyncio.Task[None]] = set()

    def next_storm() -> None:
        storm = storms.pop(0)
        running = asyncio.create_task(_storm("storm", random.sample(hosts, storm.hosts), storm))
        waiting.add(running)
        running.add_done_callback(waiting.discard)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, next_storm)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()


async def _storm(event: str, hosts: list[Host], storm: Storm) -> None:
    async def come(host: Host) -> tuple[float, float]:
        await asyncio.sleep(random.uniform(0.0, storm.spread))
        return await host.come(storm.restarted)

    began = time.monotonic()
    found = await asyncio.gather(*(come(host) for host in hosts), return_exceptions=True)
    good = [each for each in found if not isinstance(each, BaseException)]
    wrong = [repr(each) for each in found if isinstance(each, BaseException)]
    tell(
        event=event,
        seconds=time.monotonic() - began,
        bundles=[bundle for bundle, _ in good],
        reports=[report for _, report in good],
        failed=len(wrong),
        problem=wrong[0] if wrong else "",
    )


def tell(**what: object) -> None:
    """One line for whoever started this."""
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    socket.setdefaulttimeout(PATIENCE)
    asyncio.run(main(Path(sys.argv[1])))
