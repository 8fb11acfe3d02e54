"""``hostproxy doctor`` without hosts: what it says of files, of time that runs out, and of strange machines."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from hostproxy.__main__ import main
from hostproxy.cli import doctor
from hostproxy.doctor import bypasses, configuration, daemon, examination, kernel, ports, sockets
from hostproxy.doctor.configuration import permits
from hostproxy.doctor.findings import Around, Finding, Group, User, span
from tests.integration.host import free_port

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "doctor.md").read_text()


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A host with nothing in it, whose daemon does not run."""
    path = tmp_path / "conf.toml"
    path.write_text(f"""
[host]
name = "web-1"
address = "127.0.0.1"
state_directory = "state"
runtime_directory = "run"
[mesh]
trust_domain = "example.org"
listen = "127.0.0.1:{free_port()}"
[outbound]
listen = ""
[[service]]
name = "web"
[identity.files]
ca = "pki/ca.pem"
directory = "pki"
[admin]
listen = "127.0.0.1:{free_port()}"
""")
    return path


def make_around(conf: Path, **changes: object) -> Around:
    from hostproxy import config

    values = {
        "config": config.examine(str(conf))[0],
        "problems": (),
        "warnings": (),
        "status": None,
        "silence": "nobody listens",
        "ask": lambda page, key: None,
        "user": User(1000, frozenset({1000}), "of the test"),
        "unit": {},
        "deadline": time.monotonic() + 10.0,
    }
    return Around(**(values | changes))


def run(module: ModuleType, around: Around) -> list[Finding]:
    group = Group("group")
    module.examine(group, around)
    return group.findings


def result(findings: list[Finding], check: str) -> Finding:
    return max((each for each in findings if each.check == check), key=lambda each: each.result != "ok")


def test_no_such_file_is_wrong_usage(tmp_path, capsys):
    assert main(["doctor", "-c", str(tmp_path / "none.toml")]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--group", "nothing"], ["--wait", "0s"], ["--wait", "soon"], ["-o", "xml"]])
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["doctor", *arguments])
    assert caught.value.code == 2


def test_what_is_no_toml_is_all_that_is_said(tmp_path, capsys):
    path = tmp_path / "conf.toml"
    path.write_text("[host\n")
    assert main(["doctor", "-c", str(path), "-o", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [(each["check"], each["result"]) for each in document["findings"]] == [("valid", "FAIL"), ("rest", "skip")]


def test_a_problem_is_told_where_it_is(conf, capsys):
    conf.write_text(conf.read_text().replace('name = "web-1"', 'name = "web_1"'))
    assert main(["doctor", "-c", str(conf), "--group", "configuration"]) == 1
    text = capsys.readouterr().out
    assert f"{conf}:3" in text
    assert "see: docs/doctor.md#configuration" in text
    assert "\x1b" not in text


def test_certificates_are_a_group_of_their_own(conf):
    found = doctor.examine(str(conf), 10.0, ["configuration", "certificates"])
    assert {(each.group, each.check) for each in found if each.result == "FAIL"} == {("certificates", "files")}


def test_every_group_and_check_is_described():
    """By name, in the section that findings refer to."""
    for name in examination.GROUPS:
        _, found, rest = DOCUMENT.partition(f"\n## {name}\n")
        assert found, name
        text = rest.partition("\n## ")[0]
        source = (ROOT / "hostproxy" / "doctor" / f"{name}.py").read_text()
        for check in set(re.findall(r'group\.(?:ok|warn|fail|skip)\(\s*"([^"]+)"', source)):
            assert f"`{check}`" in text, (name, check)


def test_what_hangs_is_left_behind_and_what_breaks_is_told(conf, monkeypatch):
    release = threading.Event()

    def hang(group: Group, around: Around) -> None:
        group.ok("first", "done")
        release.wait(20.0)
        group.ok("late", "too late")

    def broken(group: Group, around: Around) -> None:
        group.ok("first", "done")
        raise ValueError("no such thing")

    monkeypatch.setattr(examination, "module", {"hang": hang, "broken": broken}.__getitem__)
    begun = time.monotonic()
    found = examination.examine(make_around(conf, deadline=begun + 0.3), ("hang", "broken"))
    assert time.monotonic() - begun < 5.0
    release.set()
    assert [(each.group, each.check, each.result) for each in found] == [
        ("hang", "first", "ok"),
        ("hang", "time", "warn"),
        ("broken", "first", "ok"),
        ("broken", "check", "warn"),
    ]
    assert "no such thing" in found[-1].found


@pytest.mark.parametrize(
    ("upgrades", "result", "words"),
    [
        ({"succeeded": 0, "running": False, "problems": []}, "ok", "none yet"),
        ({"succeeded": 2, "running": False, "problems": []}, "ok", "2 since the last restart"),
        ({"succeeded": 2, "running": True, "problems": []}, "ok", "under way"),
        ({"succeeded": 2, "running": False, "problems": ["its workers die\nmore"]}, "warn", "runs on: its workers die"),
    ],
)
def test_the_last_upgrade(upgrades, result, words):
    group = Group("daemon")
    daemon.upgrade(group, upgrades)
    (finding,) = group.findings
    assert (finding.check, finding.result) == ("upgrade", result)
    assert words in finding.found
    assert "more" not in finding.found


def proc_with(tmp_path: Path, **files: str) -> str:
    for name, content in files.items():
        path = tmp_path / "proc" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return str(tmp_path / "proc")


def test_settings_of_the_kernel(conf, tmp_path):
    proc = proc_with(
        tmp_path,
        sys__net__core__somaxconn="128\n",
        sys__net__ipv4__ip_local_port_range="60000\t61000\n",
        sys__net__netfilter__nf_conntrack_count="990\n",
        sys__net__netfilter__nf_conntrack_max="1000\n",
    )
    found = run(kernel, make_around(conf, proc=proc))
    assert result(found, "backlog").result == "warn"
    assert "1,001 ports" in result(found, "local ports").found
    assert result(found, "conntrack").result == "FAIL"
    assert "nf_conntrack_max=4000" in result(found, "conntrack").fix


UNIT = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "UnitFileState": "enabled",
    "WatchdogUSec": "15s",
    "NRestarts": "0",
    "LimitNOFILE": "1048576",
}


@pytest.mark.parametrize(
    ("changes", "expected", "words"),
    [
        ({}, "ok", "active (running)"),
        ({"ActiveState": "failed", "SubState": "failed", "Result": "exit-code"}, "FAIL", "exit-code"),
        ({"LoadState": "masked"}, "FAIL", "masked"),
        ({"LoadState": "not-found"}, "skip", "no unit"),
        ({"UnitFileState": "disabled"}, "warn", "a reboot does not start it"),
        ({"WatchdogUSec": "0"}, "warn", "no watchdog"),
        ({"NRestarts": "3"}, "warn", "3 times"),
        ({"NeedDaemonReload": "yes"}, "warn", "changed on disk"),
    ],
)
def test_the_unit(conf, changes, expected, words):
    found = result(run(kernel, make_around(conf, unit=UNIT | changes)), "systemd")
    assert (found.result, words in found.found) == (expected, True)


def test_a_directory_that_systemd_makes_when_the_unit_starts(conf):
    conf.write_text(conf.read_text().replace('runtime_directory = "run"', 'runtime_directory = "/run/none-of-ours"'))
    conf.parent.chmod(0o777)
    user = User(4242, frozenset(), "of the test")

    def found(unit: dict[str, str]) -> list[tuple[str, bool]]:
        every = run(configuration, make_around(conf, user=user, unit=unit))
        return [(each.result, "/run" in each.found) for each in every if each.check == "directories"]

    assert found({}) == [("FAIL", True), ("ok", False)]
    assert found(UNIT | {"RuntimeDirectory": "hostproxy none-of-ours"}) == [("ok", True)]


@pytest.mark.parametrize(("limit", "expected"), [("1048576", "ok"), ("16384", "warn"), ("1024", "FAIL")])
def test_descriptors_that_the_unit_gives(conf, limit, expected):
    found = run(kernel, make_around(conf, unit=UNIT | {"LimitNOFILE": limit}))
    assert result(found, "descriptors").result == expected


def test_who_holds_the_lock_and_does_not_answer_hangs(conf):
    directory = conf.parent / "run"
    directory.mkdir()
    (directory / "hostproxy.lock").write_text(f"{os.getpid()}\n1.0\n/code\n")
    around = make_around(conf)
    assert "systemctl start" in result(run(daemon, around), "running").fix  # the process lives and is another one
    with (directory / "hostproxy.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = result(run(daemon, around), "running")
    assert (found.result, "it hangs" in found.found) == ("FAIL", True)
    assert found.fix.startswith("systemctl restart hostproxy")
    found = result(run(daemon, make_around(conf, unit=UNIT)), "running")
    assert "run it as root" in found.fix


@pytest.mark.parametrize("unix", [False, True])
def test_listeners_of_workers_that_a_supervisor_left(conf, tmp_path, unix):
    path = tmp_path / "admin.sock"
    family, name = (socket.AF_UNIX, str(path)) if unix else (socket.AF_INET, ("127.0.0.1", free_port()))
    address = f"unix:{path}" if unix else f"{name[0]}:{name[1]}"
    content, _, _ = conf.read_text().rpartition("listen =")
    conf.write_text(f'{content}listen = "{address}"\n')
    (tmp_path / "run").mkdir()
    with socket.socket(family) as server:
        server.bind(name)
        server.listen()
        assert "is taken by" in result(run(ports, make_around(conf)), "listeners").found
        (tmp_path / "run" / "worker-4194305.sock").touch()  # of a process that there is no more
        assert "is taken by" in result(run(ports, make_around(conf)), "listeners").found
        (tmp_path / "run" / f"worker-{os.getpid()}.sock").touch()
        found = result(run(ports, make_around(conf)), "listeners")
    assert (found.result, f"(pid {os.getpid()}); they serve on" in found.found) == ("warn", True)
    assert found.found.startswith(address)
    assert found.fix.startswith("systemctl start hostproxy")


def test_an_instance_without_anybody(conf):
    port = free_port()
    conf.write_text(conf.read_text().replace('name = "web"\n', f'name = "web"\ninstances = ["127.0.0.1:{port}"]\n'))
    assert "nobody listens on" in result(run(bypasses, make_around(conf)), "instances").found
    with socket.create_server(("127.0.0.1", port)):
        assert result(run(bypasses, make_around(conf)), "instances").result == "ok"
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True):
        found = result(run(bypasses, make_around(conf)), "instances")
        assert found.result == "warn"
        assert f"[::]:{port}" in found.found


def test_sockets_and_their_owners():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (listening,) = (each for each in sockets.table("/proc", {sockets.LISTEN}) if each.address == address)
        assert (listening.ip, listening.port) == ("127.0.0.1", server.getsockname()[1])
        owners, _ = sockets.owners("/proc", {listening.inode})
        assert [owner.pid for owner in owners[listening.inode]] == [os.getpid()]
        peers = {each.peer for each in sockets.table("/proc", {sockets.ESTABLISHED})}
        assert address in peers
        assert client.fileno() > 0


@pytest.mark.parametrize(
    ("listening", "wanted", "covers"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("[::]:80", "127.0.0.1:80", True),
        ("[::]:80", "[::1]:80", True),
        ("0.0.0.0:80", "[::1]:80", False),
        ("0.0.0.0:81", "127.0.0.1:80", False),
        ("10.0.0.1:80", "127.0.0.1:80", False),
    ],
)
def test_who_gets_a_connection(listening, wanted, covers):
    assert sockets.covers(listening, wanted) == covers


def test_who_may(tmp_path):
    path = tmp_path / "key"
    path.touch()
    path.chmod(0o640)
    status = os.stat(path)
    owner, group = status.st_uid, status.st_gid
    other = owner + 1
    assert permits(User(0, frozenset(), ""), status, 7)
    assert owner == 0 or permits(User(owner, frozenset(), ""), status, 6)
    assert permits(User(other, frozenset({group}), ""), status, 4)
    assert not permits(User(other, frozenset({group}), ""), status, 2)
    assert not permits(User(other, frozenset({group + 1}), ""), status, 4)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (61, "1m1s"), (3600, "1h"), (90061, "1d1h"), (-5, "0s")])
def test_lengths_of_time(seconds, text):
    assert span(seconds) == text
