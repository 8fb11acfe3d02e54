from __future__ import annotations

import os
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher

from hostproxy.config_discovery import ConsulConfig
from hostproxy.discovery.consul.errors import AgentError
from hostproxy.discovery.consul.token import Token

SECRET = "5a2a1c5e-0000-4000-8000-00000000000"


class Holder:
    """A token in a file, and a clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.token = Token(ConsulConfig(token_file=str(path)), {}, self.clock.seconds)

    def write(self, text: str | bytes, mode: int = 0o600) -> None:
        self.path.write_bytes(text.encode() if isinstance(text, str) else text)
        self.path.chmod(mode)

    def later(self) -> str:
        """The token after a while."""
        self.clock.advance(1.0)
        return self.token()


@pytest.fixture
def holder(tmp_path: Path) -> Holder:
    return Holder(tmp_path / "token")


def test_without_a_file_there_is_none() -> None:
    token = Token(ConsulConfig(), {"CREDENTIALS_DIRECTORY": "/nowhere", "CONSUL_HTTP_TOKEN": SECRET}, Clock().seconds)
    assert (token(), token.problem) == ("", "")


def test_out_of_a_file_stripped(holder: Holder) -> None:
    holder.write(f"  {SECRET}\n")
    assert (holder.token(), holder.token.problem) == (SECRET, "")


def test_out_of_a_systemd_credential(tmp_path: Path) -> None:
    (tmp_path / "consul").write_text(SECRET)
    (tmp_path / "consul").chmod(0o400)
    config = ConsulConfig(token_credential="consul")
    assert Token(config, {"CREDENTIALS_DIRECTORY": str(tmp_path)}, Clock().seconds)() == SECRET
    token = Token(config, {}, Clock().seconds)
    with pytest.raises(AgentError, match="LoadCredential=consul:"):
        token()
    assert "CREDENTIALS_DIRECTORY" in token.problem


def test_read_again_when_the_file_changes(holder: Holder) -> None:
    holder.write("one")
    assert holder.token() == "one"
    holder.write("two")
    assert holder.token() == "one"  # looked at a moment ago
    assert holder.later() == "two"
    new = holder.path.with_name("new")
    new.write_text("six")
    new.chmod(0o600)
    new.rename(holder.path)
    assert holder.later() == "six"


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"two words", "more than one word"),
        (b"tok\r\nX-Evil: 1", "more than one word"),
        (b"tok\x00en", "more than one word"),
        ("t\u00f6ken".encode(), "more than one word"),
        (b"x" * 4097, "larger than 4 KiB"),
        (None, "No such file"),
    ],
)
def test_the_last_good_one_stays(holder: Holder, broken: bytes | None, why: str) -> None:
    holder.write("good")
    assert holder.token() == "good"
    if broken is None:
        holder.path.unlink()
    else:
        holder.write(broken)
    assert holder.later() == "good"
    assert why in holder.token.problem
    assert "stays in use" in holder.token.problem
    holder.write("better")
    assert (holder.later(), holder.token.problem) == ("better", "")

    # Where there never was a good one, nothing is asked without.
    if broken is not None:
        holder.write(broken)
    else:
        holder.path.unlink()
    fresh = Holder(holder.path)
    with pytest.raises(AgentError, match=why) as caught:
        fresh.token()
    assert caught.value.kind == "token"
    fresh.write("good")
    assert fresh.later() == "good"


def test_no_regular_file(holder: Holder) -> None:
    before = os.listdir("/proc/self/fd")
    os.mkfifo(holder.path)
    with pytest.raises(AgentError, match="not a regular file"):
        holder.token()
    holder.path.unlink()
    holder.path.mkdir()
    with pytest.raises(AgentError, match="not a regular file"):
        holder.later()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_the_longest(holder: Holder) -> None:
    holder.write("x" * 4096)
    assert len(holder.token()) == 4096


@pytest.mark.parametrize(("mode", "exposed"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_file_open_to_everybody_is_used_and_named(holder: Holder, mode: int, exposed: bool) -> None:
    holder.write(SECRET, mode)
    assert holder.token() == SECRET
    assert holder.token.problem == (f"every user of this host may read {holder.path}: chmod o= {holder.path}") * exposed
    holder.path.chmod(0o600)
    assert (holder.later(), holder.token.problem) == (SECRET, "")


def test_it_is_shown_nowhere(holder: Holder) -> None:
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    try:
        holder.write(SECRET, 0o644)
        holder.token()
        holder.write(f"{SECRET} {SECRET}")
        holder.later()
        fresh = Holder(holder.path)
        with pytest.raises(AgentError) as caught:
            fresh.token()
    finally:
        globalLogPublisher.removeObserver(events.append)
    shown = [repr(holder.token), str(holder.token), holder.token.problem, repr(caught.value), *map(repr, events)]
    assert events
    assert not any(SECRET in each for each in shown)
