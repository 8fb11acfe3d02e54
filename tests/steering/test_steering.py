"""A host and a controller over real TLS: joining, certificates, bundles, and what must not work."""

from __future__ import annotations

import json
import os
import random
import socket
import ssl
import stat
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs

from controller.authority.requests import public_key
from controller.push.pusher import Pusher, PushFailed
from controller.push.tls import Credential
from hostproxy.mesh import bundle
from hostproxy.mesh.messages import Confirm
from hostproxy.mesh.spiffe import SpiffeId
from hostproxy.steering import controller as controller_room
from hostproxy.steering import server
from hostproxy.steering.certificates import Wrong
from tests.fakes.fake_controller import ALLOW, DENY, MESH, FakeController
from tests.integration import needs
from tests.steering.conftest import CONF, Full, Scene


def test_a_host_joins_and_gets_everything(scene: Scene) -> None:
    host = scene.ready()
    assert host.usable
    assert host.policy.value.default_access == "deny"
    assert sorted(host.identities.value.by_name) == ["cart", "host", "web"]
    assert host.state().problems == ()
    assert host.state().certificates.keys() == {"host", "cart", "web"}


def test_what_lies_on_the_disk_is_closed_to_others_and_holds_no_token(scene: Scene) -> None:
    scene.ready()
    state = scene.path / "state"
    found = list(state.rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_file()} == {0o600}
    assert {path.name for path in (state / "identity").iterdir()} == {"host.pem", "cart.pem", "web.pem"}
    assert not [path for path in found if path.is_file() and b"a-token" in path.read_bytes()]


def test_a_key_never_leaves_the_host(scene: Scene) -> None:
    bodies: list[bytes] = []

    def listen(request: Any) -> None:
        bodies.append(request.content.read())
        request.content.seek(0)

    scene.controller.override = dict.fromkeys(("/v1/enrol", "/v1/certificates", "/v1/report"), listen)
    scene.ready()
    assert len(bodies) >= 4
    assert not [body for body in bodies if b"PRIVATE" in body]
    keys = [path.read_bytes().split(b"-----")[2].strip() for path in (scene.path / "state/identity").iterdir()]
    assert len(set(keys)) == 3, "each has a key of its own"


# Whom the token is given to


def strangers(scene: Scene, who: str) -> None:
    controller = scene.controller
    match who:
        case "another root":
            scene.other = FakeController(scene.loop.reactor, scene.path / "other")  # type: ignore[attr-defined]
            controller._key = scene.other._key  # type: ignore[attr-defined]
            controller.chain = scene.other.chain + scene.other.authority.roots[0]  # type: ignore[attr-defined]
            controller.shown = controller.chain.encode()
        case "the right root behind a foreign leaf":
            other = FakeController(scene.loop.reactor, scene.path / "other")
            controller._key = other._key
            controller.shown = (other.chain + controller.authority.roots[0]).encode()
        case "a host":
            controller.certify("host")
        case "an operator":
            controller.certify("operator")
        case "another name":
            controller.certify(dns="other.corp.example")
        case "no name":
            controller.certify(dns="")
        case "expired":
            leaf = SpiffeId(MESH, "controller", "c")
            ago, life = timedelta(hours=3), timedelta(hours=1)
            controller.chain = controller.issue(leaf, controller._key, dns="localhost", life=life, ago=ago)
        case "no root in the chain":
            controller.shown = controller.chain.encode()


@pytest.mark.parametrize(
    "who",
    [
        "another root",
        "the right root behind a foreign leaf",
        "a host",
        "an operator",
        "another name",
        "no name",
        "expired",
        "no root in the chain",
    ],
)
def test_a_token_is_for_the_controller_alone(scene: Scene, who: str) -> None:
    strangers(scene, who)
    host = scene.start()
    scene.problem("this host cannot join")
    assert scene.controller.requests == [], "nothing may be said to a stranger"
    assert not host.usable


def test_a_joined_host_speaks_to_its_controller_alone(scene: Scene) -> None:
    scene.ready()
    said = len(scene.controller.requests)
    scene.controller.certify("host")
    scene.again()
    scene.host._schedule(0.0)  # type: ignore[union-attr]
    scene.problem("and no controller")
    assert len(scene.controller.requests) == said


def test_a_root_may_come_as_a_file(scene: Scene) -> None:
    (scene.path / "root.pem").write_text(scene.controller.authority.roots[0])
    text = CONF.replace('ca_fingerprint = "{fingerprint}"', 'ca_file = "root.pem"')
    scene.controller.offer()
    scene.start(conf=text)
    scene.loop.until(lambda: scene.host and scene.host.usable)


def test_a_token_that_is_refused_waits_for_a_new_one(scene: Scene) -> None:
    scene.write_token("another-token-of-20b")
    scene.controller.offer()
    host = scene.start()
    problem = scene.problem("does not take the token")
    assert "hostproxy-controller token create" in problem
    assert "another-token" not in problem
    scene.loop.run_for(0.2)
    assert scene.controller.requests == ["POST /v1/enrol"], "it is not tried again and again"
    scene.write_token("a-token-of-16-bytes")
    scene.loop.until(lambda: host.usable)
    assert host.state().problems == ()


def test_a_token_that_others_may_read_is_not_used(scene: Scene) -> None:
    os.chmod(scene.token, 0o644)
    scene.start()
    assert "chmod 600" in scene.problem("open to others")
    assert scene.controller.requests == []
    os.chmod(scene.token, 0o600)
    scene.loop.until(lambda: "POST /v1/enrol" in scene.controller.requests)


def test_without_a_token_it_says_what_to_do(scene: Scene) -> None:
    scene.token.unlink()
    scene.start()
    assert "token create --host web-1" in scene.problem("has no certificate")


def test_a_token_is_not_spent_when_nothing_can_be_kept(scene: Scene, full: Full) -> None:
    full.on = True
    scene.start()
    scene.problem("No space left")
    assert scene.controller.requests == []


# Without the controller


def test_a_first_start_without_the_controller_fails_closed(scene: Scene) -> None:
    scene.controller.close()
    scene.loop.run_for(0.05)
    host = scene.start()
    scene.problem("connection refused")
    assert not host.usable
    assert host.policy.value.default_access == "deny"
    assert host.identities.value.by_name == {}


def test_a_start_without_the_controller_serves_from_the_disk(scene: Scene) -> None:
    before = scene.ready().identities.value
    scene.controller.close()
    scene.loop.run_for(0.05)
    host = scene.again()
    assert host.usable, "at once"
    assert host.identities.value.by_name == before.by_name
    assert host.identities.value.authorities == before.authorities
    assert host.state().state == "kept"


@pytest.mark.parametrize("how", ["hang", "drip", "reset", "too much", "nonsense", "500"])
def test_a_controller_that_does_not_do_well(scene: Scene, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.ready()
    policy = scene.host.policy.value  # type: ignore[union-attr]
    monkeypatch.setattr(controller_room, "TIMEOUT", 0.5)

    def answer(request: Any) -> Any:
        match how:
            case "drip":
                request.setHeader("Content-Length", "1000")
                request.write(b"x")
                return 0, b""
            case "reset":
                request.setHeader("Content-Length", "1000")
                request.write(b"x" * 10)
                request.channel.transport.abortConnection()
                return 0, b""
            case "too much":
                return 200, b"x" * (bundle.BUNDLE_SIZE + 1)
            case "nonsense":
                return 200, b"x" * 1000
            case "500":
                return 500, b'{"error": "no\\u001b[31m disk"}'
        return 0, b""

    scene.controller.override["/v1/bundle"] = answer
    scene.ask()
    texts = {"hang": "within 0.5 s", "drip": "within 0.5 s", "reset": "cut", "too much": "more than"}
    problem = scene.problem(texts.get(how, "not a bundle" if how == "nonsense" else "no?[31m disk"))
    assert "\x1b" not in problem
    assert scene.host.policy.value is policy  # type: ignore[union-attr]
    scene.controller.override.clear()
    scene.controller.offer(ALLOW)
    scene.ask()
    scene.loop.until(lambda: scene.host.policy.value.default_access == "allow", 10.0)  # type: ignore[union-attr]
    scene.loop.until(lambda: not scene.host.state().problems)  # type: ignore[union-attr]
    assert len(scene.host._controller._way._endpoint.connections) <= 1  # type: ignore[union-attr]


def test_what_is_applied_between_the_two_questions_is_fetched_at_once(scene: Scene) -> None:
    def apply(_: object) -> None:
        del scene.controller.override["/v1/report"]
        scene.controller.offer(ALLOW)

    scene.controller.override["/v1/report"] = apply
    host = scene.start()
    scene.loop.until(lambda: host.usable, 5.0)  # the next time is in an hour
    assert host.policy.value.default_access == "allow"


def test_a_version_that_there_is_not_is_asked_for_once(scene: Scene) -> None:
    scene.controller.override["/v1/report"] = lambda _: scene.controller.json(epoch=7, generation=7, confirm=True)
    scene.start()
    scene.loop.until(lambda: scene.controller.requests.count("POST /v1/report") == 2, 5.0)
    scene.loop.run_for(0.3)
    assert scene.controller.requests.count("POST /v1/report") == 2


# Certificates


def test_a_name_that_is_refused_keeps_nobody_else_from_having_one(scene: Scene) -> None:
    scene.controller.services.discard("web")
    scene.controller.offer()
    host = scene.start()
    scene.loop.until(lambda: "cart" in host.identities.value.by_name)
    assert "web does not run there" in scene.problem("certificate of web")
    scene.loop.until(lambda: host.usable)
    assert set(host.identities.value.by_name) == {"host", "cart"}


def test_certificates_are_renewed_with_fresh_keys(scene: Scene) -> None:
    scene.controller.life = timedelta(seconds=4)
    host = scene.ready()
    before = host.identities.value.by_name
    scene.loop.until(lambda: all(host.identities.value.by_name[name].key != before[name].key for name in before), 5.0)
    assert scene.controller.requests.count("POST /v1/enrol") == 1
    assert scene.controller.requests.count("POST /v1/certificates") <= 8, "and not more often than needed"


def test_a_service_that_comes_and_goes(scene: Scene) -> None:
    host = scene.ready()
    scene.controller.services.add("ledger")
    config = scene.config(conf=CONF.replace('name = "web"', 'name = "ledger"'))
    assert host.serves(config)
    host.take(config)
    scene.loop.until(lambda: "ledger" in host.identities.value.by_name)
    assert set(host.identities.value.by_name) == {"host", "cart", "ledger"}
    assert {path.name for path in (scene.path / "state/identity").iterdir()} == {"host.pem", "cart.pem", "ledger.pem"}


@pytest.mark.parametrize(
    ("which", "text"),
    [
        ("another key", "another key"),
        ("another service", "is for spiffe://corp.example/service/web, not"),
        ("the host's", "is for spiffe://corp.example/host/web-1, not"),
        ("another authority", "does not verify"),
        ("expired", "does not verify"),
        ("nonsense", "no certificate"),
        ("no roots", "no root"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for(scene: Scene, which: str, text: str) -> None:
    controller = scene.controller

    def answer(request: Any) -> Any:
        body = json.loads(request.content.read())
        request.content.seek(0)
        if body["name"] != "cart":
            return None
        key = public_key(body["csr"].encode())
        who = SpiffeId.service(MESH, "cart")
        roots = list(controller.authority.roots)
        authority, now, life = controller.authority, datetime.now(UTC), timedelta(hours=1)
        match which:
            case "another key":
                key = ec.generate_private_key(ec.SECP256R1()).public_key()
            case "another service":
                who = SpiffeId.service(MESH, "web")
            case "the host's":
                who = SpiffeId.host(MESH, "web-1")
            case "another authority":
                authority = FakeController(None, scene.path / f"other-{time.monotonic()}").authority
            case "expired":
                now -= timedelta(hours=2)
            case "no roots":
                roots = []
        pem = "x" if which == "nonsense" else authority.issue(key, who, now=now, life=life).decode()
        return controller.json(certificate=pem, roots=roots)

    controller.override["/v1/certificates"] = answer
    controller.offer()
    host = scene.start()
    scene.loop.until(lambda: "web" in host.identities.value.by_name)
    assert text in scene.problem("certificate of cart")
    assert "cart" not in host.identities.value.by_name


def test_a_host_whose_certificate_has_expired_joins_again(scene: Scene) -> None:
    scene.controller.life = timedelta(seconds=3)
    host = scene.ready()
    scene.controller.override["/v1/certificates"] = lambda _: (403, b'{"error": "later"}')
    assert "certificate of host" in scene.problem("later")
    problem = scene.problem("has expired at")
    assert "new token" in problem
    host._certificates._schedule(0.0)
    scene.problem("does not take the token")
    scene.controller.override.clear()
    scene.controller.life = timedelta(hours=1)
    scene.controller.tokens["a-second-token-16b"] = "web-1"
    scene.write_token("a-second-token-16b")
    scene.loop.until(lambda: not host.state().problems, 10.0)
    assert host.state().certificates["host"] > time.time() + 1800


def test_roots_and_signers_are_replaced_without_a_gap(scene: Scene) -> None:
    controller = scene.controller
    controller.life = timedelta(seconds=6)
    host = scene.ready()
    first = controller.authority.roots[0]
    now = datetime.now(UTC)
    number = controller.authority.add_root(now)
    second = Ed25519PrivateKey.generate()
    controller.signers.append(second)
    assert scene.push(controller.seal()).state == "applied"
    assert host.identities.value.authorities.count(b"BEGIN CERT") == 2
    controller.authority.use_root(number, now)
    controller.certify()
    controller.signer, controller.signers = second, [second]
    assert scene.push(controller.seal()).state == "applied", "the new key signs, and its bundle came over the new root"
    before = dict(host.identities.value.by_name)
    scene.loop.until(lambda: all(host.identities.value.by_name[name] != before[name] for name in before))
    assert host.state().problems == ()
    controller.authority.drop_root(1)
    assert scene.push(controller.seal()).state == "applied"
    assert first.encode() not in host.identities.value.authorities
    assert scene.again().usable
    assert scene.host.state().problems == ()  # type: ignore[union-attr]


# Bundles


def test_a_push_is_acknowledged(scene: Scene) -> None:
    host = scene.ready()
    data = scene.controller.seal(ALLOW, denied=("spiffe://corp.example/host/evil",))
    report = scene.push(data)
    assert (report.state, report.generation, report.digest) == ("applied", 2, bundle.digest_of(data))
    assert report.certificates.keys() == {"host", "cart", "web"}
    assert host.policy.value.default_access == "allow"
    assert host.denied.value == ("spiffe://corp.example/host/evil",)
    again = scene.push(data)
    assert (again.state, again.generation) == ("applied", 2)


def test_the_controllers_own_way_to_push(scene: Scene) -> None:
    scene.ready()
    fake = scene.controller
    chain = tuple(x509.load_pem_x509_certificates(fake.chain.encode()))
    roots = tuple(x509.load_pem_x509_certificate(each.encode()) for each in fake.authority.roots)
    pusher = Pusher(scene.loop.reactor, MESH, Credential(chain, fake._key, roots), 5.0)
    address = f"127.0.0.1:{scene.port}"
    trial = fake.seal(ALLOW, confirm_within=60.0)
    report = scene.wait(pusher.push("web-1", address, trial))
    assert (report.state, report.generation, report.confirmed) == ("applied", 2, False)
    scene.wait(pusher.confirm("web-1", address, Confirm(epoch=1, generation=2, digest=report.digest)))
    assert scene.host.report().confirmed  # type: ignore[union-attr]
    with pytest.raises(PushFailed, match="host/web-1 answers there"):
        scene.wait(pusher.push("web-2", address, trial))


def test_a_refusal_says_every_problem_and_is_forgotten(scene: Scene) -> None:
    host = scene.ready()
    policy = host.policy.value
    bad = {"a.toml": b'[defaults]\naccess = "maybe"\n', "b.toml": b"[service.x]\nretries = 1\n"}
    report = scene.push(scene.controller.seal(bad))
    assert (report.state, report.generation, report.refused) == ("refused", 1, (1, 2))
    assert any("a.toml:2" in each for each in report.problems)
    assert any("b.toml:2" in each for each in report.problems)
    assert host.policy.value is policy
    report = scene.push(scene.controller.seal(ALLOW))
    assert (report.state, report.problems, report.refused) == ("applied", (), (0, 0))
    assert host.policy.value.default_access == "allow"


def test_what_is_no_good_is_not_fetched_again_and_again(scene: Scene) -> None:
    scene.ready()
    scene.controller.offer({"a.toml": b"x = 1\n"})
    fetched: list[object] = []
    scene.controller.override["/v1/bundle"] = lambda request: fetched.append(request)
    for _ in range(3):
        scene.ask()
    assert len(fetched) == 3
    assert fetched[1].uri == b"/v1/bundle?epoch=1&generation=2"  # type: ignore[attr-defined]
    assert scene.controller.reports[-1].state == "refused", "the controller is told"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"generation": 1}, "conflict"),
        ({"epoch": 0, "generation": 5}, "rollback"),
        ({"generation": 1 + 10**9}, "fast-forward"),
        ({"host": "web-2"}, "host"),
        ({"mesh": "other.example"}, "mesh"),
        ({"issued": time.time() + 7200}, "clock"),
        ({"roots": ("-----BEGIN CERTIFICATE-----\n",)}, "roots"),
        ({"key": Ed25519PrivateKey.generate()}, "signer"),
    ],
)
def test_good_signatures_of_what_must_not_be(scene: Scene, changes: dict[str, Any], code: str) -> None:
    host = scene.ready()
    policy, files = host.policy.value, snapshot(scene.path / "state")
    report = scene.push(scene.controller.seal(ALLOW, **changes))
    assert (report.state, report.generation) == ("refused", 1)
    assert host.state().refused_code == code
    assert host.policy.value is policy
    assert snapshot(scene.path / "state") == files


def test_corruption_on_the_way(scene: Scene) -> None:
    host = scene.ready()
    policy, files = host.policy.value, snapshot(scene.path / "state")
    good = scene.controller.seal(ALLOW)
    numbers = random.Random(7)
    for number in range(20):
        data = bytearray(good)
        if number % 2:
            data[numbers.randrange(len(data))] ^= 1 << numbers.randrange(8)
        else:
            del data[numbers.randrange(len(data)) :]
        assert scene.push(bytes(data)).state == "refused"
    assert host.policy.value is policy
    assert snapshot(scene.path / "state") == files
    assert scene.push(good).state == "applied"


def test_older_ones_are_refused_after_a_restart(scene: Scene) -> None:
    scene.ready()
    old, new = scene.controller.seal(DENY), scene.controller.seal(ALLOW)
    assert scene.push(new).state == "applied"
    host = scene.again()
    assert host.policy.value.default_access == "allow"
    scene.loop.run_for(0.05)
    report = scene.push(old)
    assert (report.state, report.generation) == ("refused", 3)


def test_an_expired_bundle_goes_on_and_is_shown(scene: Scene) -> None:
    scene.ready()
    report = scene.push(scene.controller.seal(ALLOW, expires=time.time() - 60))
    assert (report.state, report.expired) == ("applied", True)
    assert "cut off" in scene.problem("has expired at")


# Confirming


def test_what_nobody_confirms_goes_by_itself(scene: Scene) -> None:
    host = scene.ready()
    data = scene.controller.seal(ALLOW, confirm_within=0.4)
    report = scene.push(data)
    assert (report.state, report.confirmed) == ("applied", False)
    assert host.policy.value.default_access == "allow"
    scene.controller.close()
    scene.loop.until(lambda: host.policy.value.default_access == "deny", 2.0)
    state = host.state()
    assert (state.state, state.generation, state.refused, state.confirm_until) == ("reverted", 1, (1, 2), 0.0)
    assert "was not confirmed" in state.problems[0]
    assert scene.push(data).state == "refused"
    assert host.state().refused_code == "reverted"
    scene.loop.run_for(0.1)
    host = scene.again()
    assert (host.state().state, host.state().generation) == ("reverted", 1)
    assert scene.push(data).state == "refused", "nor after a restart"
    assert scene.push(scene.controller.seal(ALLOW)).state == "applied", "but for a newer one"


@pytest.mark.parametrize("how", ["push", "report"])
def test_what_is_confirmed_stays(scene: Scene, how: str) -> None:
    host = scene.ready()
    data = scene.controller.seal(ALLOW, confirm_within=0.6)
    scene.controller.confirm = how == "report"
    report = scene.push(data)
    if how == "push":
        for digest in ("0" * 64, report.digest):
            assert host.state().confirm_until, "another digest confirms nothing"
            scene.confirm(2, digest)
    else:
        scene.ask()
    assert not host.state().confirm_until
    scene.loop.run_for(0.8)
    assert (host.state().state, host.state().generation) == ("applied", 2)
    assert scene.again().policy.value.default_access == "allow"


def test_the_clock_for_it_goes_on_while_nothing_runs(scene: Scene) -> None:
    scene.ready()
    scene.push(scene.controller.seal(ALLOW, confirm_within=30.0))
    host = scene.again()
    assert host.policy.value.default_access == "allow", "there is time yet"
    assert host.state().confirm_until
    scene.stop()
    scene.shift = 60.0
    host = scene.start()
    assert host.policy.value.default_access == "deny"
    assert host.state().state == "reverted"


def test_it_goes_back_to_what_was_confirmed_last(scene: Scene) -> None:
    host = scene.ready()
    scene.push(scene.controller.seal(ALLOW, confirm_within=30.0))
    scene.push(scene.controller.seal(ALLOW, confirm_within=0.2))
    scene.loop.until(lambda: host.state().state == "reverted", 2.0)
    assert host.state().generation == 1


def test_with_nothing_to_go_back_to_it_stays(scene: Scene) -> None:
    scene.controller.offer(ALLOW, confirm_within=0.1)
    host = scene.start()
    scene.loop.until(lambda: host.usable)
    scene.loop.run_for(0.3)
    assert host.policy.value.default_access == "allow"
    assert not host.report().confirmed


# The disk


def test_a_full_disk_keeps_nobody_from_taking_policy(scene: Scene, full: Full) -> None:
    host = scene.ready()
    files = snapshot(scene.path / "state")
    full.on = True
    report = scene.push(scene.controller.seal(ALLOW))
    assert report.state == "applied"
    assert any("No space left" in each for each in report.problems)
    assert host.policy.value.default_access == "allow"
    assert snapshot(scene.path / "state") == files
    full.on = False
    scene.host._keeper.save()  # type: ignore[union-attr]  # as each minute
    scene.loop.until(lambda: not host.state().problems)
    assert scene.again().policy.value.default_access == "allow"


def test_damaged_bundles_fall_back_one_after_the_other(scene: Scene) -> None:
    scene.ready()
    scene.push(scene.controller.seal(ALLOW))
    scene.push(scene.controller.seal(ALLOW))
    scene.push(scene.controller.seal(DENY))
    bundles = scene.path / "state/bundles"
    assert sorted(path.name for path in bundles.iterdir()) == ["1-2", "1-3", "1-4"]
    scene.stop()
    for name, generation in (("1-4", 3), ("1-3", 2)):
        data = bytearray((bundles / name).read_bytes())
        data[len(data) // 2] ^= 1
        (bundles / name).write_bytes(data)
        host = scene.start()
        assert host.state().generation == generation
        assert any(f"bundle {name}, which was kept" in each for each in host.state().problems)
        assert host.policy.value.default_access == "allow"
        scene.loop.run_for(0.1)
        scene.stop()
    (bundles / "1-2").write_bytes(b"")
    scene.controller.close()
    host = scene.start()
    assert not host.usable
    assert host.policy.value.default_access == "deny"


def test_what_was_damaged_is_fetched_again(scene: Scene) -> None:
    scene.ready()
    scene.push(scene.controller.offer(ALLOW))
    scene.stop()
    (scene.path / "state/bundles/1-2").write_bytes(b"x")
    host = scene.start()
    assert host.state().generation == 1
    scene.ask()
    assert host.state().generation == 2
    scene.loop.until(lambda: not host.state().problems)


@pytest.mark.parametrize("content", [b"", b"x", None])
def test_a_damaged_record_is_no_way_back(scene: Scene, content: bytes | None) -> None:
    scene.ready()
    old = scene.controller.seal(DENY)
    scene.push(scene.controller.seal(ALLOW))
    scene.stop()
    record = scene.path / "state/controller.state"
    data = bytearray(record.read_bytes())
    data[200] ^= 1
    record.write_bytes(bytes(data) if content is None else content)
    host = scene.start()
    assert host.usable
    assert host.state().generation == 3
    scene.loop.run_for(0.2)
    assert scene.push(old).state == "refused"


def test_a_renamed_host_is_another(scene: Scene) -> None:
    scene.ready()
    scene.stop()
    host = scene.start(conf=CONF.replace("web-1", "web-9"))
    assert not host.usable
    assert host.identities.value.by_name == {}


# The port for the controller


REPORT = b"GET /v1/report HTTP/1.1\r\nHost: x\r\n\r\n"


def dial(scene: Scene, chain: str | None, key: Any, request: bytes = REPORT) -> str:
    """What somebody with this certificate gets to hear."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if chain is not None:
        pem = scene.path / "dial.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pem.write_bytes(private + chain.encode())
        context.load_cert_chain(pem)

    def talk() -> str:
        try:
            with socket.create_connection(("127.0.0.1", scene.port), 5) as plain, context.wrap_socket(plain) as tls:
                tls.sendall(request)
                answer = b""
                while b"\r\n\r\n" not in answer and (piece := tls.recv(65536)):
                    answer += piece
                return answer.decode().split("\r\n")[0]
        except OSError as error:
            return type(error).__name__

    return str(scene.aside(talk))


@pytest.mark.parametrize("who", ["nobody", "host", "service", "operator", "foreign", "expired", "denied"])
def test_only_controllers_are_let_in(scene: Scene, who: str) -> None:
    scene.ready()
    controller = scene.controller
    key = ec.generate_private_key(ec.SECP256R1())
    chain: str | None = None
    boss = SpiffeId(MESH, "controller", "controller-2")
    match who:
        case "host" | "service" | "operator":
            chain = controller.issue(SpiffeId(MESH, who, "web-1"), key)  # type: ignore[arg-type]
        case "foreign":
            chain = FakeController(None, scene.path / "other").issue(boss, key)
        case "expired":
            chain = controller.issue(boss, key, life=timedelta(hours=1), ago=timedelta(hours=2))
        case "denied":
            scene.push(controller.seal(denied=(str(boss),)))
            chain = controller.issue(boss, key)
    assert not dial(scene, chain, key).startswith("HTTP")
    good = controller.issue(SpiffeId(MESH, "controller", "controller-3"), key)
    assert dial(scene, good, key) == "HTTP/1.1 200 OK"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        (b"DELETE /v1/bundle HTTP/1.1\r\nHost: x\r\n\r\n", "405"),
        (b"PUT /v1/bundle HTTP/1.1\r\nHost: x\r\nContent-Length: 4194305\r\n\r\n", "413"),
        (b"PUT /v1/bundle HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", "411"),
        (b"POST /v1/confirm HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", "400"),
        (b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "431"),
    ],
)
def test_requests_that_are_not_understood(scene: Scene, request_: bytes, status: str) -> None:
    scene.ready()
    key = ec.generate_private_key(ec.SECP256R1())
    chain = scene.controller.issue(SpiffeId(MESH, "controller", "c"), key)
    assert dial(scene, chain, key, request_).split()[1] == status


def test_many_connections_do_not_keep_the_controller_out(scene: Scene) -> None:
    scene.ready()
    open_: list[socket.socket] = []
    try:
        for _ in range(60):
            open_.append(socket.create_connection(("127.0.0.1", scene.port), 5))
            scene.loop.run_for(0.01)
        assert scene.push(scene.controller.seal(ALLOW)).state == "applied"
        assert len(scene.host._listening._factory.channels) <= server.CONNECTIONS  # type: ignore[union-attr]
    finally:
        for each in open_:
            each.close()


class Wire(StringTransport):
    """What a channel sees of TLS."""

    def getHandle(self) -> None:
        """Nobody looks at it here."""


def test_refusals_do_not_fill_the_log(scene: Scene) -> None:
    clock, wrong = Clock(), ["it is spiffe://a/host/x, and no controller"]

    def check(_: object) -> None:
        raise Wrong(wrong[0])

    factory = server.Factory(clock, lambda *_: fail(AssertionError("nobody was let in")), check)
    with capturedLogs() as logged:
        for number in range(100):
            wire = Wire()
            channel = factory.buildProtocol(None)
            channel.makeConnection(wire)
            if number % 2:
                channel.handshakeCompleted()
            else:
                # Denied since the handshake. Twisted is not to go on with a request that is gone.
                channel.dataReceived(REPORT)
            assert (wire.disconnecting or wire.disconnected, wire.value()) == (True, b"")
        assert (len(logged), factory.refused) == (1, 100)
        clock.advance(server.QUIET)
        factory.refuse("10.0.0.1", wrong[0])
        assert "(99 more like it" in str(logged[1]["more"])
        for number in range(1000):
            factory.refuse("10.0.0.1", f"it is spiffe://a/service/s{number}, and no controller")
    assert len(logged) <= server.REASONS + 3


def test_nothing_is_resumed(scene: Scene) -> None:
    needs.program("openssl")
    scene.ready()
    key = ec.generate_private_key(ec.SECP256R1())
    pem, session = scene.path / "c.pem", scene.path / "session"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(private + scene.controller.issue(SpiffeId(MESH, "controller", "c"), key).encode())
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{scene.port}", "-cert", str(pem), "-key", str(pem)]
    command += ["-cert_chain", str(pem), "-ign_eof"]

    def ask(option: str) -> bytes:
        request = REPORT.replace(b"Host: x", b"Host: x\r\nConnection: close")
        done = subprocess.run(
            [*command, option, str(session)], input=request, capture_output=True, timeout=10, check=False
        )
        return done.stdout + done.stderr

    output = scene.aside(lambda: ask("-sess_out"))
    assert b"200 OK" in output
    if session.exists():  # there is something to take along
        output = scene.aside(lambda: ask("-sess_in"))
        assert b"200 OK" in output
        assert b"Reused" not in output


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_that_it_was_away_is_no_problem_of_the_host_when_the_controller_is_back(scene: Scene) -> None:
    host = scene.ready()
    for slot in host._certificates._slots.values():
        slot.due = 0.0
    scene.controller.override = dict.fromkeys(("/v1/bundle", "/v1/certificates"), unavailable)
    host._certificates._schedule(0.0)
    scene.problem("certificate of host: ")
    scene.ask()
    assert len(host.state().problems) >= 2
    asked = len(scene.controller.requests)
    report = scene.tell("GET", "/v1/report", b"")
    assert report.problems == ()
    scene.loop.until(lambda: len(scene.controller.requests) > asked)  # it is tried at once
    scene.loop.until(lambda: not host._asking)
    assert "cannot answer" in str(scene.tell("GET", "/v1/report", b"").problems), "it is reached and reaches nobody"
    scene.controller.override = {}
    told = len(scene.controller.reports)
    scene.ask()
    assert [report.problems for report in scene.controller.reports[told:]] == [()]
    scene.loop.until(lambda: not host.state().problems)  # and certificates are asked for at once


def unavailable(_: Any) -> tuple[int, bytes]:
    return 503, b"{}"


@pytest.mark.parametrize("lost", ["denied", "root"])
def test_a_connection_of_a_controller_ends_with_its_trust(scene: Scene, lost: str) -> None:
    host = scene.ready()
    fake = scene.controller
    changes: dict[str, Any] = {"denied": ("spiffe://corp.example/controller/controller-1",)}
    if lost == "root":
        other = FakeController(scene.loop.reactor, scene.path / "other")
        changes = {"roots": other.authority.roots}
    report = ("GET", "/v1/report", b"")
    requests = [report, report, ("PUT", "/v1/bundle", fake.seal(ALLOW, **changes)), report]
    answers = scene.aside(lambda: fake.tell_all(scene.port, *requests))
    assert [status for status, _ in answers] == [200, 200, 200]
    assert host.policy.value.default_access == "allow"
