"""Every message survives the wire, and only in its direction."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from hostproxy.control import messages
from hostproxy.control.messages import LATEST_WINS, WITH_DESCRIPTOR, Down, Up
from hostproxy.mesh.rules import Rule
from hostproxy.snapshot import Delta, Identity, Listener, Local
from hostproxy.telemetry.tap import Filter
from tests.control.test_handle import snapshot

EXAMPLES: dict[type[messages.Message], messages.Message] = {
    type(message): message
    for message in (
        messages.Apply(
            snapshot(
                1,
                locals={"a": Local("a", "http", ("x:1",), (Rule(("*",), (), ("/*",), "p:1"),))},
                identities={"a": Identity("a", "spiffe://d/service/a", b"c", b"k")},
            )
        ),
        messages.Change(Delta(version=2, services={"gone": None}, authorities=b"")),
        messages.Listen(Listener("proxy", "proxy", "127.0.0.1:1", "", "host")),
        messages.Close("proxy"),
        messages.Drain(0.5),
        messages.ReopenLogs(),
        messages.SetLogLevel("debug"),
        messages.Absent("payments", "Consul is away"),
        messages.Watch(3, Filter(service="payments", path=b"/a", lowest=500, highest=599, slower=0.25), 60.0),
        messages.Unwatch(3),
        messages.Ping(1),
        messages.HandOver(),
        messages.Ready(1),
        messages.Applied(1, "why"),
        messages.Telemetry(b"\x00\xff", {"connections": 1, "listeners": ["mesh"]}),
        messages.Pong(1, 0.25),
        messages.Wanted("payments"),
        messages.Used(("payments", "stock")),
        messages.Seen(3, b"{}\n", 7),
        messages.Draining(),
        messages.Drained(),
        messages.HandedOver(),
    )
}


@pytest.mark.parametrize("union", [Down, Up])
def test_every_message_comes_back_as_it_was(union: Any) -> None:
    decode = msgspec.msgpack.Decoder(union).decode
    for kind in get_args(union):
        example = EXAMPLES[kind]
        assert decode(msgspec.msgpack.encode(example)) == example


def test_a_message_of_the_other_direction_is_not_understood() -> None:
    for here, there in ((Down, Up), (Up, Down)):
        decode = msgspec.msgpack.Decoder(here).decode
        for kind in set(get_args(there)) - set(get_args(here)):
            with pytest.raises(msgspec.ValidationError):
                decode(msgspec.msgpack.encode(EXAMPLES[kind]))


def test_what_carries_a_descriptor_is_never_replaced_by_a_newer_one() -> None:
    assert not LATEST_WINS & WITH_DESCRIPTOR
