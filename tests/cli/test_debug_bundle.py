"""``hostproxy debug-bundle``: what is in it, and that no secret is, in whatever spelling."""

from __future__ import annotations

import base64
import io
import json
import re
import stat
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from urllib.parse import quote

import pytest

from hostproxy.__main__ import main
from hostproxy.doctor import bundle as bundles
from hostproxy.doctor import redaction as redactions
from hostproxy.doctor import tokens
from hostproxy.doctor.bundle import Bundle
from hostproxy.doctor.redaction import HIDDEN, Redaction
from tests.admin.states import make_state
from tests.integration.host import free_port

TOKEN = "5a2a1c5e-c0de-4000-8000-00000000cafe"
JOIN = "join~canary+token/with=signs"
CANARIES = {
    "token": TOKEN,
    "join": JOIN,
    "label": "label-canary-33",
    "meta": "meta-canary-44",
    "comment": "comment-canary-55",
    "unknown": "unknown-canary-66",
    "misplaced": "misplaced-canary-77",
    "quoted": 'quoted"canary\\88',
    "key": "key-canary-99",
}


def spellings(secret: str) -> list[bytes]:
    raw = secret.encode()
    return [raw, json.dumps(secret)[1:-1].encode(), quote(secret, safe="").encode(), base64.b64encode(raw).rstrip(b"=")]


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A host with a secret wherever somebody could put one."""
    pki = tmp_path / "pki"
    pki.mkdir()
    for name in ("host.key", "web.key"):
        (pki / name).write_text(f"-----BEGIN PRIVATE KEY-----\n{CANARIES['key']}\n-----END PRIVATE KEY-----\n")
        (pki / name).chmod(0o600)
    for name, content in (("consul.token", TOKEN), ("join.token", JOIN)):
        (tmp_path / name).write_text(content + "\n")
        (tmp_path / name).chmod(0o600)
    path = tmp_path / "conf.toml"
    path.write_text(f"""
# {CANARIES["comment"]}
[host]
name = "web-1"
address = "127.0.0.1"
state_directory = "state"
runtime_directory = "run"
labels = {{ deploy_token = "{CANARIES["label"]}", rack = "a-12" }}
[mesh]
trust_domain = "example.org"
listen = "127.0.0.1:{free_port()}"
[[service]]
name = "web"
meta = {{ api_key = "{CANARIES["meta"]}", note = "the secret is not {CANARIES["meta"]}" }}
[identity.files]
ca = "pki/ca.pem"
directory = "pki"
[discovery]
backend = "consul"
[discovery.consul]
address = "http://127.0.0.1:{free_port()}"
token_file = "consul.token"
token = "{CANARIES["unknown"]}"
password = '{CANARIES["quoted"]}'
key = "{CANARIES["misplaced"]}"
[controller]
join_token_file = "{tmp_path}/join.token"
[admin]
listen = "127.0.0.1:{free_port()}"
""")
    return path


def parts(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}


def leaks(path: Path) -> list[str]:
    """The canaries that are in the archive, compressed or not."""
    packed = path.read_bytes()
    everything = packed + zlib.decompress(packed, 31)
    return [name for name, secret in CANARIES.items() if any(each in everything for each in spellings(secret))]


def test_no_secret_is_in_it(conf, tmp_path, capsys, monkeypatch):
    def journal(command: list[str]) -> bytes:
        if command[0] != "journalctl":
            raise FileNotFoundError(f"no {command[0]}")
        # What only a comment has, or a key file, nobody can know elsewhere but by its form.
        named = [each for name, each in CANARIES.items() if name not in ("comment", "key")]
        text = "\n".join(["a line", *named, *(spelling.decode() for each in named for spelling in spellings(each))])
        return f"{text}\n-----BEGIN EC PRIVATE KEY-----\n{CANARIES['key']}\n".encode()

    monkeypatch.setattr(bundles, "execute", journal)
    output = tmp_path / "b.tar.gz"
    assert main(["debug-bundle", "-c", str(conf), "-o", str(output)]) == 4  # no daemon
    assert leaks(output) == []
    found = parts(output)
    assert b"a line" in found["hostproxy-debug/journal.txt"]
    assert b'rack = "a-12"' in found["hostproxy-debug/conf.toml"]
    assert b"consul.token" in found["hostproxy-debug/conf.toml"]  # where it is, is no secret
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    printed = capsys.readouterr()
    assert printed.out == f"{output}\n"
    assert "left out: admin/status.json" in printed.err


def test_a_leak_would_be_seen(conf, tmp_path, monkeypatch):
    monkeypatch.setattr(Redaction, "text", lambda self, content: content)
    monkeypatch.setattr(Redaction, "document", lambda self, value, name="": value)
    output = tmp_path / "b.tar.gz"
    main(["debug-bundle", "-c", str(conf), "-o", str(output), "--logs", "0"])
    assert set(leaks(output)) == set(CANARIES) - {"comment", "key", "token", "join"}


def test_the_manifest(conf, tmp_path):
    output = tmp_path / "b.tar.gz"
    main(["debug-bundle", "-c", str(conf), "-o", str(output), "--logs", "0"])
    found = parts(output)
    manifest = json.loads(found.pop("hostproxy-debug/manifest.json"))
    there = {f"hostproxy-debug/{entry['name']}": entry for entry in manifest["parts"]}
    assert {name for name, entry in there.items() if not entry["left_out"]} == set(found)
    assert all(entry["bytes"] == len(found[name]) for name, entry in there.items() if name in found)
    assert all(entry["left_out"] for name, entry in there.items() if name not in found)
    assert "private keys" in manifest["never"]
    assert manifest["redacted"] > 3


def test_with_a_daemon(conf, tmp_path, daemon):
    address = daemon(make_state())
    lines = conf.read_text().splitlines()
    lines[-1] = f'listen = "{address}"'
    conf.write_text("\n".join(lines))
    output = tmp_path / "b.tar.gz"
    assert main(["debug-bundle", "-c", str(conf), "-o", str(output), "--logs", "0"]) == 0
    found = parts(output)
    assert json.loads(found["hostproxy-debug/admin/status.json"])["host"]["name"] == "web-1"
    assert b"hostproxy_requests_total" in found["hostproxy-debug/admin/metrics.txt"]
    assert leaks(output) == []


def test_a_configuration_that_is_no_toml_is_not_shown(tmp_path):
    path = tmp_path / "conf.toml"
    path.write_text(f'[host]\npassword = "{CANARIES["unknown"]}"\n[[[\n')
    output = tmp_path / "b.tar.gz"
    assert main(["debug-bundle", "-c", str(path), "-o", str(output), "--logs", "0"]) == 4
    assert leaks(output) == []
    assert "hostproxy-debug/conf.toml" not in parts(output)
    assert "hostproxy-debug/kernel.txt" in parts(output)


def test_parts_and_all_of_them_are_bounded(monkeypatch):
    monkeypatch.setattr(bundles, "PART", 1000)
    monkeypatch.setattr(bundles, "TOTAL", 1500)
    made = Bundle(Redaction(["the-secret"]))
    made.add("a.txt", "first", lambda: b"x" * 995 + b"the-secret" + b"y" * 1000)
    made.add("b.txt", "second", lambda: b"z" * 600)
    made.add("c.txt", "third", lambda: b"c")
    with tarfile.open(fileobj=io.BytesIO(made.archive(0.0))) as tar:
        sizes = {member.name.partition("/")[2]: member.size for member in tar.getmembers()}
        content = tar.extractfile("hostproxy-debug/a.txt").read()
    assert sizes.pop("manifest.json")
    assert sizes == {"a.txt": 1000, "b.txt": 500}
    assert content == b"x" * 995 + HIDDEN.encode()[:5]  # cut after the secret was taken out, so no half of it is left
    assert [entry.cut for entry in made.entries] == [1003, 100, 0]
    assert "MiB already" in made.entries[2].left_out


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (b"GET / HTTP/1.1\r\nAuthorization: Basic dXNlcjpwYXNz\r\n", b"GET / HTTP/1.1\r\nAuthorization: (hidden)\r\n"),
        (b"sent Bearer abc.def-ghi to it", b"sent Bearer (hidden) to it"),
        (b"GET /?token=abcdef&x=1", b"GET /?token=(hidden)&x=1"),
        (b"https://user:pass@c.example/", b"https://(hidden)@c.example/"),
        (b"https://SEKRETTOKEN@c.example/", b"https://(hidden)@c.example/"),
        (b"http://user:pa@ss@c.example/a", b"http://(hidden)@c.example/a"),
        (b"http://user:pa/ss@c.example/a", b"http://(hidden)@c.example/a"),
        (b"http://c.example:8500/a@b", b"http://c.example:8500/a@b"),
        (b"GET /a?sv=1&sig=ab%2Fcd&se=2", b"GET /a?sv=1&sig=(hidden)&se=2"),
        (b"GET /a?X-Amz-Signature=ab12&x=1", b"GET /a?X-Amz-Signature=(hidden)&x=1"),
        # and what is known by then, everywhere else
        (b"to http://user:PASS-1@c:80: user:PASS-1@c:80, PASS-1", b"to http://(hidden)@c:80: (hidden)c:80, (hidden)"),
        (b"to http://user:pw@c:80: user:pw@c:80, user", b"to http://(hidden)@c:80: (hidden)c:80, user"),
        (b"Bearer abc.def-1; abc.def-1", b"Bearer (hidden); (hidden)"),
        (b"bearer tokens are tokens", b"bearer (hidden) are tokens"),
        (b"a -----BEGIN RSA PRIVATE KEY-----\nAAA\n-----END RSA PRIVATE KEY----- b", b"a (hidden) b"),
        (b"a -----BEGIN PRIVATE KEY-----\nAAA, and cut", b"a (hidden)"),
        (b"token_file = /etc/token", b"token_file = /etc/token"),
    ],
)
def test_secrets_are_known_by_their_form(text, rest):
    assert Redaction().text(text) == rest


def test_secrets_are_known_by_the_name_of_their_key():
    document = {
        "api_key": "aaaaaa",
        "tokens": ["bbbbbb", "cccccc"],
        "key": "/etc/a.key",
        "ca_fingerprint": "sha256:00",
        "nested": [{"Password": "dddddd", "path": "aaaaaa/x"}],
        "headers": [["authorization", "eeeeee*"], ["x-mode", "ffffff"], ["x-any", "*"]],
    }
    redaction = Redaction()
    hidden = redaction.document(document)
    assert hidden == {
        "api_key": HIDDEN,
        "tokens": [HIDDEN, HIDDEN],
        "key": "/etc/a.key",
        "ca_fingerprint": "sha256:00",
        "nested": [{"Password": HIDDEN, "path": "aaaaaa/x"}],
        "headers": [["authorization", HIDDEN], ["x-mode", HIDDEN], ["x-any", "*"]],
    }
    assert redaction.text(b"aaaaaa bbbbbb eeeeee ffffff") == b"(hidden) (hidden) (hidden) ffffff"


def test_a_path_is_what_begins_like_one_or_is_there():
    redaction = Redaction(is_file={"pki/a.key"}.__contains__)
    values = ["/etc/a.key", "./a.key", "../a.key", "pki/a.key", "abc/SECRET+x"]
    assert [redaction.document({"key": value})["key"] for value in values] == [*values[:-1], HIDDEN]


def test_what_a_later_part_tells_is_hidden_in_those_before():
    made = Bundle(Redaction())
    made.add("first.txt", "first", lambda: b"user SEKRET-1 came")
    made.add("second.txt", "second", lambda: b"GET /?token=SEKRET-1")
    with tarfile.open(fileobj=io.BytesIO(made.archive(0.0))) as tar:
        assert tar.extractfile("hostproxy-debug/first.txt").read() == b"user (hidden) came"


def test_so_many_are_looked_for_and_the_rest_is_counted(monkeypatch):
    monkeypatch.setattr(redactions, "MOST_FORMED", 2)
    redaction = Redaction(["known-1"])
    text = b"token=x token=first-1 token=second-2 token=first-1 token=third-3"
    assert redaction.text(text) == b" ".join([b"token=(hidden)"] * 5)
    assert redaction.only_there == 1
    assert redaction.text(b"first-1 second-2 third-3 known-1") == b"(hidden) (hidden) third-3 (hidden)"


def test_a_password_in_a_url_is_not_in_what_doctor_says_of_it(conf, tmp_path):
    address = "http://SEKRETUSER:SEKRETPW1@127.0.0.1:8500"
    text = conf.read_text()
    conf.write_text(re.sub(r"(?<=\[discovery.consul\]\naddress = ).*", f'"{address}"', text))
    assert address in conf.read_text()
    output = tmp_path / "b.tar.gz"
    main(["debug-bundle", "-c", str(conf), "-o", str(output), "--logs", "0"])
    found = parts(output)
    assert b"127.0.0.1:8500" in found["hostproxy-debug/doctor.json"]
    assert not [name for name, content in found.items() if b"SEKRET" in content]


@pytest.mark.parametrize("broken", ["\n[[[\n", "\n[mesh]\nno_such_key = 1\n"])
def test_tokens_are_known_without_a_configuration_that_is_valid(conf, tmp_path, monkeypatch, broken):
    conf.write_text(conf.read_text() + broken)
    named = [CANARIES[name] for name in ("token", "join", "label", "unknown", "quoted", "misplaced")]
    monkeypatch.setattr(bundles, "execute", lambda command: "\n".join(named).encode())
    output = tmp_path / "b.tar.gz"
    assert main(["debug-bundle", "-c", str(conf), "-o", str(output)]) == 4
    assert "hostproxy-debug/journal.txt" in parts(output)
    assert leaks(output) == []


def test_pairs_of_what_is_no_toml():
    text = b"""[a
consul = { token_file = 'a.token', x.token = "b\\"c" }
"password" = unquoted d # comment
secret = "no end
token = '''e
f'''
"""
    assert list(tokens.pairs(text)) == [
        ("token_file", "a.token"),
        ("token", 'b"c'),
        ("password", "unquoted d"),
        ("secret", "no end"),
        ("token", "e\nf"),
    ]


def test_wrong_usage(tmp_path, capsys):
    assert main(["debug-bundle", "-c", str(tmp_path / "none.toml")]) == 2
    with pytest.raises(SystemExit):
        main(["debug-bundle", "--logs", "-1"])


def test_what_cannot_be_written(conf, tmp_path):
    assert main(["debug-bundle", "-c", str(conf), "-o", str(tmp_path / "none" / "b.tar.gz"), "--logs", "0"]) == 1


def test_it_needs_no_reactor():
    code = "import sys, hostproxy.cli.debug_bundle, hostproxy.cli.doctor, hostproxy.doctor.bundle; "
    code += "sys.exit('twisted.internet.reactor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 0
