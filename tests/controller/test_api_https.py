"""The controller as foreign clients see it: curl, OpenSSL, Python's own, over real TLS."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controller.authority.authority import fingerprint
from hostproxy.mesh.bundle import Newest, open_bundle
from tests.controller.conftest import DNS, DOMAIN, POLICY, Process, csr


def curl(process: Process, path: str, *arguments: str, status: int = 200) -> bytes:
    """What curl gets."""
    command = ["curl", "-sS", "-m", "5", "-o", "-", "-w", "\n%{http_code}", "--cacert", f"{process.directory}/root.pem"]
    command += ["--resolve", f"{DNS}:{process.port}:127.0.0.1", *arguments, f"https://{DNS}:{process.port}{path}"]
    done = subprocess.run(command, capture_output=True, timeout=20, check=True)
    body, _, code = done.stdout.rpartition(b"\n")
    assert int(code) == status, done.stdout
    return body


def s_client(process: Process, *arguments: str, send: bytes = b"") -> str:
    """What ``openssl s_client`` tells."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{process.port}", "-servername", DNS, *arguments]
    done = subprocess.run(command, input=send, capture_output=True, timeout=20, check=False)
    return (done.stdout + done.stderr).decode("utf-8", "replace")


class Member:
    """A host, with its key in files."""

    def __init__(self, process: Process, name: str, directory: Path) -> None:
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        status, made = process.local("POST", "/v1/tokens", {"host": name})
        assert status == 201
        body = {"host": name, "token": made["token"], "csr": csr(self.key)}
        status, self.enrolled = process.https("POST", "/v1/enrol", body)
        assert status == 200, self.enrolled
        self.fingerprint = made["fingerprint"]
        self.certificate, self.key_file = str(directory / f"{name}.pem"), str(directory / f"{name}.key")
        Path(self.certificate).write_text(self.enrolled["certificate"])
        Path(self.key_file).write_bytes(plain(self.key))

    @property
    def files(self) -> tuple[str, str]:
        return self.certificate, self.key_file


def plain(key: Any) -> bytes:
    octets: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return octets


def test_curl_asks_as_operator(shared: Process) -> None:
    curl(shared, "/v1/status", status=401)
    found = json.loads(curl(shared, "/v1/status", "-H", f"Authorization: Bearer {shared.token}"))
    assert (found["role"], found["leading"]) == ("admin", True)
    directory = shared.directory
    credential = ("--cert", f"{directory}/operator.pem", "--key", f"{directory}/operator.key")
    assert json.loads(curl(shared, "/v1/status", *credential))["role"] == "admin"
    curl(shared, "/v1/policy", *credential, "-d", json.dumps({"files": POLICY, "dry_run": True}))
    large = directory / "large.json"
    large.write_text(json.dumps({"files": {f"f{number}.toml": "#" * 900_000 + "\n" for number in range(3)}}))
    curl(shared, "/v1/policy/check", *credential, "-d", f"@{large}")
    curl(shared, "/v1/policy/check", "-d", f"@{large}", status=413)


def test_the_unix_socket_is_for_its_owner(shared: Process) -> None:
    mode = os.stat(shared.socket).st_mode & 0o777
    assert mode == 0o600
    status, found = shared.local("GET", "/v1/audit")
    assert status == 200
    logins = [line for line in found["lines"] if line["act"] == "operator.login"]
    assert any(line["actor"].startswith(f"uid {os.getuid()}") for line in logins)
    status, verified = shared.local("POST", "/v1/audit/verify")
    assert (status, verified["broken"]) == (200, None)


def test_the_chain_goes_up_to_the_root(shared: Process) -> None:
    shown = s_client(shared, "-showcerts", "-tls1_3", "-CAfile", f"{shared.directory}/root.pem", "-verify_return_error")
    assert "Verification: OK" in shown
    blocks = re.findall("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", shown, re.DOTALL)
    leaf, issuing, root = [x509.load_pem_x509_certificate(block.encode()) for block in blocks[:3]]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [DNS]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{DOMAIN}/controller/controller-1"]
    leaf.verify_directly_issued_by(issuing)
    issuing.verify_directly_issued_by(root)
    # What a host is given to know the controller by, is in the handshake.
    _, status = shared.local("GET", "/v1/status")
    assert fingerprint(root) == status["fingerprint"]


def test_nothing_but_tls_1_3(shared: Process) -> None:
    assert "New, TLSv1.3, Cipher is TLS_" in s_client(shared, "-tls1_3")
    for older in ("-tls1_2", "-tls1_1"):
        assert "Cipher is (NONE)" in s_client(shared, older)


def test_no_session_is_taken_up_again(shared: Process, tmp_path: Path) -> None:
    session = str(tmp_path / "session")
    request = f"GET /v1/status HTTP/1.1\r\nHost: {DNS}\r\nConnection: close\r\n\r\n".encode()
    s_client(shared, "-sess_out", session, "-ign_eof", send=request)
    if os.path.exists(session):
        again = s_client(shared, "-sess_in", session, "-ign_eof", send=request)
        assert "Reused" not in again
        assert "New, TLSv1.3" in again


def test_a_host_lives_its_life(shared: Process, tmp_path: Path) -> None:
    one, two = Member(shared, "h1", tmp_path), Member(shared, "h2", tmp_path)
    root = x509.load_pem_x509_certificate(one.enrolled["roots"][0].encode())
    assert fingerprint(root) == one.fingerprint
    assert shared.local("PUT", "/v1/services/payments/hosts/h1")[0] == 200
    wanted = {"name": "payments", "csr": csr()}
    assert shared.https("POST", "/v1/certificates", wanted, certificate=one.files)[0] == 200
    assert shared.https("POST", "/v1/certificates", {**wanted, "csr": csr()}, certificate=two.files)[0] == 403
    status, applied = shared.local("POST", "/v1/policy", {"files": POLICY})
    assert status == 201, applied
    sealed = curl(shared, "/v1/bundle", "--cert", one.certificate, "--key", one.key_file)
    signers = [bytes.fromhex(each) for each in one.enrolled["signers"]]
    bundle = open_bundle(sealed, signers=signers, mesh=DOMAIN, host="h1", now=time.time(), newest=Newest())
    assert bundle.files["payments.toml"] == POLICY["payments.toml"].encode()
    report = {"software": "1", "epoch": 1, "generation": 1, "state": "applied", "digest": bundle.digest}
    status, answered = shared.https("POST", "/v1/report", report, certificate=one.files)
    assert (status, answered) == (200, {"epoch": 1, "generation": 1, "confirm": True})
    status, found = shared.local("GET", "/v1/hosts")
    assert {row["name"]: row["state"] for row in found["hosts"]} == {"h1": "SYNCED", "h2": "AWAY"}
    for path in ("/v1/hosts", "/v1/tokens", "/v1/policy", "/v1/authority", "/v1/audit", "/v1/status"):
        assert shared.https("GET", path, certificate=one.files)[0] == 403
    # Denied on a connection that is open already.
    context = ssl.create_default_context(cafile=f"{shared.directory}/root.pem")
    context.load_cert_chain(*two.files)
    raw = socket.create_connection(("127.0.0.1", shared.port), timeout=5)
    with context.wrap_socket(raw, server_hostname=DNS) as open_before:
        request = f"GET /v1/bundle HTTP/1.1\r\nHost: {DNS}\r\n\r\n".encode()
        open_before.sendall(request)
        assert b" 200 " in open_before.recv(100_000).split(b"\r\n")[0]
        assert shared.local("POST", "/v1/hosts/h2/deny", {"reason": "stolen"})[0] == 200
        received = b""
        open_before.settimeout(5)
        open_before.sendall(request)
        while b"is denied" not in received:
            piece = open_before.recv(100_000)
            assert piece
            received += piece


def test_a_certificate_of_another_authority_ends_the_handshake(shared: Process, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = x509.load_pem_x509_certificate(Path(shared.directory, "root.pem").read_bytes()).not_valid_before_utc
    wrong = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now.replace(year=now.year + 1))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{DOMAIN}/operator/admin")]), True
        )
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "wrong.pem").write_bytes(wrong.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "wrong.key").write_bytes(plain(key))
    with pytest.raises(ssl.SSLError):
        shared.https("GET", "/v1/status", certificate=(str(tmp_path / "wrong.pem"), str(tmp_path / "wrong.key")))


def test_plain_text_and_silence_hurt_nobody(shared: Process) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=5) as plain_text:
        plain_text.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in plain_text.recv(4096)
    silent = [socket.create_connection(("127.0.0.1", shared.port), timeout=30) for _ in range(200)]
    try:
        for each in silent[:100]:
            each.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        began = time.monotonic()
        assert shared.local("GET", "/v1/status")[0] == 200
        assert shared.https("GET", "/v1/status", token=shared.token)[0] == 200
        assert time.monotonic() - began < 2
        # All of them are cut in the end.
        for each in silent:
            each.settimeout(15)
            with contextlib.suppress(ConnectionResetError):
                assert each.recv(1024) == b""
        assert time.monotonic() - began < 15
    finally:
        for each in silent:
            each.close()


def test_malformed_requests_over_tls(shared: Process) -> None:
    for sent in (
        b"GET /v1/status HTTP/1.1\r\n\r\n",
        f"POST /v1/report HTTP/1.1\r\nHost: {DNS}\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n".encode(),
        f"GET /v1/%73tatus HTTP/1.1\r\nHost: {DNS}\r\n\r\n".encode(),
        f"GET https://{DNS}/v1/status HTTP/1.1\r\nHost: {DNS}\r\n\r\n".encode(),
        b"\x00" * 100 + b"\r\n\r\n",
    ):
        context = ssl.create_default_context(cafile=f"{shared.directory}/root.pem")
        raw = socket.create_connection(("127.0.0.1", shared.port), timeout=5)
        with context.wrap_socket(raw, server_hostname=DNS) as wire:
            wire.sendall(sent)
            answer = wire.recv(65536)
            assert answer.split(b" ")[1][:1] == b"4", answer
    assert "Traceback" not in shared.log


def test_no_secret_is_in_what_others_see(shared: Process) -> None:
    directory = shared.directory
    secrets = [
        shared.token.encode(),
        shared.token.split("~")[1].encode(),
        (directory / "passphrase").read_bytes().strip(),
        b"PRIVATE KEY",
    ]
    seen = [shared.log.encode(), Path(f"/proc/{shared.process.pid}/cmdline").read_bytes()]
    seen += [path.read_bytes() for path in (directory / "state").iterdir()]
    for path in ("authority", "operators", "status", "audit", "tokens"):
        seen.append(json.dumps(shared.local("GET", f"/v1/{path}")[1]).encode())
    for secret in secrets:
        assert not any(secret in each for each in seen), secret


def test_its_memory_is_its_own(shared: Process) -> None:
    limits = Path(f"/proc/{shared.process.pid}/limits").read_text()
    (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]
    # Of a process that cannot be dumped, /proc belongs to root; a core pattern would get nothing either.
    assert os.stat(f"/proc/{shared.process.pid}/mem").st_uid == 0
