"""Waves: how many hosts at a time, and within which bounds. Pure functions."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Sequence

import msgspec

from hostproxy.mesh.units import Wrong

ALL = ("100%",)
MOST_WAVES = 20

_WAVE = re.compile(r"([0-9]{1,6})(%?)")


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How well a wave has to be, compared with the hosts that still have the generation before."""

    success_drop: float = 0.01  # the share of requests that succeed may be lower by this
    p99_factor: float = 2.0  # the slowest hundredth may take so many times as long
    p99_floor: float = 0.010  # seconds; below this nobody compares
    denied_rise: float = 0.01  # the share of requests that are refused may be higher by this
    least_requests: int = 50  # of a wave, before its shares say anything


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator asked for."""

    waves: tuple[str, ...] = ALL  # "1", "5%", "100%": how many hosts have it after each
    hold: float = 0.0  # seconds that a wave has to be well
    patience: float = 120.0  # seconds until every host of a wave has to have acknowledged
    bounds: Bounds = Bounds()


def parse_waves(text: str) -> tuple[str, ...]:
    """Read "1,5%,25%,100%". Raises :class:`Wrong`."""
    waves = tuple(part.strip() for part in text.split(","))
    if len(waves) > MOST_WAVES:
        raise Wrong(f"has more than {MOST_WAVES} waves")
    for wave in waves:
        match = _WAVE.fullmatch(wave)
        if match is None or not int(match[1]) or (match[2] and int(match[1]) > 100):
            raise Wrong(f'has "{wave}", which is no wave', 'write numbers of hosts or shares: "1,5%,25%,100%"')
    if waves[-1] != "100%":
        raise Wrong("does not end with all hosts", 'the last wave is "100%"')
    return waves


def assign(waves: Sequence[str], hosts: Collection[str], version: str) -> tuple[tuple[str, ...], ...]:
    """The hosts that each wave adds. Every wave but those that add nobody is there.

    Which hosts come first is drawn by ``version``, so that it is not the same few every time, and comes out the same
    for everybody who asks.
    """
    drawn = sorted(hosts, key=lambda host: hashlib.sha256(f"{version}/{host}".encode()).digest())
    found, reached = [], 0
    for wave in waves:
        match = _WAVE.fullmatch(wave)
        assert match is not None  # parse_waves() has seen it
        wanted = math.ceil(len(drawn) * int(match[1]) / 100) if match[2] else int(match[1])
        wanted = min(wanted, len(drawn))
        if wanted > reached:
            found.append(tuple(sorted(drawn[reached:wanted])))
            reached = wanted
    return tuple(found)
