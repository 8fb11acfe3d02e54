"""Who is taken in, who may have which certificate, and how often anybody may ask."""

from __future__ import annotations

import itertools
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import capturedLogs

from controller.registry import denied, keys, services
from controller.registry.denied import Denial
from controller.registry.hosts import Host, Leaf, Report
from controller.registry.limits import FORGIVEN, FREE, LONGEST, Guesses, Rates
from controller.registry.records import Refused
from controller.registry.registry import Registry
from controller.store import Store, Unavailable
from controller.store.sqlite import SqliteStore
from hostproxy.mesh.messages import Figures, HostReport
from tests.controller.memory import MemoryStore
from tests.controller.stores import failure, outcomes, result
from tests.discovery.conftest import Loop, loop

__all__ = ("loop",)

TD = "corp.example"


class Mesh:
    """A registry with a clock, and questions that are answered at once."""

    def __init__(self, loop: Loop, store: Store, **options: Any) -> None:
        self.loop = loop
        self.time = 1_000_000.0
        self.store = store
        self.registry = Registry(store, TD, lambda: self.time, **options)
        self._keys = itertools.count(1)

    def ask(self, asked: Coroutine[Any, Any, Any]) -> Any:
        return result(self.loop, asked)

    def refused(self, asked: Coroutine[Any, Any, Any]) -> str:
        error = failure(self.loop, asked)
        assert isinstance(error, Refused), error
        return error.code

    def key(self) -> str:
        return f"{next(self._keys):064x}"

    def token(self, host: str, **options: Any) -> str:
        return str(self.ask(self.registry.invite(host, by="ann", **options))[0])

    def enrol(self, host: str, **options: Any) -> Host:
        found = self.ask(self.registry.admit(host, self.token(host, **options), self.key()))
        assert isinstance(found, Host)
        return found


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def mesh(loop: Loop, memory: MemoryStore) -> Mesh:
    return Mesh(loop, memory, configured={"payments": ["db-1"]})


@pytest.fixture
def disk(loop: Loop, tmp_path: Path) -> Iterator[Mesh]:
    store = SqliteStore(loop.reactor, str(tmp_path / "store.db"))
    yield Mesh(loop, store)
    result(loop, store.close())


def test_a_host_enrols_once_and_again_only_if_an_operator_says_so(mesh: Mesh) -> None:
    host = mesh.enrol("web-1")
    assert (host.name, host.times, host.enrolled) == ("web-1", 1, mesh.time)
    assert mesh.refused(mesh.registry.invite("web-1", by="ann")) == "enrolled"
    mesh.time += 60
    again = mesh.enrol("web-1", reenrol=True)
    assert (again.times, again.enrolled) == (2, mesh.time)
    assert mesh.ask(mesh.registry.hosts.all()) == {"web-1": again}


def test_two_tokens_for_a_new_host_let_one_machine_in(disk: Mesh) -> None:
    for number in range(50):
        host = f"web-{number}"
        secrets = [disk.token(host), disk.token(host)]
        found = outcomes(disk.loop, *(disk.registry.admit(host, secret, disk.key()) for secret in secrets))
        assert sorted(type(each).__name__ for each in found) == ["Host", "Refused"], found
        assert next(each.code for each in found if isinstance(each, Refused)) == "enrolled"


def test_one_token_lets_one_machine_in_whatever_else_they_bring(disk: Mesh) -> None:
    for number, same_key in itertools.product(range(25), (False, True)):
        host = f"web-{number}-{int(same_key)}"
        secret = disk.token(host)
        one = disk.key()
        other = one if same_key else disk.key()
        found = outcomes(disk.loop, *(disk.registry.admit(host, secret, key) for key in (one, other)))
        assert sorted(type(each).__name__ for each in found) == ["Host", "Refused"], found


def test_what_is_refused_leaves_the_token_as_it_was(mesh: Mesh) -> None:
    secret = mesh.token("web-1")
    taken = mesh.key()
    mesh.ask(mesh.registry.keys.claim(taken, "web-9"))
    assert mesh.refused(mesh.registry.admit("web-1", secret, taken)) == "key"
    assert mesh.refused(mesh.registry.admit("web-2", secret, mesh.key())) == "other-host"
    mesh.ask(mesh.registry.denied.deny(Denial(identity=f"spiffe://{TD}/host/web-1", at=1.0, by="ann")))
    assert mesh.refused(mesh.registry.admit("web-1", secret, mesh.key())) == "denied"
    mesh.ask(mesh.registry.denied.lift(f"spiffe://{TD}/host/web-1"))
    assert mesh.ask(mesh.registry.admit("web-1", secret, mesh.key())).times == 1


def test_a_stranger_without_a_token_leaves_no_trace(mesh: Mesh, memory: MemoryStore) -> None:
    before = dict(memory.entries)
    assert mesh.refused(mesh.registry.admit("web-1", "hpj_" + "A" * 32, mesh.key())) == "token"
    assert memory.entries == before


def leaf_of(key: str) -> Leaf:
    return Leaf(serial="01", fingerprint="ff", key=key, not_after=2_000_000.0)


def test_the_machine_before_is_not_recognised_after_a_new_one_enrolled(mesh: Mesh) -> None:
    assert mesh.refused(mesh.registry.recognise("web-1", "one")) == "unknown-host"
    mesh.enrol("web-1")
    assert mesh.refused(mesh.registry.recognise("web-1", "one")) == "stale"  # nothing was issued yet
    mesh.ask(mesh.registry.hosts.issued("web-1", leaf_of("one"), 1))
    assert mesh.ask(mesh.registry.recognise("web-1", "one")).times == 1
    second = mesh.enrol("web-1", reenrol=True)  # within the same second
    assert mesh.refused(mesh.registry.recognise("web-1", "one")) == "stale"
    # What the old machine had asked for before comes to nothing.
    assert mesh.refused(mesh.registry.hosts.issued("web-1", leaf_of("two"), 1)) == "stale"
    mesh.ask(mesh.registry.hosts.issued("web-1", leaf_of("three"), second.times))
    assert mesh.ask(mesh.registry.recognise("web-1", "three")).times == 2
    mesh.ask(mesh.registry.denied.deny(Denial(identity=f"spiffe://{TD}/host/web-1", at=1.0, by="ann")))
    assert mesh.refused(mesh.registry.recognise("web-1", "three")) == "denied"


def test_who_may_have_what_is_what_the_records_say(mesh: Mesh) -> None:
    hosts = ("web-1", "web-2", "db-1")
    for host in hosts:
        mesh.enrol(host)
    for service, host in (("cart", "web-1"), ("cart", "web-2"), ("shop", "web-1"), ("mail", "db-1")):
        mesh.ask(mesh.registry.services.assign(service, host))
    allowed = {("web-1", "cart"), ("web-2", "cart"), ("web-1", "shop"), ("db-1", "mail"), ("db-1", "payments")}
    for host, service in itertools.product((*hosts, "web-3"), ("cart", "shop", "mail", "payments", "unknown")):
        assert mesh.ask(mesh.registry.may_have(host, service)) is ((host, service) in allowed), (host, service)
    mesh.ask(mesh.registry.services.assign("cart", "web-3"))
    assert not mesh.ask(mesh.registry.may_have("web-3", "cart")), "it has not enrolled"
    mesh.ask(mesh.registry.denied.deny(Denial(identity=f"spiffe://{TD}/service/cart", at=1.0, by="ann")))
    assert not mesh.ask(mesh.registry.may_have("web-1", "cart"))
    mesh.ask(mesh.registry.denied.deny(Denial(identity=f"spiffe://{TD}/host/db-1", at=1.0, by="ann")))
    assert not mesh.ask(mesh.registry.may_have("db-1", "payments"))
    assert mesh.ask(mesh.registry.may_have("web-1", "shop"))
    for name in ("../hosts", "host", "Cart", "a/b", "", "x" * 64):
        assert mesh.refused(mesh.registry.may_have("web-1", name)) == "name"


def test_services_are_assigned_and_withdrawn(mesh: Mesh, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    found = mesh.registry.services
    mesh.ask(found.assign("cart", "web-2"))
    mesh.ask(found.assign("cart", "web-1"))
    version = memory.entries["services/cart"].version
    mesh.ask(found.assign("cart", "web-1"))
    assert memory.entries["services/cart"].version == version
    mesh.ask(found.assign("payments", "db-2"))
    assert mesh.ask(found.all()) == {
        "cart": frozenset({"web-1", "web-2"}),
        "payments": frozenset({"db-1", "db-2"}),
    }
    assert mesh.refused(found.withdraw("payments", "db-1")) == "service"
    assert mesh.refused(found.withdraw("cart", "db-1")) == "service"
    assert mesh.refused(found.assign("cart", "UPPER")) == "name"
    for host in ("web-1", "web-2"):
        mesh.ask(found.withdraw("cart", host))
    assert "services/cart" not in memory.entries
    monkeypatch.setattr(services, "MOST_HOSTS", 1)
    assert mesh.refused(found.assign("payments", "db-3")) == "full"


def test_changes_of_one_record_by_many_are_all_made(disk: Mesh) -> None:
    outcomes(disk.loop, *(disk.registry.services.assign("cart", f"web-{number}") for number in range(12)))
    assert disk.ask(disk.registry.services.hosts("cart")) == {f"web-{number}" for number in range(12)}


def test_a_record_that_never_rests_is_given_up(mesh: Mesh, memory: MemoryStore) -> None:
    counter = itertools.count()

    def interfere(key: str) -> None:
        memory.before_put = lambda key: None
        result(mesh.loop, memory.put(key, b'{"hosts":["db-%d"]}' % next(counter), None))
        memory.before_put = interfere

    memory.before_put = interfere
    error = failure(mesh.loop, mesh.registry.services.assign("cart", "web-9"))
    assert isinstance(error, Unavailable)
    assert next(counter) == 16
    assert memory.entries["services/cart"].value == b'{"hosts":["db-15"]}'


def test_a_record_that_is_damaged_is_said_and_stays(mesh: Mesh, memory: MemoryStore) -> None:
    for damaged in (b"", b"nonsense", b"[" * 100_000, b'{"hosts":5}', b'{"hosts":["a"]', b"\xff"):
        result(mesh.loop, memory.put("services/cart", damaged, None))
        error = failure(mesh.loop, mesh.registry.services.assign("cart", "web-1"))
        assert isinstance(error, Unavailable)
        assert "services/cart" in str(error)
        assert memory.entries["services/cart"].value == damaged


def test_a_host_is_noted_with_its_certificate_and_forgotten(mesh: Mesh, memory: MemoryStore) -> None:
    leaf = Leaf(serial="01", fingerprint="ff", key="aa", not_after=2_000_000.0)
    assert mesh.refused(mesh.registry.hosts.issued("web-1", leaf, 1)) == "unknown-host"
    mesh.enrol("web-1")
    mesh.ask(mesh.registry.hosts.issued("web-1", leaf, 1))
    assert mesh.ask(mesh.registry.hosts.get("web-1")).leaf == leaf
    mesh.ask(mesh.registry.reports.take("web-1", report(mesh.time)))
    mesh.ask(mesh.registry.hosts.forget("web-1"))
    assert not [key for key in memory.entries if "web-1" in key]
    assert mesh.ask(mesh.registry.reports.all()) == {}
    assert mesh.refused(mesh.registry.hosts.forget("web-1")) == "unknown-host"
    assert mesh.enrol("web-1").times == 1


@pytest.mark.parametrize("name", ["", "a/b", "../hosts/x", "A", "x" * 64, "a..b", "a b", "a\n", "hôte"])
def test_a_host_has_a_name_of_the_mesh(mesh: Mesh, name: str) -> None:
    assert mesh.refused(mesh.registry.hosts.get(name)) == "name"
    assert mesh.refused(mesh.registry.invite(name, by="ann")) == "name"


def report(at: float, **changes: Any) -> Report:
    return Report(at=at, address="10.0.0.1", report=HostReport(software="1.0", state="applied", **changes))


def test_reports_are_stored_when_something_changed_or_time_has_passed(mesh: Mesh, memory: MemoryStore) -> None:
    reports = mesh.registry.reports
    mesh.ask(reports.take("web-1", report(100.0, generation=1)))
    version = memory.entries["reports/web-1"].version
    busy = report(130.0, generation=1, figures=Figures(requests=5), certificates={"host": 5.0})
    mesh.ask(reports.take("web-1", busy))
    assert memory.entries["reports/web-1"].version == version
    assert mesh.ask(reports.all()) == {"web-1": busy}
    assert mesh.ask(Registry(memory, TD, lambda: 0.0).reports.all()) == {"web-1": report(100.0, generation=1)}
    for number, (at, generation) in enumerate(((131.0, 2), (431.0, 2)), 1):
        mesh.ask(reports.take("web-1", report(at, generation=generation)))
        assert memory.entries["reports/web-1"].version == version + number


def test_a_report_after_the_clock_was_set_back_is_stored(mesh: Mesh, memory: MemoryStore) -> None:
    reports = mesh.registry.reports
    mesh.ask(reports.take("web-1", report(10_000.0, generation=1)))
    mesh.ask(reports.take("web-1", report(100.0, generation=1)))
    assert mesh.ask(reports.all())["web-1"].at == 100.0


def test_a_report_that_cannot_be_read_is_none(mesh: Mesh, memory: MemoryStore) -> None:
    reports = mesh.registry.reports
    mesh.ask(memory.put("reports/web-2", b'{"at": 1.0, "address": "", "report": {"software": "1", "epoch": -1}}', None))
    mesh.ask(reports.take("web-1", report(100.0, generation=1)))
    with capturedLogs() as logged:
        assert mesh.ask(reports.all()).keys() == mesh.ask(reports.all()).keys() == {"web-1"}
    assert len(logged) == 1
    mesh.ask(reports.take("web-2", report(100.0, generation=1)))
    assert mesh.ask(reports.all()).keys() == {"web-1", "web-2"}


def test_denials_are_kept_by_identity(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    found = mesh.registry.denied
    host = Denial(identity=f"spiffe://{TD}/host/web-1.corp.example", at=1.0, by="ann", reason="stolen")
    service = Denial(identity=f"spiffe://{TD}/service/cart", at=2.0, by="bob")
    assert mesh.ask(found.deny(host)) == host
    assert mesh.ask(found.deny(Denial(identity=host.identity, at=9.0, by="eve"))) == host
    mesh.ask(found.deny(service))
    assert mesh.ask(found.all()) == (host, service)
    for wrong in (
        "web-1",
        "spiffe://other.example/host/web-1",
        f"spiffe://{TD}/operator/ann",
        f"spiffe://{TD}/host/../x",
        f"spiffe://{TD}",
    ):
        assert mesh.refused(found.deny(Denial(identity=wrong, at=1.0, by="ann"))) == "name"
    assert mesh.ask(found.lift(host.identity)) == host
    assert mesh.refused(found.lift(host.identity)) == "denied"
    assert mesh.ask(found.all()) == (service,)
    monkeypatch.setattr(denied, "MOST", 1)
    assert mesh.refused(found.deny(host)) == "full"


def test_a_key_is_certified_once(disk: Mesh) -> None:
    key = disk.key()
    found = outcomes(disk.loop, *(disk.registry.keys.claim(key, f"web-{number % 2}") for number in range(20)))
    assert found.count(None) == 1
    assert {each.code for each in found if each is not None} == {"key"}
    texts = {str(each) for each in found if each is not None}
    assert len(texts) == 2, "its own host is told something else than the others"
    with pytest.raises(ValueError):
        disk.ask(disk.registry.keys.claim("AB" * 32, "web-1"))


def test_old_keys_are_forgotten_bucket_by_bucket(mesh: Mesh, memory: MemoryStore) -> None:
    for first in ("00", "01", "ff"):
        mesh.ask(mesh.registry.keys.claim(first + "ab" * 31, "web-1"))
    mesh.time += keys.KEPT + 1
    mesh.ask(mesh.registry.keys.claim("00" + "cd" * 31, "web-1"))
    removed = [mesh.ask(mesh.registry.keys.sweep()) for _ in range(keys.BUCKETS)]
    assert (removed[0], removed[1], removed[255], sum(removed)) == (1, 1, 1, 3)
    assert list(memory.entries) == ["keys/used/00/" + "cd" * 31]


def test_a_store_that_does_not_answer_lets_nobody_in(mesh: Mesh, memory: MemoryStore) -> None:
    secret = mesh.token("web-1")
    mesh.enrol("db-1")
    memory.broken = True
    for asked in (
        mesh.registry.admit("web-1", secret, mesh.key()),
        mesh.registry.recognise("db-1", "key"),
        mesh.registry.may_have("db-1", "payments"),
        mesh.registry.keys.claim(mesh.key(), "db-1"),
    ):
        assert isinstance(failure(mesh.loop, asked), Unavailable)


# Limits


def test_a_guesser_waits_longer_and_longer_and_others_do_not() -> None:
    guesses = Guesses()
    now = 50.0
    waits = []
    for _ in range(100):
        wait = guesses.attempt("10.0.0.1", now)
        waits.append(wait)
        now += wait
    assert waits[: FREE + 1] == [0.0] * (FREE + 1)
    assert [wait for wait in waits if wait][:6] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert max(waits) == LONGEST
    assert guesses.attempt("10.0.0.2", now) == 0.0, "what another address did"
    later = now + FORGIVEN + LONGEST + 1
    assert [guesses.attempt("10.0.0.1", later) for _ in range(FREE)] == [0.0] * FREE


def test_a_thousand_guesses_at_once_are_a_few() -> None:
    guesses = Guesses()
    assert [guesses.attempt("10.0.0.1", 5.0) for _ in range(1000)].count(0.0) == FREE + 1


def test_who_had_the_right_token_is_no_guesser() -> None:
    guesses = Guesses()
    for _ in range(1000):
        assert guesses.attempt("10.0.0.1", 5.0) == 0.0
        guesses.succeeded("10.0.0.1")
    assert len(guesses) == 0


def test_addresses_of_one_network_are_one_guesser_and_memory_is_bounded() -> None:
    guesses = Guesses(most=100)
    found = [guesses.attempt(f"2001:db8::{number:x}", 5.0) for number in range(100)]
    assert found.count(0.0) == FREE + 1
    assert guesses.attempt("2001:db8:0:1::1", 5.0) == 0.0
    for _ in range(FREE + 1):
        guesses.attempt("10.0.0.1", 5.0)
    assert guesses.attempt("::ffff:10.0.0.1", 5.0) == 1.0
    for number in range(10_000):
        guesses.attempt(f"10.{number // 250}.{number % 250}.7", 6.0)
    assert len(guesses) == 100


def test_one_host_that_asks_without_end_costs_others_nothing() -> None:
    rates = Rates(host_per_minute=60, per_minute=600, now=0.0)
    greedy = sum(1 for tick in range(60_000) if rates.take("web-1", tick / 1000) == 0.0)
    assert 119 <= greedy <= 121  # a minute's worth at once, and one each second
    assert all(rates.take(f"web-{number}", 60.0) == 0.0 for number in range(2, 500))


def test_a_few_hosts_that_ask_for_all_they_may_get_leave_others_their_part() -> None:
    rates = Rates(host_per_minute=120, per_minute=600, now=0.0)
    greedy = sum(rates.take(f"bad-{number % 5}", 0.0) == 0.0 for number in range(1000))
    assert greedy == 300
    assert all(rates.take(f"web-{number}", 0.0) == 0.0 for number in range(300))
    # Who has many services gets all of them, when nobody else asks.
    alone = Rates(host_per_minute=120, per_minute=600, now=0.0)
    assert sum(alone.take("web-1", 0.0) == 0.0 for _ in range(200)) == 120


def test_all_together_have_a_limit_and_are_told_how_long_to_wait() -> None:
    rates = Rates(host_per_minute=60, per_minute=120, now=0.0)
    granted = [number for number in range(200) if rates.take(f"web-{number}", 0.0) == 0.0]
    assert granted == list(range(120))
    wait = rates.take("web-150", 0.0)
    assert wait == pytest.approx(0.5)
    assert rates.take("web-150", wait * 0.9) > 0.0
    assert rates.take("web-150", wait * 1.01) == 0.0
    assert rates.take("web-150", -100.0) > 0.0, "a clock that goes back grants nothing"


def test_the_memory_of_rates_is_bounded() -> None:
    rates = Rates(host_per_minute=60, per_minute=1e9, now=0.0, most=10)
    for number in range(1000):
        rates.take(f"web-{number}", 0.0)
    assert len(rates) == 10


def test_a_host_has_a_few_keys_at_a_time(mesh: Mesh) -> None:
    mesh.enrol("web-1")
    for number in range(6):
        mesh.ask(mesh.registry.hosts.issued("web-1", leaf_of(f"key-{number}"), 1))
    assert mesh.refused(mesh.registry.recognise("web-1", "key-1")) == "stale"
    assert mesh.ask(mesh.registry.recognise("web-1", "key-2"))
