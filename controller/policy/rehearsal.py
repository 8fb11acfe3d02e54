"""A policy asked as hosts ask it, before any host has it; and whether what it says is what was expected.

What decides here decides on hosts: :class:`hostproxy.enforce.authorise.Authoriser` for the host of who is called, and
:class:`hostproxy.route.table.RouteTable` for the host of who calls.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from controller.policy.expectations import ABOUT_REQUESTS, HOST, Call, Expectation
from hostproxy.enforce.authorise import Authoriser, Decision
from hostproxy.enforce.explain import Asked, decided
from hostproxy.mesh.kinds import did_you_mean
from hostproxy.mesh.policy import Policy, ServicePolicy
from hostproxy.mesh.routes import NO_ROUTE
from hostproxy.mesh.units import format_duration
from hostproxy.route.explain import Explainer, Treatment, named

DEFAULT_PROTOCOL = "http"  # where policy leaves it to the hosts


class Outcome(NamedTuple):
    """What became of an expectation."""

    expectation: Expectation
    decision: Decision
    treatment: Treatment
    fault: str  # why it is not met; "" when it is


class Rehearsal:
    """A policy, asked as hosts would ask it."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._authorisers: dict[str, Authoriser] = {}
        self._explainers: dict[str, Explainer] = {}

    def is_bytes(self, service: str) -> bool:
        """Whether connections to a service are carried without a look at requests."""
        return (self._rules(service).protocol or DEFAULT_PROTOCOL) != "http"

    def asked(self, call: Call) -> Asked:
        """The call as rules and routes see it."""
        # Only "*" means hosts in rules, and no service has a slash in its name.
        caller = f"{HOST}/any" if call.caller == HOST else call.caller
        fields = "".join(f"{name}: {value}\r\n" for name, value in call.headers)
        opaque = self.is_bytes(call.service)
        return Asked(caller, call.method.encode(), call.path.encode(), fields.encode(), opaque)

    def decide(self, call: Call) -> Decision:
        """What the callee's host decides."""
        authoriser = self._authorisers.get(call.service)
        if authoriser is None:
            own = self._rules(call.service)
            authoriser = Authoriser(own.allow, own.deny, *self.policy.default(call.service))
            self._authorisers[call.service] = authoriser
        return decided(authoriser, self.asked(call))

    def explainer(self, service: str) -> Explainer:
        """The routes of a service, as its callers' hosts have them."""
        explainer = self._explainers.get(service)
        if explainer is None:
            explainer = Explainer(service, self._rules(service), self.is_bytes(service))
            self._explainers[service] = explainer
        return explainer

    def treat(self, call: Call) -> Treatment:
        """What the caller's host does with a call that names the service itself."""
        asked = self.asked(call)
        return self.explainer(call.service).treatment("", asked.method, asked.target, asked.fields)

    def judge(self, expectation: Expectation) -> Outcome:
        """Whether one is met."""
        decision, treatment = self.decide(expectation.call), self.treat(expectation.call)
        return Outcome(expectation, decision, treatment, self._fault(expectation, decision, treatment))

    def _fault(self, expectation: Expectation, decision: Decision, treatment: Treatment) -> str:
        service = expectation.call.service
        if expectation.about_requests and self.is_bytes(service):
            return f"{service} is carried as bytes: leave out {', '.join(ABOUT_REQUESTS)}"
        found = f"{'allowed' if decision.allowed else 'denied'}: {decision.rule}"
        if decision.allowed != expectation.allowed:
            return f"is to be {'allowed' if expectation.allowed else 'denied'}, and is {found}"
        # A default says more than its place: "mesh.toml:2: [defaults] access".
        if expectation.rule and decision.rule.partition(": ")[0] != expectation.rule:
            return f"is to be decided by {expectation.rule}, and is {found}"
        return self._misrouted(expectation, treatment)

    def _misrouted(self, expectation: Expectation, treatment: Treatment) -> str:
        """What is otherwise than expected on the caller's host."""
        own = self._rules(expectation.call.service)
        route, subsets, timeout = expectation.route, expectation.subsets, expectation.timeout
        takes = f"takes {_place(treatment)}" if treatment.route else "takes none"
        if route and route not in (treatment.route or NO_ROUTE, treatment.source):
            known = [name for each in own.routes for name in (named(each), each.source)]
            wanted = "no route" if route == NO_ROUTE else f"route {route}"
            return f"is to take {wanted}, and {takes}{_unknown('route', [route], [*known, NO_ROUTE])}"
        goes = sorted(each.subset for each in treatment.portions if each.share and each.subset)
        if subsets is not None and sorted(subsets) != goes:
            unknown = _unknown("subset", subsets, own.subsets)
            return f"is to go to {_listed(sorted(subsets))}, and goes to {_listed(goes)}: it {takes}{unknown}"
        if timeout is not None and timeout != treatment.timeout:
            wanted = format_duration(timeout) if timeout else "none"
            return f"is to have timeout {wanted}, and has {_timeout(treatment)}: it {takes}"
        return ""

    def _rules(self, service: str) -> ServicePolicy:
        return self.policy.services.get(service, _SILENT)


_SILENT = ServicePolicy()


def _place(treatment: Treatment) -> str:
    """The route that decides, with where it is."""
    return treatment.source if treatment.route == treatment.source else f"{treatment.route} ({treatment.source})"


def _listed(subsets: Sequence[str]) -> str:
    return f"subset{'s' if len(subsets) > 1 else ''} {', '.join(subsets)}" if subsets else "all instances"


def _timeout(treatment: Treatment) -> str:
    text = format_duration(treatment.timeout) if treatment.timeout else "none"
    return f"{text} by {treatment.timeout_from}" if treatment.timeout_from else text


def _unknown(kind: str, wanted: Sequence[str], known: Collection[str]) -> str:
    """That policy has no such thing, and what was probably meant; empty when it has."""
    for name in wanted:
        if name not in known:
            near = did_you_mean(name, known)
            return f'; there is no {kind} {name}{f", {near}" if near else ""}'
    return ""
