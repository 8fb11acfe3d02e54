"""The authority: what it issues, what it refuses, and how its keys lie on the disk."""

from __future__ import annotations

import os
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controller.authority import keys, minting
from controller.authority.authority import Authority, fingerprint
from controller.authority.keys import Unusable
from controller.authority.requests import REQUEST_SIZE, Refused, public_key
from hostproxy.mesh.spiffe import SpiffeId

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
PASSPHRASE = b"correct horse battery staple"
WEB = SpiffeId.host("corp.example", "web-1")
HOURS = timedelta(hours=12)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "authority"


@pytest.fixture
def authority(directory: Path) -> Authority:
    return Authority.create(str(directory), "corp.example", PASSPHRASE, NOW)


def issue(authority: Authority, now: datetime = NOW, life: timedelta = HOURS, dns: str = "") -> list[x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    return x509.load_pem_x509_certificates(authority.issue(key.public_key(), WEB, now=now, life=life, dns=dns))


def csr(key: object = None, extension: x509.ExtensionType | None = None) -> bytes:
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")])
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)  # type: ignore[arg-type]


def verifies(root: Path, chain: list[x509.Certificate], tmp_path: Path, moment: datetime = NOW) -> bool:
    """What openssl says, which is a peer that is not ours."""
    leaf, rest = tmp_path / "leaf.pem", tmp_path / "rest.pem"
    leaf.write_bytes(chain[0].public_bytes(Encoding.PEM))
    rest.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain[1:]))
    command = ["openssl", "verify", "-x509_strict", "-CAfile", root, "-untrusted", rest, "-purpose", "sslclient"]
    command += ["-attime", str(int(moment.timestamp())), leaf]
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0


def test_a_leaf_is_what_the_mesh_wants_and_nothing_more(authority: Authority, directory: Path, tmp_path: Path) -> None:
    chain = issue(authority)
    leaf = chain[0]
    assert len(chain) == 2
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert [str(each.value) for each in names.value] == ["spiffe://corp.example/host/web-1"]
    assert list(leaf.subject) == []
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    assert leaf.not_valid_before_utc == NOW - timedelta(minutes=10)
    assert leaf.not_valid_after_utc == NOW + HOURS
    assert verifies(directory / "root-1.pem", chain, tmp_path)
    assert not verifies(directory / "root-1.pem", chain, tmp_path, NOW + HOURS + timedelta(seconds=1))


def test_no_leaf_outlives_its_issuer_or_a_day(authority: Authority) -> None:
    late = authority.issuing_ends - timedelta(hours=1)
    assert issue(authority, now=late)[0].not_valid_after_utc == authority.issuing_ends
    assert issue(authority, life=timedelta(days=30))[0].not_valid_after_utc == NOW + timedelta(hours=24)
    with pytest.raises(Refused, match="rotate-issuing"):
        issue(authority, now=authority.issuing_ends)


def test_an_issuing_key_makes_no_further_authorities(authority: Authority, directory: Path, tmp_path: Path) -> None:
    certificate = keys.load_certificate(str(directory / "issuing-1.pem"))
    key = keys.load_ec_key(str(directory / "issuing-1.key"), PASSPHRASE)
    own = ec.generate_private_key(ec.SECP256R1())
    rogue = minting.issuing("corp.example", own, (certificate, key), NOW, lambda bits: 1 << 120)
    leaf = minting.leaf(WEB, "", own.public_key(), (rogue, own), NOW, HOURS)
    assert not verifies(directory / "root-1.pem", [leaf, rogue, certificate], tmp_path)


def test_serial_numbers_are_long_and_differ(authority: Authority) -> None:
    serials = {issue(authority)[0].serial_number for _ in range(200)}
    assert len(serials) == 200
    assert all(each.bit_length() == 129 for each in serials)


def test_only_this_mesh_is_issued_for(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(Refused):
        authority.issue(key, SpiffeId.host("other.example", "web-1"), now=NOW, life=HOURS)


def test_a_request_gives_its_key_and_nothing_else() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert public_key(csr(key)) == key.public_key()


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: csr(rsa.generate_private_key(65537, 1024)),
        lambda: csr(rsa.generate_private_key(65537, 2048)),
        lambda: csr(ec.generate_private_key(ec.SECP192R1())),
        lambda: csr(ed25519.Ed25519PrivateKey.generate()),
        lambda: csr(extension=x509.BasicConstraints(ca=True, path_length=None)),
        lambda: csr(extension=x509.SubjectAlternativeName([x509.DNSName("*.corp.example")])),
        lambda: csr(extension=x509.SubjectAlternativeName([x509.DNSName(f"a{n}.example") for n in range(10_000)])),
        lambda: csr(extension=x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])),
        lambda: b"",
        lambda: b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        lambda: b"x" * (REQUEST_SIZE + 1),
    ],
)
def test_other_requests_are_refused(request_of: object) -> None:
    with pytest.raises(Refused):
        public_key(request_of())  # type: ignore[operator]


def test_a_request_with_a_broken_signature_is_refused() -> None:
    good = x509.load_pem_x509_csr(csr())
    der = bytearray(good.public_bytes(Encoding.DER))
    der[-1] ^= 1
    try:
        broken = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    except ValueError:
        pytest.fail("the request should still parse")
    with pytest.raises(Refused, match="own key"):
        public_key(broken)


def test_it_is_the_same_after_a_restart(authority: Authority, directory: Path) -> None:
    again = Authority.load(str(directory), PASSPHRASE)
    assert (again.roots, again.fingerprint, again.state) == (authority.roots, authority.fingerprint, authority.state)


def test_keys_are_encrypted_and_for_their_owner_only(authority: Authority, directory: Path) -> None:
    for path in directory.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in path.read_bytes()
    with pytest.raises(Unusable, match="passphrase"):
        Authority.load(str(directory), b"another passphrase")
    (directory / "issuing-1.key").chmod(0o644)
    with pytest.raises(Unusable, match="chmod 600"):
        Authority.load(str(directory), PASSPHRASE)


def test_the_root_key_may_be_elsewhere(authority: Authority, directory: Path) -> None:
    (directory / "root-1.key").rename(directory.parent / "safe")
    again = Authority.load(str(directory), PASSPHRASE)
    assert issue(again)
    with pytest.raises(Unusable, match=r"root-1\.key"):
        again.rotate_issuing(NOW)
    assert again.state == authority.state


def test_a_second_authority_is_not_made_over_the_first(authority: Authority, directory: Path) -> None:
    with pytest.raises(Unusable):
        Authority.create(str(directory), "corp.example", PASSPHRASE, NOW)


def test_a_root_is_rotated_without_a_gap(authority: Authority, directory: Path, tmp_path: Path) -> None:
    old = issue(authority)
    number = authority.add_root(NOW)
    assert len(authority.roots) == 2
    assert issue(authority)[1] == old[1]  # nothing is signed with the new one yet
    authority.use_root(number, NOW)
    new = issue(authority)
    both = tmp_path / "both.pem"
    both.write_text("".join(authority.roots))
    assert verifies(both, old, tmp_path)
    assert verifies(both, new, tmp_path)
    with pytest.raises(Unusable, match="in use"):
        authority.drop_root(number)
    authority.drop_root(1)
    both.write_text("".join(authority.roots))
    assert not verifies(both, old, tmp_path)
    assert verifies(both, new, tmp_path)
    again = Authority.load(str(directory), PASSPHRASE)
    assert again.fingerprint == fingerprint(keys.load_certificate(str(directory / "root-2.pem")))


def test_roots_are_bounded(authority: Authority) -> None:
    for _ in range(7):
        authority.add_root(NOW)
    with pytest.raises(Unusable, match="drop one"):
        authority.add_root(NOW)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_somebody_elses_key_is_refused(authority: Authority, directory: Path) -> None:
    os.chown(directory / "issuing-1.key", 12345, 12345)
    with pytest.raises(Unusable, match="another user"):
        Authority.load(str(directory), PASSPHRASE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_credential_may_be_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd gives those of newer releases to the service by an ACL, whose mask looks like rights of a group."""
    path = tmp_path / "passphrase"
    path.write_bytes(PASSPHRASE)
    path.chmod(0o440)
    os.chown(path, 12345, 12345)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert keys.passphrase_from(str(path)) == PASSPHRASE
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "other"))
    with pytest.raises(Unusable, match="open to others"):
        keys.passphrase_from(str(path))
