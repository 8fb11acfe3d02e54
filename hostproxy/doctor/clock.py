"""The clock of this host, against everybody who tells the time. Certificates stand and fall with it."""

from __future__ import annotations

import struct

from hostproxy.config_controller import MODE
from hostproxy.doctor import certificates, controller
from hostproxy.doctor.consul import Agent, Unusable
from hostproxy.doctor.findings import Around, Group
from hostproxy.mesh import clocks
from hostproxy.mesh.clocks import NOTICED, WRONG, Skew

_STA_UNSYNC = 0x40  # sys/timex.h
_TIMEX = struct.Struct("@Illlli")  # modes, offset, freq, maxerror, esterror, status: the first of its fields
_TIMEX_SIZE = 512  # bytes; it has about 200


def examine(group: Group, around: Around) -> None:
    """Compare it."""
    _synchronised(group)
    _certificates(group, around)
    if around.config.discovery.backend == "consul":
        _consul(group, around)
    if around.config.identity.mode == MODE:
        _compare(group, "controller", controller.skew(around))


def _synchronised(group: Group) -> None:
    """Whether something keeps the clock right: the kernel knows, whatever program does it."""
    import ctypes

    try:
        kernel = ctypes.CDLL(None, use_errno=True)
        timex = ctypes.create_string_buffer(_TIMEX_SIZE)  # all zero: only read
        state = kernel.adjtimex(timex)
    except (OSError, AttributeError):
        state = -1
    if state < 0:
        group.skip("synchronised", "the kernel does not say (adjtimex)")
    elif _TIMEX.unpack_from(timex.raw)[5] & _STA_UNSYNC:
        group.warn("synchronised", "nothing keeps the clock right", "timedatectl set-ntp true, or install chrony")
    else:
        group.ok("synchronised", f"within {_TIMEX.unpack_from(timex.raw)[3] / 1e6:.3f} s, as the kernel has it")


def _certificates(group: Group, around: Around) -> None:
    now = around.now()
    future = [(start, name) for name, start in certificates.starts(around).items() if start > now]
    if future:
        start, name = max(future)
        found = f"the certificate of {name} is valid {start - now:.0f} s from now: the clock is behind"
        group.fail("certificates", found, "set the clock: timedatectl, chronyc makestep")
    else:
        group.ok("certificates", "none of ours is of the future")


def _consul(group: Group, around: Around) -> None:
    try:
        answer = Agent(around).get("/v1/status/leader")
    except Unusable as unusable:
        group.skip("consul", f"it cannot be asked: {unusable}")
        return
    ahead = clocks.ahead(answer.headers.get("date", ""), answer.asked, answer.seconds)
    _compare(group, "consul", Skew(ahead) if ahead is not None else None)


def _compare(group: Group, who: str, skew: Skew | None) -> None:
    if skew is None:
        group.skip(who, "it does not tell the time")
        return
    # A bound is too much, however low: a certificate was refused for it.
    if abs(skew.ahead) >= WRONG or skew.least:
        fix = "set the clock that is wrong: timedatectl, chronyc makestep"
        group.fail(who, f"ours is {skew.against(who)} (clock skew): certificates are refused", fix)
    elif abs(skew.ahead) >= NOTICED:
        group.warn(who, f"ours is {skew.against(who)}", "have both synchronised: timedatectl, chronyc tracking")
    else:
        group.ok(who, f"agrees with that of {who}")
