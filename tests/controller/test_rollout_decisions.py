"""Waves and what becomes of them: pure decisions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.rollout.judgement import Seen, compare, judge
from controller.rollout.plan import Bounds, Plan, assign, parse_waves
from hostproxy.mesh.messages import Figures, HostReport
from hostproxy.mesh.units import Wrong

NEW, OLD = (1, 8), (1, 7)
PLAN = Plan(waves=("1", "100%"), hold=30.0, patience=60.0)
WELL = Figures(requests=1000, failures=1, p99=0.020)


def report(version: tuple[int, int] = NEW, state: str = "applied", **more: Any) -> HostReport:
    return HostReport(software="1", epoch=version[0], generation=version[1], state=state, **more)  # type: ignore[arg-type]


def judged(now: float, wave: dict[str, Seen], others: dict[str, Seen] | None = None, names: Any = None) -> Any:
    others = {"old": Seen(report(OLD, figures=WELL), now)} if others is None else others
    return judge(PLAN, NEW, names or list(wave), list(others), {**wave, **others}, 100.0, now)


def test_waves_are_read() -> None:
    assert parse_waves("1, 5%,25%,100%") == ("1", "5%", "25%", "100%")
    for text in ("", "0,100%", "5%", "101%,100%", "x,100%", "1.5,100%", "-1,100%", ",".join(["100%"] * 21)):
        with pytest.raises(Wrong):
            parse_waves(text)


@given(st.sets(st.text("abcdef", min_size=1, max_size=5), max_size=60), st.text(max_size=5))
def test_every_host_is_in_exactly_one_wave(hosts: set[str], version: str) -> None:
    waves = assign(("1", "5%", "25%", "100%"), hosts, version)
    together = [host for wave in waves for host in wave]
    assert sorted(together) == sorted(hosts)
    assert all(waves)
    assert not hosts or len(waves[0]) == 1
    assert assign(("1", "5%", "25%", "100%"), sorted(hosts, reverse=True), version) == waves


def test_the_first_ones_are_not_always_the_same() -> None:
    hosts = [f"h{number}" for number in range(50)]
    assert len({assign(("1", "100%"), hosts, str(version))[0] for version in range(20)}) > 5


def test_a_wave_waits_for_its_acknowledgements() -> None:
    assert judged(110.0, {"a": Seen(report(), 105.0)}, names=["a", "b"]).act == "wait"
    late = judged(161.0, {"a": Seen(report(), 105.0)}, names=["a", "b"])
    assert (late.act, "b" in late.reason) == ("stop", True)
    assert judged(110.0, {"a": Seen(report(OLD), 105.0)}).act == "wait"


@pytest.mark.parametrize("state", ["refused", "reverted"])
def test_a_refusal_stops_it_with_its_reason(state: str) -> None:
    seen = Seen(report(OLD, state, refused=NEW, problems=("payments.toml:3: no such thing",)), 105.0)
    found = judged(106.0, {"a": seen})
    assert (found.act, "payments.toml:3" in found.reason, "a " in found.reason) == ("stop", True, True)


def test_a_refusal_of_an_earlier_one_says_nothing() -> None:
    seen = Seen(report(OLD, "refused", refused=(1, 6)), 105.0)
    assert judged(106.0, {"a": seen}).act == "wait"


def test_it_goes_on_after_a_good_report_from_the_end_of_the_hold() -> None:
    good = report(figures=WELL)
    assert judged(129.0, {"a": Seen(good, 128.0)}).act == "wait"
    assert judged(131.0, {"a": Seen(good, 128.0)}).act == "wait"
    assert judged(131.0, {"a": Seen(good, 130.5)}).act == "advance"
    assert judged(191.0, {"a": Seen(good, 128.0)}).act == "stop"


@pytest.mark.parametrize(
    ("figures", "word"),
    [
        (Figures(requests=1000, failures=20, p99=0.02), "fail"),
        (Figures(requests=1000, denied=20, p99=0.02), "refused"),
        (Figures(requests=1000, p99=0.050), "hundred"),
    ],
)
def test_a_wave_that_is_worse_stops_it(figures: Figures, word: str) -> None:
    found = judged(110.0, {"a": Seen(report(figures=figures), 105.0)})
    assert (found.act, word in found.reason) == ("stop", True)


def test_what_is_no_worse_than_elsewhere_does_not() -> None:
    bad = Figures(requests=1000, failures=300, denied=300, p99=2.0)
    others = {"old": Seen(report(OLD, figures=bad), 110.0)}
    assert judged(131.0, {"a": Seen(report(figures=bad), 130.5)}, others).act == "advance"


def test_a_few_requests_say_nothing() -> None:
    few = Figures(requests=49, failures=49)
    assert compare(Bounds(), [few], [WELL]) == ""
    assert "fail" in compare(Bounds(), [few, few], [])  # alone, but enough: half of them is too many


def test_without_others_slowness_is_not_judged() -> None:
    assert compare(Bounds(), [Figures(requests=1000, p99=9.0)], []) == ""
