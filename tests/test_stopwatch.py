"""The limits of other tests: sharp where a processor is free, and never without an end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import stopwatch
from tests.stopwatch import BUSY, Stopwatch


class Machine:
    """Lets time pass, and with it what the kernel counts."""

    def __init__(self, pressure: Path) -> None:
        self.now = self.waited = 1000.0
        self._pressure = pressure
        self.goes_on(0.0, 0.0)

    def goes_on(self, seconds: float, waited: float) -> None:
        self.now += seconds
        self.waited += waited
        some = f"some avg10=1.25 avg60=0.50 avg300=0.10 total={self.waited * 1e6:.0f}\n"
        self._pressure.write_text(some + "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path / "cpu")
    monkeypatch.setattr(stopwatch, "PRESSURE", tmp_path / "cpu")
    monkeypatch.setattr(stopwatch, "time", machine)
    return machine


@pytest.mark.parametrize(("seconds", "waited", "counted"), [(3, 0, 3), (3, 1, 2), (3, 3, 0), (3, 3.1, 0)])
def test_what_somebody_waited_for_a_processor_is_left_out(
    machine: Machine, seconds: float, waited: float, counted: float
) -> None:
    watch = Stopwatch()
    machine.goes_on(seconds, waited)
    assert watch.elapsed == pytest.approx(seconds)
    assert watch.seconds == pytest.approx(counted)


def test_a_busy_machine_adds_so_much_and_no_more(machine: Machine) -> None:
    watch = Stopwatch()
    machine.goes_on(BUSY + 2, BUSY + 2)
    assert watch.seconds == pytest.approx(2)


def test_a_kernel_that_does_not_tell(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stopwatch, "PRESSURE", tmp_path / "absent")
    watch = Stopwatch()
    machine.goes_on(BUSY + 2, 0)
    assert watch.seconds == pytest.approx(2)


def test_it_can_be_stopped(machine: Machine) -> None:
    watch = Stopwatch()
    machine.goes_on(2, 0.5)
    watch.stop()
    machine.goes_on(5, 0)
    assert (watch.elapsed, watch.seconds) == (pytest.approx(2), pytest.approx(1.5))
