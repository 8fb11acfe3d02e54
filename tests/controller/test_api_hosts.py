"""What hosts are given, and what they are not: enrolment, certificates, bundles, reports."""

from __future__ import annotations

import itertools
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from controller.api.callers import Peer
from hostproxy.mesh.bundle import Newest, open_bundle
from tests.controller.conftest import DOMAIN, NOON, POLICY, Scene, csr, first
from tests.controller.memory import MemoryStore

STRANGER = Peer("10.0.0.1")


def names(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return found.get_values_for_type(x509.UniformResourceIdentifier), found.get_values_for_type(x509.DNSName)


# Enrolment


def test_a_host_enrols_with_its_token(scene: Scene) -> None:
    made = scene.expect(201, "POST", "/v1/tokens", {"host": "web-1"})
    assert made["fingerprint"] == scene.parts.authority.fingerprint
    assert made["expires"] == NOON + 900
    body = {"host": "web-1", "token": made["token"], "csr": csr()}
    enrolled = scene.expect(200, "POST", "/v1/enrol", body, peer=STRANGER)
    leaf = first(enrolled["certificate"])
    assert names(leaf) == ([f"spiffe://{DOMAIN}/host/web-1"], [])
    assert leaf.not_valid_after_utc.timestamp() == NOON + 12 * 3600
    assert enrolled["trust_domain"] == DOMAIN
    assert enrolled["roots"] == list(scene.parts.authority.roots)
    assert enrolled["signers"] == [signer.hex() for signer in scene.parts.signing.signers]
    (line,) = [line for line in scene.audit.lines if line["act"] == "host.enrol"]
    assert (line["actor"], line["object"], line["result"]) == ("10.0.0.1", f"spiffe://{DOMAIN}/host/web-1", "ok")
    assert made["token"] not in str(scene.audit.lines)
    assert not any(made["token"].encode() in entry.value for entry in scene.store.entries.values())


def test_a_token_is_good_once_soon_and_for_its_host(scene: Scene) -> None:
    token = scene.token("web-1")
    for body in (
        {"host": "web-2", "token": token, "csr": csr()},
        {"host": "web-1", "token": token[:-1] + ("A" if token[-1] != "A" else "B"), "csr": csr()},
    ):
        scene.expect(403, "POST", "/v1/enrol", body, peer=STRANGER)
    good = {"host": "web-1", "token": token, "csr": csr()}
    scene.expect(200, "POST", "/v1/enrol", good, peer=STRANGER)
    scene.expect(403, "POST", "/v1/enrol", {**good, "csr": csr()}, peer=STRANGER)
    late = scene.token("web-3")
    scene.clock.advance(901)
    scene.expect(403, "POST", "/v1/enrol", {"host": "web-3", "token": late, "csr": csr()}, peer=STRANGER)
    assert scene.audit.acts("refused").count("host.enrol") == 4


class Slow:
    """Answers come in any order, so that whatever can come in between does."""

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        self.inner = MemoryStore()
        self.clock = clock
        self.chance = chance

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        def later(*arguments: Any) -> Deferred[Any]:
            asked: Deferred[Any] = Deferred()

            def answer() -> None:
                method(*arguments).addBoth(asked.callback)

            self.clock.callLater(self.chance.random(), answer)
            return asked

        return later


def test_of_two_with_one_token_one_gets_in_a_thousand_times(directory: Path) -> None:
    scene = Scene(directory, per_minute=100_000)
    slow = Slow(scene.clock, random.Random(4))
    slow.inner = scene.store
    registry: Any = scene.parts.registry
    requests = [csr() for _ in range(20)]
    outcomes = set()
    for number in range(1000):
        host = f"h{number}"
        token = scene.token(host)
        for room in (registry.hosts, registry.tokens, registry.denied, registry.keys):
            room._store = slow
        # Keys are used once; here they are made once, because making is slow.
        for key in [key for key in scene.store.entries if key.startswith("keys/used/")]:
            del scene.store.entries[key]
        both = [
            scene.begin(
                "POST",
                "/v1/enrol",
                {"host": host, "token": token, "csr": requests[(number + each) % 20]},
                peer=Peer(f"10.{each}.{number // 250}.{number % 250}"),
            )
            for each in (0, 1)
        ]
        while not all(both):
            scene.clock.advance(0.05)
        for room in (registry.hosts, registry.tokens, registry.denied, registry.keys):
            room._store = scene.store
        statuses = sorted(found[0].answer.status for found in both)
        outcomes.add(tuple(statuses))
        assert scene.audit.acts().count("host.enrol") == number + 1
    assert outcomes == {(200, 403)}


def test_guessing_is_slowed_down_for_the_one_who_does_it(scene: Scene) -> None:
    token = scene.token("web-1")
    statuses = [
        scene.ask("POST", "/v1/enrol", {"host": "web-1", "token": "hpj_" + "x" * 32, "csr": csr()}, peer=STRANGER)[0]
        for _ in range(100)
    ]
    assert statuses.count(403) < 10
    assert statuses.count(429) > 90
    body = {"host": "web-1", "token": token, "csr": csr()}
    (reply,) = scene.begin("POST", "/v1/enrol", body, peer=STRANGER)
    assert dict(reply.fields)["Retry-After"]
    scene.expect(200, "POST", "/v1/enrol", body, peer=Peer("10.0.0.2"))


def test_strangers_do_not_use_up_the_certificates(directory: Path) -> None:
    scene = Scene(directory, per_minute=50)
    request = csr()
    for number in range(200):
        body = {"host": f"h{number}", "token": "hpj_" + "x" * 32, "csr": request}
        scene.expect(403, "POST", "/v1/enrol", body, peer=Peer(f"10.1.0.{number}"))
    scene.host()


def test_a_second_machine_under_one_name_needs_an_operator(scene: Scene) -> None:
    old = scene.host()
    scene.expect(409, "POST", "/v1/tokens", {"host": "web-1"})
    deployer = scene.operator("bob", "deploy")
    asked = {"host": "web-1", "reenrol": True}
    scene.expect(403, "POST", "/v1/tokens", asked, peer=Peer("10.0.0.3"), authorization=deployer)
    scene.clock.advance(5)
    token = scene.token("web-1", reenrol=True)
    body = {"host": "web-1", "token": token, "csr": csr()}
    scene.expect(200, "POST", "/v1/enrol", body, peer=Peer("10.0.0.4"))
    # The certificate of the machine before is refused from now on.
    scene.expect(403, "POST", "/v1/certificates", {"name": "host", "csr": csr()}, peer=old)


@pytest.mark.parametrize("name", ["", "WEB", "a" * 64, "../etc", "web\n1", "web 1", "wéb", "-web"])
def test_a_name_that_is_none_is_refused(name: str, scene: Scene) -> None:
    status, _ = scene.ask("POST", "/v1/tokens", {"host": name})
    assert status == 400
    status, _ = scene.ask("POST", "/v1/enrol", {"host": name, "token": "hpj_" + "x" * 32, "csr": csr()}, peer=STRANGER)
    assert status in (400, 403)


# Certificates


def test_who_gets_which_certificate(scene: Scene) -> None:
    hosts = {name: scene.host(name) for name in ("h1", "h2", "h3")}
    services = ("cart", "payments", "users", "mail", "search")
    runs = {("h1", "cart"), ("h1", "payments"), ("h2", "payments"), ("h3", "mail")}
    for host, service in runs:
        scene.expect(200, "PUT", f"/v1/services/{service}/hosts/{host}")
    for host, service in itertools.product(hosts, services):
        expected = 200 if (host, service) in runs else 403
        issued = scene.expect(expected, "POST", "/v1/certificates", {"name": service, "csr": csr()}, peer=hosts[host])
        if expected == 200:
            wanted = [f"spiffe://{DOMAIN}/service/{service}"], [f"{host}.host.{DOMAIN}"]
            assert names(first(issued["certificate"])) == wanted
    refused = [line for line in scene.audit.lines if line["act"] == "certificate.issue" and line["result"] == "refused"]
    assert len(refused) == 15 - len(runs)
    scene.expect(200, "DELETE", "/v1/services/mail/hosts/h3")
    scene.expect(403, "POST", "/v1/certificates", {"name": "mail", "csr": csr()}, peer=hosts["h3"])


def test_a_host_renews_its_own_and_nobody_elses(scene: Scene) -> None:
    peer = scene.host()
    issued = scene.expect(200, "POST", "/v1/certificates", {"name": "host", "csr": csr()}, peer=peer)
    leaf = first(issued["certificate"])
    assert names(leaf)[0] == [f"spiffe://{DOMAIN}/host/web-1"]
    fresh = Peer("10.0.0.1", None, leaf)
    scene.clock.advance(7 * 3600)
    scene.expect(200, "POST", "/v1/certificates", {"name": "host", "csr": csr()}, peer=fresh)
    for name in ("web-2", "host/web-2", f"spiffe://{DOMAIN}/host/web-2", "../host", "ca", "", "x" * 64):
        status, _ = scene.ask("POST", "/v1/certificates", {"name": name, "csr": csr()}, peer=fresh)
        assert status in (400, 403), name


def test_a_key_is_certified_once(scene: Scene) -> None:
    one, two = scene.host("h1"), scene.host("h2")
    key = ec.generate_private_key(ec.SECP256R1())
    scene.expect(200, "POST", "/v1/certificates", {"name": "host", "csr": csr(key)}, peer=one)
    for peer in (one, two):
        problem = scene.expect(400, "POST", "/v1/certificates", {"name": "host", "csr": csr(key)}, peer=peer)
        assert "key" in problem["error"]


def san(*values: x509.GeneralName) -> Any:
    return lambda builder: builder.add_extension(x509.SubjectAlternativeName(list(values)), False)


WISHES = {
    "another name": san(x509.UniformResourceIdentifier(f"spiffe://{DOMAIN}/service/payments")),
    "ten thousand names": san(*(x509.DNSName(f"n{number}.example") for number in range(100))),
    "a wildcard": san(x509.DNSName("*.corp.example")),
    "an authority": lambda builder: builder.add_extension(x509.BasicConstraints(True, None), True),
    "a purpose": lambda builder: builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False
    ),
}


@pytest.mark.parametrize("wish", WISHES)
def test_nothing_is_taken_from_a_request_but_its_key(wish: str, scene: Scene) -> None:
    peer = scene.host()
    body = {"name": "host", "csr": csr(build=WISHES[wish])}
    scene.expect(400, "POST", "/v1/certificates", body, peer=peer)


def test_a_request_needs_a_good_key_and_its_signature(scene: Scene) -> None:
    peer = scene.host()
    good = csr()
    broken = good.replace(good.split("\n")[5][:4], "AAAA")
    for text in (csr(rsa.generate_private_key(65537, 1024)), csr(ec.generate_private_key(ec.SECP224R1())), broken, "x"):
        scene.expect(400, "POST", "/v1/certificates", {"name": "host", "csr": text}, peer=peer)


def test_who_is_denied_gets_nothing_any_more(scene: Scene) -> None:
    one, two = scene.host("h1"), scene.host("h2")
    scene.expect(200, "PUT", "/v1/services/cart/hosts/h1")
    scene.apply()
    scene.expect(200, "POST", "/v1/hosts/h1/deny", {"reason": "stolen"})
    for method, path, body in (
        ("POST", "/v1/certificates", {"name": "host", "csr": csr()}),
        ("POST", "/v1/certificates", {"name": "cart", "csr": csr()}),
        ("GET", "/v1/bundle", b""),
        ("POST", "/v1/report", {"software": "1"}),
    ):
        assert "denied" in scene.expect(403, method, path, body, peer=one)["error"]
    # The others are told, as a generation of its own.
    sealed = scene.expect(200, "GET", "/v1/bundle?epoch=1&generation=1", peer=two)
    manifest = opened(scene, sealed, "h2").manifest
    assert (manifest.generation, manifest.denied) == (2, (f"spiffe://{DOMAIN}/host/h1",))
    scene.expect(200, "POST", "/v1/hosts/h1/allow")
    scene.expect(200, "GET", "/v1/bundle", peer=one)


def test_an_expired_certificate_is_nobodys(scene: Scene) -> None:
    peer = scene.host()
    scene.clock.advance(12 * 3600 + 1)
    scene.expect(401, "POST", "/v1/certificates", {"name": "host", "csr": csr()}, peer=peer)


def test_a_forgotten_host_is_nobody(scene: Scene) -> None:
    peer = scene.host()
    scene.expect(200, "DELETE", "/v1/hosts/web-1")
    scene.expect(403, "GET", "/v1/bundle", peer=peer)
    scene.expect(404, "DELETE", "/v1/hosts/web-1")


def test_one_host_cannot_use_up_what_all_may_have(directory: Path) -> None:
    scene = Scene(directory, per_minute=1000, host_per_minute=20)
    greedy, modest = scene.host("h1"), scene.host("h2")
    request = csr()
    statuses = [
        scene.ask("POST", "/v1/certificates", {"name": "host", "csr": request}, peer=greedy)[0] for _ in range(1000)
    ]
    assert statuses.count(429) > 970
    scene.expect(200, "POST", "/v1/certificates", {"name": "host", "csr": csr()}, peer=modest)
    scene.clock.advance(60)
    scene.expect(200, "POST", "/v1/certificates", {"name": "host", "csr": csr()}, peer=greedy)


def test_without_an_audit_log_nothing_is_issued(scene: Scene) -> None:
    peer, token = scene.host(), scene.token("web-2")
    scene.apply()
    scene.audit.broken = True
    problem = scene.expect(503, "POST", "/v1/certificates", {"name": "host", "csr": csr()}, peer=peer)
    assert "BEGIN" not in str(problem)
    scene.expect(503, "POST", "/v1/enrol", {"host": "web-2", "token": token, "csr": csr()}, peer=STRANGER)
    for method, path, body in (
        ("POST", "/v1/policy", {"files": {"a.toml": "# another\n"}}),
        ("POST", "/v1/tokens", {"host": "web-3"}),
        ("POST", "/v1/hosts/web-1/deny", {}),
    ):
        scene.expect(503, method, path, body)
    scene.audit.broken = False
    # Nothing of it was done, and what hosts do meanwhile goes on.
    assert len(scene.expect(200, "GET", "/v1/policy")["generations"]) == 1
    assert scene.expect(200, "GET", "/v1/hosts")["hosts"][0]["denied"] is False
    scene.audit.broken = True
    scene.expect(200, "GET", "/v1/bundle", peer=peer)
    scene.expect(200, "GET", "/v1/status")


# Bundles and reports


def opened(scene: Scene, sealed: bytes, host: str) -> Any:
    signers = scene.parts.signing.signers
    now = scene.clock.seconds()
    return open_bundle(sealed, signers=signers, mesh=DOMAIN, host=host, now=now, newest=Newest())


def test_a_host_gets_its_own_bundle_and_no_other(scene: Scene) -> None:
    one, two = scene.host("h1"), scene.host("h2")
    assert scene.ask("GET", "/v1/bundle", peer=one) == (204, b"")
    scene.apply()
    found = {name: scene.expect(200, "GET", "/v1/bundle", peer=peer) for name, peer in (("h1", one), ("h2", two))}
    for name, sealed in found.items():
        bundle = opened(scene, sealed, name)
        assert bundle.manifest.host == name
        assert bundle.files == {name: text.encode() for name, text in POLICY.items()}
    for target in ("/v1/bundle?host=h2", "/v1/bundle?epoch=0&generation=0&host=h2"):
        assert scene.expect(200, "GET", target, peer=one) == found["h1"]
    assert scene.ask("GET", "/v1/bundle?epoch=1&generation=1", peer=one) == (204, b"")
    for query in ("epoch=-1", "epoch=x", "generation=1e3", "epoch=1&epoch=2", "epoch=%D9%A1"):
        scene.expect(400, "GET", f"/v1/bundle?{query}", peer=one)


def test_a_report_is_kept_and_answered(scene: Scene) -> None:
    peer = scene.host()
    assert scene.report(peer, 0, 0, state="none") == {"epoch": 0, "generation": 0, "confirm": True}
    scene.apply()
    scene.clock.advance(1)
    assert scene.report(peer, 0, 0, state="none")["generation"] == 1
    (row,) = scene.expect(200, "GET", "/v1/hosts")["hosts"]
    assert (row["state"], row["generation"], row["wanted"]) == ("STALE", 0, 1)
    scene.clock.advance(1)
    scene.report(peer, 1, certificates={"host": NOON + 3600})
    (row,) = scene.expect(200, "GET", "/v1/hosts")["hosts"]
    assert (row["state"], row["address"], row["certificate_ends"]) == ("SYNCED", "10.0.0.1", NOON + 3600)
    scene.clock.advance(1)
    scene.report(peer, 1, state="refused", refused=(1, 2), problems=("payments.toml:3: no",))
    shown = scene.expect(200, "GET", "/v1/hosts/web-1")["host"]
    assert (shown["state"], shown["problems"]) == ("ERROR", ["payments.toml:3: no"])
    scene.clock.advance(timedelta(hours=1).total_seconds())
    assert scene.expect(200, "GET", "/v1/hosts")["hosts"][0]["state"] == "AWAY"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"software": "1", "more": 1}',
        b'{"software": 1}',
        b'{"software": "1", "generation": -1}',
        b'{"software": "1", "state": "fine"}',
        b'{"software": "' + b"x" * 129 + b'"}',
        b"[" * 10_000,
        b'\xff\xfe{"software": "1"}',
        b"x" * (256 * 1024 + 1),
    ],
)
def test_a_body_is_what_it_should_be(body: bytes, scene: Scene) -> None:
    peer = scene.host()
    for path in ("/v1/report", "/v1/certificates"):
        problem = scene.expect(400, "POST", path, body, peer=peer)
        assert problem["error"].startswith("the body is not what is wanted")


def test_reports_come_at_a_measure(scene: Scene) -> None:
    peer = scene.host()
    statuses = [scene.ask("POST", "/v1/report", {"software": "1"}, peer=peer)[0] for _ in range(100)]
    assert statuses.count(429) >= 40
