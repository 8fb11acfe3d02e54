from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from hostproxy.config import IdentityConfig
from hostproxy.identity.contexts import client_context, server_context
from hostproxy.identity.development import create_authority
from hostproxy.identity.files import Identities, load, watched_paths
from hostproxy.mesh.document import Invalid
from hostproxy.snapshot import Identity
from tests.identity.crafting import (
    CART,
    CLIENT,
    DAY,
    PAYMENTS,
    TRUST_DOMAIN,
    Handshake,
    Usage,
    authority,
    craft,
    good,
)

HOST = f"spiffe://{TRUST_DOMAIN}/host/web-1"


class Directory:
    """What ``[identity.files]`` points at, with good files for the host, cart and payments to begin with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = IdentityConfig(mode="files", authorities_path=str(path / "ca.pem"), directory=str(path))
        self.write("ca.pem", authority().pem)
        self.put("host", good(HOST))
        self.put("cart", good(CART))
        self.put("payments", good(PAYMENTS))

    def write(self, name: str, content: bytes, mode: int = 0o600) -> None:
        (self.path / name).write_bytes(content)
        (self.path / name).chmod(mode)

    def put(self, name: str, identity: Identity) -> None:
        self.write(f"{name}.pem", identity.certificate, 0o644)
        self.write(f"{name}.key", identity.key)

    def load(self, *names: str, clock=time.time) -> Identities:
        return load(self.config, names or ("cart", "payments"), TRUST_DOMAIN, "web-1", clock)

    def problems(self, *names: str, clock=time.time) -> list[str]:
        """Every problem as an operator reads it, without the directory."""
        with pytest.raises(Invalid) as caught:
            self.load(*names, clock=clock)
        return [str(problem).replace(f"{self.path}/", "") for problem in caught.value.problems]


@pytest.fixture
def directory(tmp_path):
    return Directory(tmp_path)


def test_good_files_become_identities_that_workers_can_use(directory):
    identities = directory.load()
    assert {name: identity.uri for name, identity in identities.by_name.items()} == {
        "host": HOST,
        "cart": CART,
        "payments": PAYMENTS,
    }
    server = server_context(identities.by_name["payments"], identities.authorities, ("h2",))
    client = client_context(identities.by_name["cart"], identities.authorities, ("h2",))
    assert Handshake(server, client).complete
    assert identities.warnings == ()


def test_what_is_told_about_time_is_what_the_certificates_say(directory):
    identities = directory.load()
    now = time.time()
    validity = identities.validity["cart"]
    assert validity.not_before == pytest.approx(now - 600, abs=30)
    assert validity.not_after == pytest.approx(now + 86400, abs=30)
    end = authority().certificate.not_valid_after_utc.timestamp()
    assert identities.authorities_end == end


def test_keys_are_in_no_repr(directory):
    identities = directory.load()
    assert "PRIVATE" not in repr(identities)


def test_the_watched_files_are_those_that_are_read(directory):
    names = [os.path.basename(path) for path in watched_paths(directory.config, ("cart",))]
    assert names == ["ca.pem", "host.pem", "host.key", "cart.pem", "cart.key"]
    for name in names:
        (directory.path / name).rename(directory.path / "away")
        assert len(directory.problems("cart")) == 1
        (directory.path / "away").rename(directory.path / name)
    directory.load("cart")


def test_every_fault_is_told_at_once(directory):
    (directory.path / "host.pem").unlink()
    directory.write("cart.key", b"nonsense")
    directory.write("payments.key", good(PAYMENTS).key, 0o644)
    directory.write("ca.pem", b"")
    problems = directory.problems()
    assert [problem.partition(":")[0] for problem in problems] == [
        "ca.pem",
        "host.pem",
        "cart.key",
        "payments.key",
    ]
    assert f"does not exist; a certificate of {HOST}" in problems[1]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o602, 0o666])
def test_a_key_open_to_others_is_refused_with_the_command_that_closes_it(directory, mode):
    path = directory.path / "cart.key"
    path.chmod(mode)
    [problem] = directory.problems()
    assert problem.startswith(f"cart.key: is a private key open to others (mode 0{mode:o}); chmod 600 ")
    assert "PRIVATE" not in problem
    for closed in (0o600, 0o400):
        path.chmod(closed)
        directory.load()


def test_the_command_that_closes_a_key_can_be_pasted(tmp_path):
    odd = tmp_path / "it's here"
    odd.mkdir()
    directory = Directory(odd)
    (odd / "cart.key").chmod(0o644)
    with pytest.raises(Invalid) as caught:
        directory.load()
    assert os.system(caught.value.problems[0].hint) == 0
    directory.load()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_key_that_may_not_be_read_names_the_user(directory):
    (directory.path / "cart.key").chmod(0)
    [problem] = directory.problems()
    assert "cannot be read by user" in problem


def test_a_key_and_a_certificate_of_different_making_do_not_pass(directory):
    before = directory.load()
    renewed = good(CART)
    # Key first, as the development authority writes, then the certificate; and the other way round.
    for first, second in (("cart.key", "cart.pem"), ("cart.pem", "cart.key")):
        content = {"cart.key": renewed.key, "cart.pem": renewed.certificate}
        directory.write(first, content[first])
        [problem] = directory.problems()
        assert problem.startswith("cart.key: does not belong to the certificate in cart.pem")
        directory.write(second, content[second])
        loaded = directory.load()
        assert loaded.by_name["cart"] != before.by_name["cart"]
        assert loaded.by_name["payments"] == before.by_name["payments"]
        before, renewed = loaded, good(CART)


CERTIFICATES = {
    "of another service": (
        lambda: good(PAYMENTS),
        f"is the certificate of {PAYMENTS}; put the one of {CART} there",
    ),
    "of a host": (lambda: good(HOST), f"is the certificate of {HOST}"),
    "of another trust domain": (
        lambda: craft("spiffe://other.test/service/cart"),
        f"spiffe://other.test/service/cart is not of the trust domain {TRUST_DOMAIN}",
    ),
    "without URI": (lambda: craft(dns=("cart",)), "has no URI among its subject alternative names"),
    "with two URIs": (lambda: craft(CART, PAYMENTS), "has 2 URIs and must have exactly one"),
    "of an authority": (lambda: craft(CART, ca=True), "the leaf has to stand first"),
    "without serverAuth": (lambda: craft(CART, purposes=(CLIENT,)), "no extended key usage serverAuth"),
    "without purposes": (lambda: craft(CART, purposes=()), "clientAuth and serverAuth"),
    "without key usage": (lambda: craft(CART, no_usage=True), "no key usage digitalSignature"),
    "expired": (lambda: craft(CART, start=-2 * DAY, end=-DAY), "expired at 20"),
    "not yet valid": (lambda: craft(CART, start=DAY, end=2 * DAY), "set the clock (clock skew)"),
    "self-signed": (
        lambda: craft(CART, self_signed=True),
        "is not accepted in a handshake: self-signed certificate",
    ),
    "of another authority": (
        lambda: good(CART, authority(1)),
        "is not accepted in a handshake: unable to get local issuer certificate; have it issued by an authority in",
    ),
}


@pytest.mark.parametrize("case", CERTIFICATES)
def test_a_certificate_that_peers_would_refuse_is_refused_here(directory, case):
    make, words = CERTIFICATES[case]
    directory.put("cart", make())
    [problem] = directory.problems()
    assert problem.startswith("cart.pem: ")
    assert words in problem


def test_two_faults_of_one_certificate_are_both_told(directory):
    directory.put("cart", craft(PAYMENTS, purposes=(CLIENT,), start=-2 * DAY, end=-DAY))
    problems = directory.problems()
    assert len(problems) == 3
    assert all(problem.startswith("cart.pem: ") for problem in problems)


CONTENTS = {
    "empty": (b"", "is not a file of PEM certificates"),
    "text": (b"hello\n", "is not a file of PEM certificates"),
    "cut short": (good(CART).certificate[:-40], "is not a file of PEM certificates"),
    "broken inside": (
        good(CART).certificate[:100] + b"!" + good(CART).certificate[101:],
        "is not a file of PEM",
    ),
    "with its key": (
        good(CART).certificate + good(CART).key,
        "holds a private key; keep keys in files of their own",
    ),
    "too large": (b"#" * 200_000, "is larger than 136 KiB"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_a_file_that_holds_no_certificates_is_refused(directory, case):
    content, words = CONTENTS[case]
    directory.write("cart.pem", content)
    [problem] = directory.problems()
    assert problem.startswith("cart.pem: ")
    assert words in problem


def test_a_chain_goes_on_whole_and_nothing_else_of_the_file_does(directory):
    cart = good(CART)
    directory.put("cart", cart)
    directory.write("cart.pem", b"a comment\n" + cart.certificate + b"another\n" + authority().pem)
    certificate = directory.load().by_name["cart"].certificate
    assert certificate == cart.certificate + authority().pem


def test_an_encrypted_key_is_refused(directory):
    key = serialization.load_pem_private_key(good(CART).key, None)
    directory.write(
        "cart.key",
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        ),
    )
    [problem] = directory.problems()
    assert problem.startswith("cart.key: is encrypted; decrypt it with openssl pkey")


@pytest.mark.parametrize("kind", ["directory", "fifo", "device"])
def test_what_is_not_a_file_is_refused_without_waiting_for_it(directory, kind):
    path = directory.path / "cart.key"
    path.unlink()
    if kind == "directory":
        path.mkdir(0o700)
    elif kind == "fifo":
        os.mkfifo(path, 0o600)
    else:
        path.symlink_to("/dev/null")
    descriptors = os.listdir("/proc/self/fd")
    [problem] = directory.problems()
    assert problem == "cart.key: is not a regular file"
    assert os.listdir("/proc/self/fd") == descriptors


def test_links_to_files_are_followed(directory):
    (directory.path / "cart.pem").rename(directory.path / "cart.pem.2")
    (directory.path / "cart.pem").symlink_to("cart.pem.2")
    directory.load()


@pytest.mark.parametrize("name", ["../cart", "cart/../cart", "", "host", "ca", "Cart", "cart\n"])
def test_a_name_never_becomes_another_path(directory, name):
    if name == "host":  # always there, and not a service
        assert set(directory.load("host").by_name) == {"host"}
        return
    problems = directory.problems(name)
    assert len(problems) == 1
    assert "the name of a service" in problems[0] or "cannot be named" in problems[0]


def test_an_authority_that_has_expired_among_others_is_left_out_with_a_warning(directory):
    past = datetime.now(UTC) - timedelta(days=4000)
    old = create_authority(TRUST_DOMAIN, past)
    directory.write("ca.pem", old.pem + authority().pem)
    identities = directory.load()
    assert identities.authorities == authority().pem
    [warning] = identities.warnings
    assert "certificate 1 of 2 expired at" in str(warning)
    directory.write("ca.pem", old.pem)
    [problem] = directory.problems()
    assert problem.startswith("ca.pem: certificate 1 of 1 expired at 20")
    assert problem.endswith("; replace it by one that is valid")


def test_only_roots_are_authorities(directory):
    directory.write("ca.pem", authority().pem + good(CART).certificate)
    [problem] = directory.problems()
    assert problem.startswith("ca.pem: certificate 2 of 2 is not an authority's (no CA:TRUE)")


def test_an_intermediate_is_sent_to_where_it_belongs(directory):
    usage = Usage(digital_signature=False, key_cert_sign=True)
    directory.write("ca.pem", authority().pem + craft(ca=True, usage=usage).certificate)
    [problem] = directory.problems()
    assert problem.startswith("ca.pem: certificate 2 of 2 is not a root but issued by another authority; ")
    assert "intermediates go behind the leaf" in problem


def test_the_same_authority_twice_counts_once(directory):
    directory.write("ca.pem", authority().pem * 2 + authority(1).pem)
    assert directory.load().authorities == authority().pem + authority(1).pem


def test_the_time_is_the_callers(directory):
    later = time.time() + 3 * 86400
    problems = directory.problems(clock=lambda: later)
    assert [problem.partition(":")[0] for problem in problems] == ["host.pem", "cart.pem", "payments.pem"]
    assert all("expired at" in problem for problem in problems)
    earlier = time.time() - 3600
    assert all("clock skew" in problem for problem in directory.problems(clock=lambda: earlier))
