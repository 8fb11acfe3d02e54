"""What operators do: credentials, policy, rollouts, keys; and what errors tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from twisted.logger import globalLogPublisher

from controller.api import policies
from controller.api.callers import Peer
from controller.store import Unavailable
from hostproxy.mesh.bundle import Newest, Refused, open_bundle
from tests.controller.conftest import DOMAIN, PASSPHRASE, POLICY, Scene, csr, first

FAR = Peer("10.0.0.9")
OTHER = {"payments.toml": POLICY["payments.toml"] + 'methods = ["GET"]\n'}


# Credentials


def test_a_token_opens_until_it_is_revoked(scene: Scene) -> None:
    token = scene.operator("ann", "read")
    assert scene.expect(200, "GET", "/v1/status", peer=FAR, authorization=token)["role"] == "read"
    assert not any(token.split("~")[1].encode() in entry.value for entry in scene.store.entries.values())
    assert token.split("~")[1] not in str(scene.audit.lines)
    scene.expect(409, "POST", "/v1/operators", {"name": "ann", "role": "admin"})
    scene.expect(200, "DELETE", "/v1/operators/ann")
    scene.expect(401, "GET", "/v1/status", peer=FAR, authorization=token)
    scene.expect(400, "POST", "/v1/operators", {"name": "bob", "role": "root"})
    scene.expect(404, "DELETE", "/v1/operators/ann")


def test_a_token_of_one_is_not_a_token_of_another(scene: Scene) -> None:
    reader, chief = scene.operator("ann", "read"), scene.operator("bob", "admin")
    secret = reader.split("~")[1]
    for wrong in (f"Bearer bob~{secret}", f"Bearer ~{secret}", f"Bearer {secret}", f"{chief}x", "Bearer ../hosts/x~y"):
        scene.expect(401, "GET", "/v1/status", peer=Peer(f"10.2.0.{len(wrong)}"), authorization=wrong)


def test_guessing_tokens_is_slowed_down(scene: Scene) -> None:
    token = scene.operator("ann", "read")
    statuses = [
        scene.ask("GET", "/v1/status", peer=FAR, authorization="Bearer ann~hpo_guess")[0] for _ in range(100)
    ]
    assert statuses.count(429) > 90
    scene.expect(200, "GET", "/v1/status", peer=Peer("10.0.0.10"), authorization=token)


def test_an_operators_certificate_is_as_good_as_its_record(scene: Scene) -> None:
    token = scene.operator("ann", "deploy")
    issued = scene.expect(200, "POST", "/v1/operator-certificate", {"csr": csr()}, peer=FAR, authorization=token)
    leaf = first(issued["certificate"])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{DOMAIN}/operator/ann"]
    peer = Peer("10.0.0.9", None, leaf)
    assert scene.expect(200, "GET", "/v1/status", peer=peer)["role"] == "deploy"
    scene.expect(200, "DELETE", "/v1/operators/ann")
    scene.expect(403, "GET", "/v1/status", peer=peer)
    # Neither is it when another one comes under the name.
    scene.clock.advance(2)
    scene.operator("ann", "admin")
    scene.expect(403, "GET", "/v1/status", peer=peer)
    scene.expect(400, "POST", "/v1/operator-certificate", {"csr": csr()})


def test_each_act_has_a_line_before_and_after(scene: Scene) -> None:
    scene.apply()
    scene.expect(409, "POST", "/v1/policy", {"files": POLICY})
    lines = [line for line in scene.audit.lines if line["act"] == "policy.apply"]
    assert [line["result"] for line in lines] == ["begun", "ok", "begun", "refused"]
    assert lines[0]["actor"] == "uid 0 (root)"
    assert lines[1]["object"] == "generation 1"
    assert len(lines[1]["after"]) == 64


# Policy


def test_policy_is_checked_and_compared(scene: Scene) -> None:
    bad = {"payments.toml": '[service.payments]\nprotocl = "http"\n'}
    checked = scene.expect(200, "POST", "/v1/policy/check", {"files": bad})
    (problem,) = checked["problems"]
    assert problem.startswith("payments.toml:2: ")
    assert "protocol" in problem
    scene.apply()
    found = scene.expect(200, "POST", "/v1/policy/diff", {"files": OTHER})
    assert '+methods = ["GET"]' in found["difference"]
    assert (found["generation"], found["cut"]) == (1, False)


def test_a_difference_that_is_too_long_is_cut_and_says_so(scene: Scene) -> None:
    scene.apply()
    long = {"long.toml": "# a line\n" * policies.LINES}
    found = scene.expect(200, "POST", "/v1/policy/diff", {"files": {**POLICY, **long}})
    assert (len(found["difference"]), found["cut"]) == (policies.LINES, True)


def test_policy_is_applied_once_and_whole(scene: Scene) -> None:
    dry = scene.expect(200, "POST", "/v1/policy", {"files": POLICY, "dry_run": True})
    assert dry["changed"] is True
    scene.expect(404, "GET", "/v1/policy/0")
    assert scene.apply(note="the first")["generation"] == 1
    scene.expect(409, "POST", "/v1/policy", {"files": POLICY})
    scene.expect(409, "POST", "/v1/policy", {"files": OTHER, "expect": 0})
    refused = scene.expect(400, "POST", "/v1/policy", {"files": {"a.toml": "[service.x]\nbogus = 1\n"}})
    assert refused["problems"][0].startswith("a.toml:2: ")
    assert scene.apply(OTHER, expect=1)["generation"] == 2
    shown = scene.expect(200, "GET", "/v1/policy/1")
    assert (shown["files"], shown["note"]) == (POLICY, "the first")
    assert scene.expect(201, "POST", "/v1/policy/1/rollback")["restored"] == 1
    history = scene.expect(200, "GET", "/v1/policy")["generations"]
    assert [each["generation"] for each in history] == [3, 2, 1]
    scene.expect(404, "POST", "/v1/policy/99/rollback")
    scene.expect(400, "GET", "/v1/policy/1e3")


NAMES = ("../x.toml", "x", "X.toml", "a/b.toml", ".x.toml", "a..toml", "x.toml\n", "\ud800.toml")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_has_a_plain_name(name: str, scene: Scene) -> None:
    body = json.dumps({"files": {name: "# \n"}}).encode()
    scene.expect(400, "POST", "/v1/policy", body)


def test_more_than_a_bundle_can_carry_is_refused(scene: Scene) -> None:
    large = {f"f{number}.toml": "#" + "x" * 1_000_000 + "\n" for number in range(4)}
    scene.expect(413, "POST", "/v1/policy", {"files": large})


def test_a_rollout_goes_to_a_few_first_and_is_stopped(scene: Scene) -> None:
    peers = {name: scene.host(name, f"10.0.0.{number}") for number, name in enumerate(("h1", "h2", "h3", "h4"), 1)}
    scene.apply()
    for peer in peers.values():
        scene.report(peer, 1)
    begun = scene.apply(OTHER, plan={"waves": ["1", "100%"], "hold": 10.0})
    assert begun["rollout"] is True
    newer = "/v1/bundle?epoch=1&generation=1"
    offered = [name for name, peer in peers.items() if scene.ask("GET", newer, peer=peer)[0] == 200]
    assert len(offered) == 1
    sealed = scene.expect(200, "GET", "/v1/bundle?epoch=1&generation=1", peer=peers[offered[0]])
    assert opened(scene, sealed, offered[0]).manifest.confirm_within > 10
    scene.clock.advance(2)
    assert scene.report(peers[offered[0]], 2, confirmed=False)["confirm"] is False
    for call in (("POST", "/v1/policy", {"files": POLICY}), ("POST", "/v1/authority/roots", {})):
        assert "being rolled out" in scene.expect(409, *call)["error"]
    assert scene.expect(200, "GET", "/v1/rollout")["rollout"]["phase"] == "running"
    stopped = scene.expect(200, "POST", "/v1/rollout/stop", {"reason": "it smells"})
    assert stopped["rollout"]["phase"] == "stopped"
    assert "it smells" in stopped["rollout"]["reason"]
    # Everybody is told the files of before, as a newer generation.
    for name, peer in peers.items():
        bundle = opened(scene, scene.expect(200, "GET", "/v1/bundle?epoch=1&generation=2", peer=peer), name)
        assert bundle.files["payments.toml"] == POLICY["payments.toml"].encode()
    scene.expect(409, "POST", "/v1/rollout/stop", {})


def test_a_denial_does_not_wait_for_a_rollout(scene: Scene) -> None:
    one, two = scene.host("h1"), scene.host("h2")
    scene.apply()
    scene.apply(OTHER, plan={"waves": ["1", "100%"], "hold": 10.0})
    scene.expect(200, "POST", "/v1/hosts/h1/deny", {"reason": "stolen"})
    assert scene.expect(200, "GET", "/v1/rollout")["rollout"]["phase"] == "stopped"
    bundle = opened(scene, scene.expect(200, "GET", "/v1/bundle", peer=two), "h2")
    assert bundle.manifest.denied == (f"spiffe://{DOMAIN}/host/h1",)
    assert bundle.files["payments.toml"] == POLICY["payments.toml"].encode()
    scene.expect(403, "GET", "/v1/bundle", peer=one)


@pytest.mark.parametrize("waves", [[], ["0", "100%"], ["50%"], ["x"], ["1,100%", "5"], ["1"] * 40])
def test_waves_that_are_none_are_refused(waves: list[str], scene: Scene) -> None:
    scene.expect(400, "POST", "/v1/policy", {"files": POLICY, "plan": {"waves": waves}})
    assert scene.expect(200, "GET", "/v1/policy")["generations"] == []


def test_after_a_recovery_hosts_follow_the_new_epoch(scene: Scene) -> None:
    peer = scene.host()
    scene.apply()
    raised = scene.expect(201, "POST", "/v1/policy/epoch")
    assert (raised["epoch"], raised["generation"]) == (2, 2)
    sealed = scene.expect(200, "GET", "/v1/bundle?epoch=1&generation=900", peer=peer)
    assert opened(scene, sealed, "web-1").version == (2, 2)


# Keys


def opened(scene: Scene, sealed: bytes, host: str, signers: Any = None) -> Any:
    signers = signers or scene.parts.signing.signers
    now = scene.clock.seconds()
    return open_bundle(sealed, signers=signers, mesh=DOMAIN, host=host, now=now, newest=Newest())


def test_a_root_is_replaced_in_three_acts(scene: Scene) -> None:
    peer = scene.host()
    scene.apply()
    scene.report(peer, 1)
    before = scene.expect(200, "GET", "/v1/authority")
    assert (before["behind"], [root["used"] for root in before["roots"]]) == ([], [True])
    added = scene.expect(200, "POST", "/v1/authority/roots")
    assert added["behind"] == ["web-1"]
    problem = scene.expect(409, "POST", "/v1/authority/roots/2/use")
    assert problem["problems"] == ["web-1"]
    sealed = scene.expect(200, "GET", "/v1/bundle?epoch=1&generation=1", peer=peer)
    assert len(opened(scene, sealed, "web-1").manifest.roots) == 2
    scene.clock.advance(2)
    scene.report(peer, 2)
    shown = scene.parts.leaf.credential.certificates
    used = scene.expect(200, "POST", "/v1/authority/roots/2/use")
    assert used["fingerprint"] != before["fingerprint"]
    assert scene.parts.leaf.credential.certificates[2] != shown[2]
    scene.expect(409, "DELETE", "/v1/authority/roots/2")
    scene.expect(409, "DELETE", "/v1/authority/roots/1")
    scene.clock.advance(13 * 3600)
    # Certificates under the first one have ended by now.
    scene.expect(200, "DELETE", "/v1/authority/roots/1")
    assert [root["number"] for root in scene.expect(200, "GET", "/v1/authority")["roots"]] == [2]
    scene.expect(409, "DELETE", "/v1/authority/roots/1?force=true")


def test_hosts_without_policy_have_heard_of_nothing(scene: Scene) -> None:
    scene.host()
    assert scene.expect(200, "POST", "/v1/authority/roots")["behind"] == ["web-1"]
    refused = scene.expect(409, "POST", "/v1/authority/roots/2/use")
    assert (refused["problems"], "no policy" in refused["error"]) == (["web-1"], True)
    scene.expect(200, "POST", "/v1/signing/next")
    assert scene.expect(409, "POST", "/v1/signing/use")["problems"] == ["web-1"]
    scene.expect(200, "POST", "/v1/authority/roots/2/use?force=true")


def test_nobody_has_heard_while_hosts_are_not_told(scene: Scene) -> None:
    peer = scene.host()
    scene.apply()
    scene.report(peer, 1)
    reissuing: Any = scene.parts.reissuing

    async def restored(_: object) -> str:
        return "the store was restored from a backup"

    reissuing._behind = restored
    added = scene.expect(200, "POST", "/v1/authority/roots")
    assert (added["problem"], added["behind"]) == ("the store was restored from a backup", ["web-1"])
    scene.report(peer, 9)  # what a later generation of the lost store said, nobody knows
    refused = scene.expect(409, "POST", "/v1/authority/roots/2/use")
    assert (refused["problems"], "from a backup" in refused["error"]) == (["web-1"], True)


def test_nobody_has_heard_of_what_could_not_be_announced(scene: Scene) -> None:
    peer = scene.host()
    scene.apply()
    scene.report(peer, 1)
    reissuing: Any = scene.parts.reissuing
    settled, looks = reissuing._behind, []

    async def away(_: object) -> str:
        looks.append(1)
        raise Unavailable("the store does not answer")

    reissuing._behind = away
    scene.expect(503, "POST", "/v1/authority/roots")
    assert scene.expect(409, "POST", "/v1/authority/roots/2/use")["problems"] == ["web-1"]
    reissuing._behind = settled
    scene.controller._take_care()
    assert (len(looks), scene.expect(200, "GET", "/v1/authority")["behind"]) == (1, ["web-1"])
    scene.clock.advance(2)
    scene.report(peer, 2)
    scene.expect(200, "POST", "/v1/authority/roots/2/use")


def test_the_issuing_authority_is_replaced_at_once(scene: Scene) -> None:
    peer = scene.host()
    scene.expect(200, "POST", "/v1/authority/rotate-issuing")
    issued = scene.expect(200, "POST", "/v1/certificates", {"name": "host", "csr": csr()}, peer=peer)
    chain = x509.load_pem_x509_certificates(issued["certificate"].encode())
    assert chain[1] == scene.parts.leaf.credential.certificates[1]
    chain[0].verify_directly_issued_by(chain[1])


def test_the_old_signer_names_the_new_one(scene: Scene, directory: Path) -> None:
    peer = scene.host()
    scene.apply()
    scene.report(peer, 1)
    known = scene.parts.signing.signers
    scene.expect(409, "POST", "/v1/signing/use?force=true")
    scene.expect(200, "POST", "/v1/signing/next")
    scene.expect(409, "POST", "/v1/signing/next")
    scene.expect(409, "POST", "/v1/signing/use")
    named = opened(scene, scene.expect(200, "GET", "/v1/bundle", peer=peer), "web-1", known).manifest.signers
    assert named[0] == known[0]
    assert len(named) == 2
    scene.clock.advance(2)
    scene.report(peer, 2)
    scene.expect(200, "POST", "/v1/signing/use")
    sealed = scene.expect(200, "GET", "/v1/bundle", peer=peer)
    with pytest.raises(Refused):
        opened(scene, sealed, "web-1", known)
    assert opened(scene, sealed, "web-1", named).manifest.signers == (named[1],)


# Errors


def test_errors_tell_what_to_do_and_nothing_else(scene: Scene, directory: Path) -> None:
    peer, reader = scene.host(), scene.operator("ann", "read")
    scene.apply()
    secrets = [reader.split("~")[1], PASSPHRASE.decode(), "BEGIN"]
    calls: list[tuple[str, str, Any, dict[str, Any]]] = [
        ("GET", "/v1/nothing", b"", {}),
        ("PATCH", "/v1/hosts", b"", {}),
        ("DELETE", "/v1/hosts", b"", {}),
        ("GET", "/v1/hosts", b"", {"peer": FAR}),
        ("GET", "/v1/hosts", b"", {"peer": FAR, "authorization": "Bearer x~y"}),
        ("GET", "/v1/hosts", b"", {"peer": FAR, "authorization": reader + "x"}),
        ("POST", "/v1/tokens", b"{}", {"peer": FAR, "authorization": reader}),
        ("POST", "/v1/tokens", b"{", {}),
        ("POST", "/v1/tokens", {"host": "web-1"}, {}),
        ("POST", "/v1/tokens", {"host": "web-2", "life": 1e9}, {}),
        ("POST", "/v1/tokens", {"host": "web-2", "life": -1}, {}),
        ("DELETE", "/v1/tokens/..x", b"", {}),
        ("DELETE", "/v1/tokens/x", b"", {}),
        ("GET", "/v1/hosts/nobody", b"", {}),
        ("GET", "/v1/hosts/UPPER", b"", {}),
        ("POST", "/v1/hosts/UPPER/deny", b"", {}),
        ("POST", "/v1/hosts/web-1/allow", b"", {}),
        ("DELETE", "/v1/hosts/nobody", b"", {}),
        ("PUT", "/v1/services/host/hosts/web-1", b"", {}),
        ("DELETE", "/v1/services/x/hosts/web-1", b"", {}),
        ("POST", "/v1/policy", {"files": {"a.toml": "["}}, {}),
        ("POST", "/v1/policy", {"files": {"a.toml": "a = " + "[" * 5000}}, {}),
        ("POST", "/v1/policy/7/rollback", b"", {}),
        ("POST", "/v1/policy/x/rollback", b"", {}),
        ("GET", "/v1/policy/99999999999999999999", b"", {}),
        ("GET", "/v1/audit?count=x", b"", {}),
        ("GET", "/v1/audit?count", b"", {}),
        ("POST", "/v1/audit/verify", {"kept": {"x": "y"}}, {}),
        ("POST", "/v1/authority/roots/9/use", b"", {}),
        ("POST", "/v1/authority/roots/x/use", b"", {}),
        ("DELETE", "/v1/authority/roots/1", b"", {}),
        ("POST", "/v1/signing/use", b"", {}),
        ("POST", "/v1/certificates", {"name": "host", "csr": "-----BEGIN"}, {"peer": peer}),
        ("POST", "/v1/enrol", {"host": "x", "token": "y" * 20, "csr": "z"}, {"peer": FAR}),
    ]
    (directory / "authority" / "root-1.key").write_text("-----BEGIN nothing")
    calls.append(("POST", "/v1/authority/rotate-issuing", b"", {}))
    for method, target, body, more in calls:
        status, content = scene.ask(method, target, body, **more)
        assert status >= 400, (method, target)
        assert set(content) == {"error", "problems"}, (method, target)
        text = str(content)
        assert content["error"]
        for word in ("Traceback", 'File "', ".py", "Error(", "object at 0x", str(directory), "/authority", *secrets):
            assert word not in text, (method, target, text)


@pytest.mark.parametrize("path", ["/v1/hosts", "/v1/policy", "/v1/status", "/v1/rollout", "/v1/operators"])
def test_a_store_that_does_not_answer_is_a_503(path: str, scene: Scene) -> None:
    scene.store.broken = True
    assert "store" in scene.expect(503, "GET", path)["error"]


def test_what_nobody_thought_of_is_told_to_the_log_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("secret")

    seen: list[Any] = []
    globalLogPublisher.addObserver(seen.append)
    try:
        monkeypatch.setattr(scene.store, "list", broken)
        problem = scene.expect(500, "GET", "/v1/hosts")
    finally:
        globalLogPublisher.removeObserver(seen.append)
    assert "secret" not in str(problem)
    assert any("ZeroDivisionError" in str(event.get("log_failure")) for event in seen)
