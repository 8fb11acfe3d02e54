"""The audit log: every act a line, and no line changed without being found."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.audit import Audit, AuditFailed, Broken, Head, chain, verify
from tests.controller.stores import failure, outcomes, result
from tests.discovery.conftest import Loop, loop

__all__ = ("loop",)

NOW = 1_790_000_000.25


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
def audit(loop: Loop, path: Path) -> Iterator[Audit]:
    audit = Audit(loop.reactor, str(path), lambda: NOW)
    yield audit
    result(loop, audit.close())


def written(loop: Loop, path: Path, count: int) -> list[bytes]:
    """A log of so many lines, closed."""
    audit = Audit(loop.reactor, str(path), lambda: NOW)
    for number in range(count):
        result(loop, audit.record("spiffe://corp.example/operator/ann", "token.create", f"web-{number}"))
    result(loop, audit.close())
    return path.read_bytes().splitlines(keepends=True)


def test_a_line_says_who_did_what_to_what(loop: Loop, audit: Audit, path: Path) -> None:
    recording = audit.record(
        "spiffe://corp.example/host/web-1",
        "certificate.issue",
        "spiffe://corp.example/service/cart",
        before="aa",
        after="bb",
        result="refused",
        detail="why",
    )
    assert result(loop, recording) == 1
    line = json.loads(path.read_text())
    assert {name: line[name] for name in line if name not in ("previous", "hash")} == {
        "number": 1,
        "time": "2026-09-21T14:13:20.250000+00:00",
        "actor": "spiffe://corp.example/host/web-1",
        "act": "certificate.issue",
        "object": "spiffe://corp.example/service/cart",
        "before": "aa",
        "after": "bb",
        "result": "refused",
        "detail": "why",
    }
    assert audit.head == Head(1, line["hash"])
    assert audit.size == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.with_name("audit.log.head").stat().st_mode & 0o777 == 0o600


def test_many_acts_at_once_are_as_many_lines(loop: Loop, audit: Audit, path: Path) -> None:
    assert outcomes(loop, *(audit.record("a", "b", str(number)) for number in range(500))) == list(range(1, 501))
    objects = [json.loads(line)["object"] for line in path.read_text().splitlines()]
    assert objects == [str(number) for number in range(500)]
    assert result(loop, audit.verify()) is None
    assert verify(str(path)) is None


@pytest.mark.parametrize(
    "field",
    [
        "web-1\n" + '{"number":2,"act":"forged"}',
        "\x1b[2J\x1b]0;title\x07",
        "\x9b31m and \x7f and \x00",
        "\u202egpj.exe",
        '","result":"ok","hash":"' + "0" * 64 + '"}\n',
        "half a pair \udcff\ud800",
        "x" * 5000,
        "\U0001f4a9" * 1000,
        "zażółć",
    ],
)
def test_what_a_field_holds_forges_nothing(loop: Loop, path: Path, field: str) -> None:
    audit = Audit(loop.reactor, str(path), lambda: NOW)
    result(loop, audit.record(field, field, field, before=field, after=field, result=field, detail=field))
    result(loop, audit.record("next", "act"))
    result(loop, audit.close())
    content = path.read_bytes()
    assert content.count(b"\n") == 2
    assert all(0x20 <= byte < 0x7F for byte in content.replace(b"\n", b""))
    shown = json.loads(content.splitlines()[0])["object"]
    if len(field) > chain.FIELD:
        assert shown.startswith(field[: chain.FIELD])
        assert f"it has {len(field)} characters" in shown
    elif field.isprintable() or "\n" in field:
        assert shown == field
    assert verify(str(path)) is None


def test_it_goes_on_where_it_was(loop: Loop, path: Path) -> None:
    for count in (1, 2, 3):
        audit = Audit(loop.reactor, str(path), lambda: NOW)
        assert result(loop, audit.record("a", "b")) == count
        result(loop, audit.close())
        assert isinstance(failure(loop, audit.record("a", "b")), AuditFailed)
    assert verify(str(path)) is None


def test_one_process_writes_it(loop: Loop, audit: Audit, path: Path) -> None:
    with pytest.raises(AuditFailed, match="another controller writes it"):
        Audit(loop.reactor, str(path), lambda: NOW)


def _changed(line: bytes) -> bytes:
    return line.replace(b"token.create", b"token.revoke")


def _forged(line: bytes) -> bytes:
    """Changed, by somebody who makes its own hash right."""
    fields = json.loads(_changed(line))
    head = chain.Head(fields["number"] - 1, fields["previous"])
    content, _ = chain.line_after(head, {k: v for k, v in fields.items() if k not in ("number", "previous", "hash")})
    return content


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: [*lines[:4], _changed(lines[4]), *lines[5:]], 5),
        (lambda lines: [*lines[:4], *lines[5:]], 5),
        (lambda lines: lines[1:], 1),
        (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], 5),
        (lambda lines: [*lines[:4], lines[3], *lines[4:]], 5),
        (lambda lines: lines[:-1], 10),
        (lambda lines: lines[:3], 4),
        (lambda lines: [], 1),
        (lambda lines: [*lines[:9], _changed(lines[9])], 10),
        (lambda lines: [*lines[:9], _forged(lines[9])], 10),
        (lambda lines: [*lines[:4], _forged(lines[4]), *lines[5:]], 6),  # what follows it hangs in the air
        (lambda lines: [*lines[:4], lines[4][:-30] + b"\n", *lines[5:]], 5),
        (lambda lines: [*lines[:4], b"\n", *lines[4:]], 5),
        (lambda lines: [*lines, b"more\n"], 11),
        (lambda lines: [*lines[:4], b"x" * 500_000, *lines[4:]], 5),
    ],
)
def test_what_was_changed_is_found_at_its_line(
    loop: Loop, path: Path, change: Callable[[list[bytes]], list[bytes]], line: int
) -> None:
    lines = written(loop, path, 10)
    assert len(lines) == 10
    assert verify(str(path)) is None
    path.write_bytes(b"".join(change(lines)))
    broken = verify(str(path))
    assert isinstance(broken, Broken)
    assert broken.line == line, broken


def test_any_byte_that_is_changed_is_found_at_its_line(loop: Loop, path: Path) -> None:
    content = b"".join(written(loop, path, 10))
    chosen = random.Random(1)
    for _ in range(400):
        place = chosen.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << chosen.randrange(8)
        path.write_bytes(changed)
        broken = verify(str(path))
        assert broken is not None
        assert broken.line == content[:place].count(b"\n") + 1


def test_a_whole_new_history_is_found_by_a_head_that_was_kept_elsewhere(loop: Loop, path: Path) -> None:
    written(loop, path, 10)
    kept = Head(7, json.loads(path.read_bytes().splitlines()[6])["hash"])
    assert verify(str(path), [kept]) is None
    path.unlink()
    path.with_name("audit.log.head").unlink()
    audit = Audit(loop.reactor, str(path), lambda: NOW + 1)
    for _ in range(12):
        result(loop, audit.record("nobody", "nothing"))
    assert result(loop, audit.verify()) is None
    found = result(loop, audit.verify([kept]))
    assert found is not None
    assert found.line == 7
    result(loop, audit.close())
    assert verify(str(path)) is None
    assert verify(str(path), [kept]) == found


def test_a_log_without_its_head_is_in_doubt(loop: Loop, path: Path) -> None:
    written(loop, path, 3)
    head = path.with_name("audit.log.head")
    content = head.read_bytes()
    for change in (head.unlink, lambda: head.write_bytes(b""), lambda: head.write_bytes(content[:-5] + b"zzzz\n")):
        head.write_bytes(content)
        change()
        broken = verify(str(path))
        assert broken is not None
        assert broken.line == 4
        with pytest.raises(AuditFailed, match="To begin another log, keep this one: mv"):
            Audit(loop.reactor, str(path), lambda: NOW)


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_log_that_was_cut_is_not_written_any_more(loop: Loop, path: Path, left: int) -> None:
    lines = written(loop, path, 3)
    path.write_bytes(b"".join(lines[:left]))
    with pytest.raises(AuditFailed, match="line 3 is not the one that was written"):
        Audit(loop.reactor, str(path), lambda: NOW)
    assert path.read_bytes() == b"".join(lines[:left])


@pytest.mark.parametrize(
    "tail", [b'{"number":4,"time":"20', b"\x00" * 4096, b"\x00" * 600 + b'{"number":4}\n', b"a line of another\n"]
)
def test_what_a_crash_left_is_set_aside_and_said(loop: Loop, path: Path, tail: bytes) -> None:
    whole = b"".join(written(loop, path, 3))
    path.write_bytes(whole + tail)
    audit = Audit(loop.reactor, str(path), lambda: NOW)
    assert result(loop, audit.record("a", "b")) == 5
    lines = path.read_bytes().splitlines(keepends=True)
    assert b"".join(lines[:3]) == whole
    event = json.loads(lines[3])
    assert event["act"] == "audit.torn"
    assert f"{len(tail)} bytes after line 3" in event["detail"]
    assert path.with_name("audit.log.torn-4").read_bytes() == tail
    assert result(loop, audit.verify()) is None
    result(loop, audit.close())


def test_lines_that_the_head_does_not_know_yet_count(loop: Loop, path: Path) -> None:
    """A power cut after the lines reached the disk, and before the head did."""
    head = path.with_name("audit.log.head")
    written(loop, path, 3)
    old = head.read_bytes()
    audit = Audit(loop.reactor, str(path), lambda: NOW)
    for _ in range(2):
        result(loop, audit.record("a", "b"))
    result(loop, audit.close())
    head.write_bytes(old)
    assert verify(str(path)) is None
    audit = Audit(loop.reactor, str(path), lambda: NOW)
    assert audit.head.number == 5
    assert result(loop, audit.record("a", "b")) == 6
    result(loop, audit.close())
    assert verify(str(path)) is None


def test_a_full_disk_stops_acts_and_leaves_no_half_line(loop: Loop, audit: Audit, path: Path) -> None:
    result(loop, audit.record("a", "b"))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow by more than this: what of a line fits is written, and then there is an error.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        found = outcomes(loop, *(audit.record("a", "b") for _ in range(3)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert all(isinstance(each, AuditFailed) for each in found)
    assert "nothing is issued" in str(found[0])
    assert audit.failures == 3
    assert path.read_bytes() == before
    assert result(loop, audit.record("a", "b")) == 2
    assert result(loop, audit.verify()) is None


def test_after_an_error_of_the_disk_it_stays_closed(loop: Loop, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit(loop.reactor, str(path), lambda: NOW)
    result(loop, audit.record("a", "b"))

    def fsync(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        assert "Input/output error" in str(failure(loop, audit.record("a", "b")))
    # The kernel may have dropped what it could not write, and would not say so again.
    assert "start the controller again" in str(failure(loop, audit.record("a", "b")))
    result(loop, audit.close())
    assert verify(str(path)) is None
    again = Audit(loop.reactor, str(path), lambda: NOW)
    assert result(loop, again.record("a", "b")) == 2
    result(loop, again.close())


def test_acts_that_wait_have_a_limit(loop: Loop, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.audit.log.MOST_WAITING", 5)
    found = outcomes(loop, *(audit.record("a", "b") for _ in range(20)))
    # One is being written and five wait.
    assert found[:6] == [1, 2, 3, 4, 5, 6]
    assert all(isinstance(each, AuditFailed) for each in found[6:])
    assert audit.failures == 14


def test_the_last_lines_are_shown(loop: Loop, audit: Audit) -> None:
    assert audit.tail(10) == []
    outcomes(loop, *(audit.record("a", "b", "x" * 900) for _ in range(1200)))
    assert [json.loads(line)["number"] for line in audit.tail(3)] == [1198, 1199, 1200]
    assert [json.loads(line)["number"] for line in audit.tail(10**9)] == list(range(201, 1201))


def test_a_log_that_others_may_write_is_refused(loop: Loop, path: Path) -> None:
    written(loop, path, 1)
    path.chmod(0o620)
    with pytest.raises(AuditFailed, match="chmod 600"):
        Audit(loop.reactor, str(path), lambda: NOW)
    path.unlink()
    path.symlink_to("/dev/null")
    with pytest.raises(AuditFailed):
        Audit(loop.reactor, str(path), lambda: NOW)
    with pytest.raises(AuditFailed, match="No such file"):
        Audit(loop.reactor, str(path.with_name("deeper") / "audit.log"), lambda: NOW)


WRITER = """
import sys, time
from twisted.internet import reactor
from controller.audit import Audit

audit = Audit(reactor, sys.argv[1], time.time)

def more(number):
    print(number, flush=True)
    for _ in range(3):
        audit.record("somebody", "something", "x" * 500)
    audit.record("somebody", "something", "x" * 500).addCallback(more)

reactor.callWhenRunning(more, 0)
reactor.run()
"""


def test_what_was_answered_survives_a_kill_at_any_moment(loop: Loop, path: Path) -> None:
    last = 0
    for attempt in range(6):
        command = [sys.executable, "-c", WRITER, str(path)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(4)]
        time.sleep(0.007 * attempt)
        writer.send_signal(signal.SIGKILL)
        out, err = writer.communicate(timeout=20)
        assert not err.strip(), err
        said += [line for line in out.splitlines(keepends=True) if line.endswith(b"\n")]
        answered = int(said[-1])
        assert answered > last
        audit = Audit(loop.reactor, str(path), lambda: NOW)
        assert audit.head.number >= answered
        last = result(loop, audit.record("a", "after a kill"))
        result(loop, audit.close())
        assert verify(str(path)) is None
