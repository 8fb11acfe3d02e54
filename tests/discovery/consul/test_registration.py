from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from hostproxy.config import Host
from hostproxy.config_discovery import ConsulConfig
from hostproxy.config_services import Check, LocalService
from hostproxy.discovery.consul.client import TxConsul
from hostproxy.discovery.consul.counters import Counters
from hostproxy.discovery.consul.errors import AgentError
from hostproxy.discovery.consul.registration import Registration
from hostproxy.discovery.consul.transport import Reply
from hostproxy.health import Result
from tests.discovery.consul.memory import MemoryAgent

HOST = Host(name="h1", address="10.0.0.7")
WEB = "hostproxy-web-9001"
CHECK = "hostproxy:" + WEB
OWN = "hostproxy:hostproxy"
CHECKED = Check(http="/healthz")
GOOD = Result(healthy=True, reason="", since=0.0)
BAD = Result(healthy=False, reason="503 from\n/healthz", since=0.0)
DOWN = AgentError("refused", "no connection to the agent of Consul")


def web(*ports: int, **more: Any) -> LocalService:
    return LocalService(name="web", instances=tuple(f"127.0.0.1:{port}" for port in ports or (9001,)), **more)


class Case:
    """A registration, its clock and its agent."""

    def __init__(self, *services: LocalService, agent: MemoryAgent | None = None, **config: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.agent = agent or MemoryAgent()
        self.counters = Counters()
        self.chance: Callable[[], float] = lambda: 0.0
        self.token = "one"
        self.registration = Registration(
            self.clock,
            ConsulConfig(**config),
            HOST,
            15443,
            "1.2.3",
            services,
            TxConsul(self.agent),  # type: ignore[arg-type]
            self.counters,
            lambda: self.chance(),
            lambda: self.token,
        )

    def begin(self, **results: Result) -> Case:
        """Start, with workers that serve, and let everything happen that happens at once."""
        self.registration.start()
        self.registration.serving(True)
        self.pass_(0.0)
        return self

    def spread(self) -> Case:
        """Let chance be chance, the same in every run."""
        self.chance = random.Random(7).random
        return self

    def well(self, result: Result = GOOD, *ports: int) -> None:
        """Say how web is."""
        self.registration.health({("web", f"127.0.0.1:{port}"): result for port in ports or (9001,)})
        self.pass_(0.0)

    def write(self) -> None:
        """Have everything written again, as with another token."""
        self.token += "x"
        self.pass_(60.0)

    def pass_(self, seconds: float) -> None:
        """Let time pass, and then everything that follows at once."""
        whole, rest = divmod(seconds, 0.25)
        self.clock.pump([0.25] * int(whole) + [rest, 0.0, 0.0, 0.0])


def other(agent: MemoryAgent, ident: str = "other", **values: Any) -> None:
    agent.services[ident] = {"Service": "other", "Address": "10.0.0.7", "Port": 1, **values}


# What is registered, and when


def test_nothing_is_registered_before_the_workers_serve() -> None:
    case = Case(web())
    case.registration.start()
    case.registration.serving(False)
    case.pass_(120)
    assert case.agent.requests == []
    assert case.registration.problem == "nothing is registered before this host is ready"
    case.registration.serving(True)
    case.pass_(0)
    assert set(case.agent.services) == {"hostproxy", WEB}
    assert case.registration.problem == ""


def test_workers_that_serve_before_the_start_count_as_well() -> None:
    case = Case(web())
    case.registration.serving(True)
    case.pass_(1)
    assert case.agent.requests == []
    case.registration.start()
    case.pass_(0)
    assert set(case.agent.services) == {"hostproxy", WEB}


def test_hostproxy_reports_itself_and_says_when_its_workers_are_gone() -> None:
    case = Case().begin()
    assert case.agent.status(OWN) == "passing"
    case.registration.serving(False)
    case.pass_(0)
    assert case.agent.status(OWN) == "critical"
    assert case.agent.checks[OWN]["Output"] == "the workers are not ready"
    case.registration.serving(True)
    case.pass_(0)
    assert case.agent.status(OWN) == "passing"


def test_a_new_instance_is_critical_until_it_was_found_well() -> None:
    case = Case(web(check=CHECKED)).begin()
    assert case.agent.status(CHECK) == "critical"
    case.well()
    assert case.agent.status(CHECK) == "passing"


def test_what_is_known_at_registration_is_registered() -> None:
    case = Case(web(check=CHECKED))
    case.well()
    case.begin()
    assert case.agent.checks[CHECK]["Given"]["Status"] == "passing"
    other = Case(web(check=CHECKED))
    other.well(BAD)
    other.begin()
    assert other.agent.status(CHECK) == "critical"
    assert other.agent.checks[CHECK]["Output"] == "503 from\\n/healthz"  # which a registration cannot say


def test_where_everything_is_there_nothing_is_written() -> None:
    agent = MemoryAgent()
    services = (web(check=CHECKED, tags=("b", "a")), LocalService(name="db", instances=("unix:/run/db",)))
    Case(*services, agent=agent).begin().well()
    agent.take()
    case = Case(*services, agent=agent).begin()
    case.pass_(0.9)
    assert agent.take() == ["pass hostproxy:hostproxy"]  # of web nothing is known yet
    assert agent.status(CHECK) == "passing"
    case.well()
    assert agent.take() == [f"pass {CHECK}"]


def test_with_register_false_nothing_is_registered_and_what_was_ours_is_removed() -> None:
    agent = MemoryAgent()
    Case(web(), agent=agent).begin()
    other(agent)
    case = Case(web(), agent=agent, register=False).begin()
    assert set(agent.services) == {"other"}
    agent.take()
    case.pass_(600)
    assert agent.requests == []  # and it is not looked at any more


def test_a_reload_registers_what_is_new_and_removes_what_is_gone() -> None:
    case = Case(web(9001, 9002)).begin()
    other(case.agent)
    case.agent.take()
    case.registration.change((web(9001), LocalService(name="db", instances=("127.0.0.1:5432",))))
    case.pass_(0)
    assert case.agent.take() == ["register", "deregister hostproxy-web-9002"]
    assert set(case.agent.services) == {"hostproxy", WEB, "hostproxy-db-5432", "other"}


def test_an_instance_that_moves_is_registered_there_before_it_is_removed_here() -> None:
    case = Case(web(9001)).begin()
    case.agent.take()
    case.registration.change((web(9002),))
    case.pass_(0)
    assert case.agent.take() == ["register", f"deregister {WEB}"]


def test_an_operators_maintenance_and_checks_outlive_a_change() -> None:
    case = Case(web(check=CHECKED)).begin()
    case.agent._service_maintenance(WEB, {"enable": "true", "reason": "disk"})
    case.agent.checks["disk"] = {"CheckID": "disk", "ServiceID": WEB, "Status": "passing", "Notes": ""}
    case.registration.change((web(tags=("new",)),))
    case.pass_(0)
    assert case.agent.services[WEB]["Tags"] == ["new"]
    assert {"disk", f"_service_maintenance:{WEB}"} <= set(case.agent.checks)
    assert CHECK not in case.agent.checks


def test_the_maintenance_in_which_an_unfinished_stop_left_a_service_ends() -> None:
    agent = MemoryAgent()
    Case(web(), agent=agent).begin()
    agent._service_maintenance(WEB, {"enable": "true", "reason": "hostproxy on h1 is stopping"})
    Case(web(), agent=agent).begin()
    assert f"_service_maintenance:{WEB}" not in agent.checks


def test_a_change_of_the_check_keeps_the_status_and_goes_on_reporting() -> None:
    case = Case(web(check=CHECKED)).begin()
    case.well()
    case.registration.change((web(check=Check(http="/healthz", interval=20.0)),))
    case.pass_(0)
    assert case.agent.checks[CHECK]["Given"]["TTL"] == "1m"
    assert case.agent.status(CHECK) == "passing"
    case.pass_(1)
    case.agent.take()
    case.pass_(21)
    assert case.agent.take().count(f"pass {CHECK}") == 1


def test_a_check_handed_over_to_consul_is_reported_no_more() -> None:
    case = Case(web(check=CHECKED)).begin()
    case.well()
    case.registration.change((web(check=Check(http="/healthz", run_by="consul")),))
    case.pass_(0)
    assert {each["Status"] for each in case.agent.checks.values()} == {"passing"}
    assert set(case.agent.checks) == {OWN, "hostproxy-http:" + WEB}
    case.agent.take()
    case.pass_(30)
    assert set(case.agent.take()) == {f"pass {OWN}"}


def test_a_service_that_cannot_be_changed_is_reported_all_the_same() -> None:
    case = Case(web(check=CHECKED)).begin()
    case.well()
    case.agent.refused = {"web"}
    case.registration.change((web(check=CHECKED, tags=("new",)),))
    case.pass_(1)
    case.agent.take()
    case.pass_(4)
    assert f"pass {CHECK}" in case.agent.take()


def test_after_a_long_outage_it_is_there_within_a_second_of_hearing_that_it_is_over() -> None:
    case = Case(web())
    case.agent.broken = AgentError("refused", "nobody listens")
    case.begin().pass_(120)
    case.chance = lambda: 0.99
    case.agent.broken = None
    assert not case.agent.services
    case.registration.retry()
    case.pass_(1)
    assert set(case.agent.services) == {"hostproxy", WEB}
    case.agent.requests.clear()
    case.registration.retry()  # nothing is left to do
    case.pass_(1)
    assert "/v1/agent/services" not in {path for _, path, _ in case.agent.requests}


# Forgetting


@pytest.mark.parametrize("version", ["1.8.7", "1.8.7 with ACLs", "newer"])
def test_an_agent_that_forgot_is_told_everything_again_at_the_next_report(version: str) -> None:
    case = Case(web(check=CHECKED), LocalService(name="db", instances=("127.0.0.1:5432",))).begin()
    case.agent.newer, case.agent.acl = version == "newer", version == "1.8.7 with ACLs"
    case.well()
    case.pass_(2)
    case.agent.forget()
    case.agent.take()
    case.pass_(10 / 3)
    assert set(case.agent.services) == {"hostproxy", WEB, "hostproxy-db-5432"}
    assert (case.agent.status(CHECK), case.agent.status(OWN)) == ("passing", "passing")
    assert case.agent.take().count("register") == 3
    assert case.counters.errors == {"forgotten": 1}
    assert case.registration.problem == ""


def test_what_somebody_removed_is_back_within_a_minute() -> None:
    case = Case(web()).begin()
    del case.agent.services[WEB]
    case.pass_(59)
    assert WEB not in case.agent.services
    case.pass_(1)
    assert WEB in case.agent.services


def test_the_minute_is_shorter_by_chance() -> None:
    case = Case(web())
    case.chance = lambda: 0.99
    case.begin()
    del case.agent.services[WEB]
    case.pass_(49)
    assert WEB in case.agent.services


def odd(case: Case) -> None:
    """Let the checks be there, and yet be none that can be reported."""
    for each in case.agent.checks.values():
        each["Type"] = "odd"


def looks(case: Case) -> int:
    """How often the agent was asked what it has since the last time."""
    found = sum(path == "/v1/agent/services" for _, path, _ in case.agent.requests)
    case.agent.requests.clear()
    return found


def test_checks_that_stay_unknown_are_no_reason_to_compare_all_the_time() -> None:
    ports = range(9001, 9021)
    case = Case(web(*ports, check=CHECKED)).spread().begin()
    case.well(GOOD, *ports)
    odd(case)
    case.agent.requests.clear()
    case.pass_(20)
    assert 10 <= looks(case) <= 20
    assert "register" not in case.agent.take()


def test_checks_that_stay_unknown_do_not_shorten_the_pause_after_an_error() -> None:
    case = Case(web(check=CHECKED), LocalService(name="db", instances=("127.0.0.1:5432",))).begin()
    case.well()
    case.agent.forget()
    case.agent.refused = {"db"}
    case.pass_(100)
    odd(case)
    looks(case)
    case.pass_(90)
    assert looks(case) == 3


def test_a_reason_is_there_again_as_soon_as_the_check_is() -> None:
    case = Case(web(check=CHECKED)).begin()
    case.well(BAD)
    case.pass_(2)
    case.agent.forget()
    case.pass_(10 / 3)
    assert case.agent.checks[CHECK]["Output"] == "503 from\\n/healthz"


def test_a_check_that_expired_meanwhile_is_well_as_soon_as_it_is_registered() -> None:
    case = Case(web(check=CHECKED)).begin()
    case.well()
    case.agent.checks[CHECK]["Status"] = "critical"
    case.registration.change((web(check=CHECKED, tags=("new",)),))
    case.pass_(0)
    assert case.agent.status(CHECK) == "passing"


def test_an_instance_that_is_gone_before_it_is_registered_is_not_reported() -> None:
    agent = MemoryAgent()
    agent.hold = True
    case = Case(web(check=CHECKED), agent=agent)
    case.well()
    case.begin()
    agent.release()
    agent.release()
    assert agent.take() == ["register", "register"]
    case.registration.change(())
    agent.hold = False
    agent.release()
    case.pass_(0)
    assert set(agent.services) == {"hostproxy"}
    agent.take()
    case.pass_(30)
    assert set(agent.take()) == {f"pass {OWN}"}


# Reports


def test_a_change_is_reported_at_once_and_the_same_again_every_third_of_the_ttl() -> None:
    case = Case(web(check=CHECKED)).begin()
    case.well()
    case.agent.requests.clear()
    case.well(BAD)
    assert case.agent.status(CHECK) == "critical"
    assert case.agent.notes(CHECK) == ["503 from\\n/healthz"]
    case.well(BAD)
    assert len(case.agent.notes(CHECK)) == 1  # no news
    case.pass_(10 / 3 + 0.25)
    assert len(case.agent.notes(CHECK)) == 2
    case.pass_(10.5)  # the clock goes in quarters of a second
    assert len(case.agent.notes(CHECK)) == 5


def test_no_ttl_ends_while_two_reports_in_a_row_are_lost() -> None:
    case = Case(web(check=CHECKED)).begin()
    case.well()
    case.pass_(4)
    case.agent.requests.clear()
    case.pass_(9.75)
    assert len(case.agent.notes(CHECK)) >= 2


def test_nothing_is_reported_of_which_nothing_is_known() -> None:
    agent = MemoryAgent()
    Case(web(check=CHECKED), agent=agent).begin().well()
    agent.take()
    Case(web(check=CHECKED), agent=agent).begin().pass_(30)
    assert set(agent.take()) == {f"pass {OWN}"}
    assert agent.status(CHECK) == "passing"


def test_a_report_that_fails_is_tried_again_soon_and_then_no_more_often_than_usual() -> None:
    case = Case(web(check=CHECKED)).begin()
    case.well()
    case.pass_(1)
    case.agent.broken = DOWN
    case.agent.requests.clear()
    case.well(BAD)
    case.pass_(3)
    assert 4 <= len(case.agent.notes(CHECK)) <= 5
    case.agent.requests.clear()
    case.pass_(40)
    assert len(case.agent.notes(CHECK)) <= 13
    assert case.registration.problem == f'cannot report "{OWN}": {DOWN}'
    case.agent.broken = None
    case.pass_(10)
    assert case.agent.status(CHECK) == "critical"
    assert case.registration.problem == ""


def test_a_change_during_a_report_is_reported_next_and_never_two_at_a_time() -> None:
    case = Case(web(check=CHECKED)).begin()
    case.agent.hold = True
    case.well()
    case.well(BAD)
    case.well()
    case.well(BAD)
    assert len(case.agent.held) == 1
    case.agent.release()
    case.pass_(0)
    assert case.agent.status(CHECK) == "passing"
    case.agent.release()
    case.pass_(0)
    assert case.agent.status(CHECK) == "critical"
    assert not case.agent.held


def test_reports_of_many_instances_are_spread() -> None:
    agent, ports = MemoryAgent(), range(9001, 9101)
    Case(web(*ports, check=CHECKED), agent=agent).begin().well(GOOD, *ports)
    case = Case(web(*ports, check=CHECKED), agent=agent).spread()
    case.registration.health({("web", f"127.0.0.1:{port}"): GOOD for port in ports})
    case.registration.start()
    case.registration.serving(True)
    counts = []
    for _ in range(400):
        agent.take()
        case.clock.advance(0.025)
        counts.append(len(agent.take()))
    assert max(counts) <= 10
    assert 300 <= sum(counts) <= 420


def test_reports_come_earlier_by_chance() -> None:
    case = Case(web(check=CHECKED))
    case.chance = lambda: 0.999
    case.begin()
    case.well()
    case.agent.requests.clear()
    case.clock.advance(2.7)
    assert len(case.agent.notes(CHECK)) == 1


# Errors


def test_what_the_token_may_not_write_is_said_and_the_rest_is_written() -> None:
    agent = MemoryAgent()
    agent.refused = {"web"}
    case = Case(web(), LocalService(name="db", instances=("127.0.0.1:5432",)), agent=agent).begin()
    assert set(agent.services) == {"hostproxy", "hostproxy-db-5432"}
    assert case.registration.problem == (
        f'cannot register "{WEB}": the ACL token does not allow it (Permission denied: Missing service:write on web);'
        " give its policy this right"
    )
    agent.refused = set()
    agent.take()
    case.pass_(0.25)
    assert agent.take().count("register") == 1
    assert case.registration.problem == ""


def test_an_agent_that_is_away_is_asked_less_and_less_often() -> None:
    agent = MemoryAgent()
    agent.broken = DOWN
    case = Case(web(), agent=agent).begin()
    assert case.registration.problem == str(DOWN)
    assert len(agent.requests) == 1
    agent.requests.clear()
    times = []
    for _ in range(4 * 120):
        case.pass_(0.25)
        times += [case.clock.seconds() - 1000] * len(agent.requests)
        agent.requests.clear()
    assert times == [0.25, 0.75, 1.75, 3.75, 7.75, 15.75, 31.75, 61.75, 91.75]
    agent.broken = None
    case.pass_(30)
    assert set(agent.services) == {"hostproxy", WEB}
    assert case.registration.problem == ""


def test_tries_are_spread_by_chance() -> None:
    agent = MemoryAgent()
    agent.broken = DOWN
    case = Case(agent=agent)
    case.chance = lambda: 0.999
    case.begin()
    case.clock.advance(0.126)
    assert len(agent.requests) == 2


def test_a_reload_does_not_wait_for_the_next_try() -> None:
    agent = MemoryAgent()
    agent.broken = DOWN
    case = Case(web(), agent=agent).begin()
    case.pass_(60)
    agent.broken = None
    case.registration.change((web(9002),))
    case.pass_(0)
    assert set(agent.services) == {"hostproxy", "hostproxy-web-9002"}


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=500, body=b"No cluster leader"),
        Reply(status=404, body=b"<html>"),
        Reply(status=200, body=b"[]"),
        Reply(status=200, body=b"{"),
        Reply(status=200, body=b'{"hostproxy": 1}'),
        Reply(status=403, body=b"ACL not found"),
        Reply(status=429, body=b"slow down"),
    ],
)
def test_answers_of_no_use_are_a_problem_and_change_nothing(reply: Reply) -> None:
    agent = MemoryAgent()
    case = Case(web(), agent=agent).begin()
    agent.take()
    agent.broken = reply
    case.registration.change((web(9002),))
    case.pass_(1)
    assert agent.take() == []
    assert case.registration.problem != ""
    agent.broken = None
    case.pass_(3)
    assert set(agent.services) == {"hostproxy", "hostproxy-web-9002"}


def test_requests_are_few_at_a_time_and_the_rest_is_not_tried_when_the_agent_goes_away() -> None:
    agent = MemoryAgent()
    agent.hold = True
    case = Case(web(*range(9001, 9051)), agent=agent).begin()
    agent.release()
    agent.release()
    assert len(agent.held) == 4
    agent.release()
    assert agent.most == 4
    agent.requests.clear()
    agent.hold, agent.broken = False, DOWN
    agent.release()
    assert len(agent.requests) <= 4
    assert "no connection" in case.registration.problem


def test_only_one_comparison_at_a_time_and_of_many_changes_only_the_last_counts() -> None:
    agent = MemoryAgent()
    agent.hold = True
    case = Case(web(9001), agent=agent).begin()
    for port in range(9002, 9012):
        case.registration.change((web(port),))
        case.pass_(1)
    assert len(agent.requests) == 1
    while agent.held:
        agent.release()
        case.pass_(0)
    assert set(agent.services) == {"hostproxy", "hostproxy-web-9011"}
    assert agent.take().count("register") == 2


def test_a_new_token_is_given_to_every_service_within_a_minute() -> None:
    case = Case(web(check=CHECKED)).begin()
    case.well()
    case.agent.take()
    case.write()
    assert case.agent.take().count("register") == 2
    assert case.agent.status(CHECK) == "passing"
    case.pass_(70)
    assert "register" not in case.agent.take()


def test_a_new_token_is_not_forgotten_when_writing_fails() -> None:
    case = Case(web()).begin()
    case.agent.refused = {"web"}
    case.write()
    case.agent.refused = set()
    case.agent.take()
    case.pass_(0.25)
    assert "register" in case.agent.take()


def test_a_token_that_cannot_be_read_is_a_problem_like_any_other() -> None:
    case = Case(web())

    def unreadable() -> str:
        raise AgentError("token", "no token for Consul: the file is empty")

    case.registration._token = unreadable
    case.begin()
    assert case.registration.problem == "no token for Consul: the file is empty"
    case.registration._token = lambda: "one"
    case.pass_(0.25)
    assert set(case.agent.services) == {"hostproxy", WEB}


# The end


def test_leaving_is_maintenance_of_all_then_deregistration_of_all() -> None:
    case = Case(web(9001, 9002, check=CHECKED)).begin()
    other(case.agent)
    case.agent.take()
    left: list[None] = []
    case.registration.leave().addCallback(left.append)
    assert case.agent.requests[0][2]["reason"] == "hostproxy on h1 is stopping"
    assert case.agent.take() == [
        f"maintenance {WEB}",
        "maintenance hostproxy-web-9002",
        "deregister hostproxy",
        f"deregister {WEB}",
        "deregister hostproxy-web-9002",
    ]
    assert left == [None]
    assert set(case.agent.services) == {"other"}


def test_no_service_is_deregistered_before_all_are_in_maintenance() -> None:
    case = Case(web(*range(9001, 9011))).begin()
    case.agent.take()
    case.agent.hold = True
    case.registration.leave()
    case.agent.release()
    case.agent.release()
    assert all(each.startswith("maintenance") for each in case.agent.take())
    case.agent.release_all()
    assert set(case.agent.services) == set()


def test_after_leaving_nothing_is_written() -> None:
    case = Case(web(check=CHECKED)).begin()
    case.well()
    case.registration.leave()
    case.agent.requests.clear()
    case.well(BAD)
    case.registration.serving(False)
    case.registration.change((web(9002),))
    case.token = "two"
    case.registration.leave()
    case.pass_(600)
    assert case.agent.requests == []
    assert case.clock.getDelayedCalls() == []


def test_a_registration_under_way_is_over_before_it_is_taken_back() -> None:
    agent = MemoryAgent()
    agent.hold = True
    case = Case(web(check=CHECKED), agent=agent).begin()
    agent.release()
    agent.release()
    assert agent.take() == ["register", "register"]
    left: list[None] = []
    case.registration.leave().addCallback(left.append)
    assert agent.take() == []
    agent.release_all()
    assert left == [None]
    assert agent.services == {}
    assert case.clock.getDelayedCalls() == []


def test_reports_that_wait_for_their_turn_are_not_made_any_more() -> None:
    ports = range(9001, 9021)
    case = Case(web(*ports, check=CHECKED)).begin()
    case.agent.hold = True
    case.well(GOOD, *ports)
    assert len(case.agent.held) == 4
    case.registration.leave()
    case.agent.take()
    case.agent.release()
    assert all(each.startswith("maintenance") for each in case.agent.take())


def test_an_agent_that_hangs_holds_a_stop_up_for_two_seconds_and_no_longer() -> None:
    case = Case(web(*range(9001, 9031))).begin()
    case.agent.take()
    case.agent.hold = True
    case.registration.change((web(9100),))
    case.pass_(0)
    (under_way,) = [waiting for waiting, _ in case.agent.held]
    left: list[None] = []
    case.registration.leave().addCallback(left.append)
    case.clock.pump([0.01] * 195)
    assert under_way.called  # cancelled
    assert left == []
    case.clock.pump([0.01] * 8)
    assert left == [None]
    written = case.agent.take()
    assert sum(each.startswith("maintenance") for each in written) == 4
    assert sum(each.startswith("deregister") for each in written) == 4
    assert case.clock.getDelayedCalls() == []


def test_what_was_not_done_in_leaving_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    from hostproxy.discovery.consul import leaving

    lines: list[str] = []
    monkeypatch.setattr(leaving.log, "warn", lambda text, **values: lines.append(text.format(**values)))
    case = Case(web(*range(9001, 9031))).begin()
    case.agent.broken = DOWN
    left: list[None] = []
    case.registration.leave().addCallback(left.append)
    assert left == [None]
    assert lines[0] == f'leaving without having done this in Consul: deregister "hostproxy": {DOWN}'
    assert len(lines) == 11
    assert lines[-1] == "and 21 more"


@pytest.mark.parametrize("acl", [False, True])
def test_leaving_an_agent_that_forgot_everything_is_no_problem(acl: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from hostproxy.discovery.consul import leaving

    lines: list[str] = []
    monkeypatch.setattr(leaving.log, "warn", lambda text, **values: lines.append(text.format(**values)))
    case = Case(web()).begin()
    case.agent.acl = acl
    case.agent.forget()
    left: list[None] = []
    case.registration.leave().addCallback(left.append)
    assert left == [None]
    assert lines == []


def test_what_an_earlier_hostproxy_left_is_taken_out_even_if_this_one_never_served() -> None:
    agent = MemoryAgent()
    Case(web(), agent=agent).begin()
    case = Case(web(), agent=agent)
    case.registration.start()
    case.registration.leave()
    assert agent.services == {}


def test_what_is_registered_is_shown() -> None:
    case = Case(web())
    assert case.registration.registered == ()
    case.agent.refused = {"web"}
    case.begin()
    assert case.registration.registered == ("hostproxy",)
    case.agent.refused = set()
    case.pass_(0.25)
    assert case.registration.registered == ("hostproxy", WEB)
    case.registration.change(())
    case.pass_(0)
    assert case.registration.registered == ("hostproxy",)
    case.registration.leave()
    assert case.registration.registered == ()


def test_stopping_changes_nothing_in_consul_and_ends_everything() -> None:
    case = Case(web(check=CHECKED)).begin()
    case.well()
    case.agent.hold = True
    case.registration.change((web(9002),))
    case.well(BAD)
    held = list(case.agent.held)
    assert held
    case.registration.stop()
    case.agent.hold = False
    case.agent.take()
    assert all(waiting.called for waiting, _ in held)  # cancelled
    case.pass_(600)
    assert case.agent.requests == []
    assert case.clock.getDelayedCalls() == []
    assert set(case.agent.services) == {"hostproxy", WEB}


def test_stopping_ends_leaving() -> None:
    case = Case(web()).begin()
    case.agent.hold = True
    left: list[None] = []
    case.registration.leave().addCallback(left.append)
    case.registration.stop()
    assert left == [None]
    assert case.clock.getDelayedCalls() == []


def test_an_id_that_somebody_else_has_is_left_alone_and_said_so() -> None:
    agent = MemoryAgent()
    other(agent, WEB, Meta={"registered_by": "h2"})
    case = Case(web(), agent=agent).begin()
    assert agent.services[WEB]["Service"] == "other"
    assert "h2" in case.registration.problem
    assert "hostproxy" in agent.services  # the rest is registered all the same
    case.registration.leave()
    case.pass_(3.0)
    assert WEB in agent.services
    assert "hostproxy" not in agent.services
