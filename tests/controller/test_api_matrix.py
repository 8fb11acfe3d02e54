"""Who may call what: every route, every kind of caller, every method, from the route table itself."""

from __future__ import annotations

from typing import Any

import pytest

from controller.api import routes
from controller.api.callers import Peer
from controller.api.calls import Role
from tests.controller.conftest import Scene

PATHS = sorted({route.path for route in routes.ROUTES})
# What is in each place of a path, as somebody would write it.
EXAMPLE = {
    "{token}": "0" * 32,
    "{host}": "web-9",
    "{service}": "payments",
    "{generation}": "7",
    "{root}": "1",
    "{operator}": "nobody",
}
HOST_PATHS = {"/v1/certificates", "/v1/bundle", "/v1/report"}


def concrete(path: str) -> str:
    return "/".join(EXAMPLE.get(segment, segment) for segment in path.split("/"))


class Crowd:
    """One of each kind of caller."""

    def __init__(self, scene: Scene) -> None:
        stranger = Peer("10.0.0.66")
        self.callers: dict[str, tuple[Role | None, dict[str, Any]]] = {
            "stranger": (Role.STRANGER, {"peer": stranger}),
            "wrong token": (None, {"peer": Peer("10.0.0.67"), "authorization": "Bearer admin~hpo_guess"}),
            "host": (Role.HOST, {"peer": scene.host()}),
            "service": (None, {"peer": scene.certified("service", "cart")}),
            "controller": (None, {"peer": scene.certified("controller", "controller-1")}),
            "unknown operator": (None, {"peer": scene.certified("operator", "mallory")}),
            "other user": (None, {"peer": Peer(uid=12345)}),
            "root": (Role.ADMIN, {"peer": Peer(uid=0)}),
        }
        for name, role in (("reader", "read"), ("deployer", "deploy"), ("chief", "admin")):
            token = scene.operator(name, role)
            kind = Role[role.upper()]
            self.callers[f"{role} by token"] = (kind, {"peer": stranger, "authorization": token})
            self.callers[f"{role} by certificate"] = (kind, {"peer": scene.certified("operator", name)})


@pytest.fixture
def crowd(scene: Scene) -> Crowd:
    return Crowd(scene)


def test_every_route_says_who_may_use_it() -> None:
    for route in routes.ROUTES:
        assert isinstance(route.role, Role), route
        assert callable(route.handler), route
        # Nothing is changed by looking, and whatever changes something is written down.
        assert (route.method == "GET") <= (not route.act), route
    strangers = [route.path for route in routes.ROUTES if route.role is Role.STRANGER]
    assert strangers == ["/v1/enrol"]
    assert {route.path for route in routes.ROUTES if route.role is Role.HOST} == HOST_PATHS
    assert len({(route.method, route.path) for route in routes.ROUTES}) == len(routes.ROUTES)


@pytest.mark.parametrize("route", routes.ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_whoever_may_not_is_refused_and_whoever_may_is_not(route: routes.Route, scene: Scene, crowd: Crowd) -> None:
    for name, (role, who) in crowd.callers.items():
        status, content = scene.ask(route.method, concrete(route.path), b"{}", **who)
        refused = status in (401, 403) or (status == 429 and name == "wrong token")
        if route.role is Role.STRANGER:
            assert not refused, (name, content)
        elif route.role is Role.HOST:
            assert refused == (role is not Role.HOST), (name, content)
        else:
            allowed = role is not None and role >= route.role and role is not Role.HOST
            assert refused == (not allowed), (name, status, content)
        assert status != 500, (name, content)


@pytest.mark.parametrize("path", PATHS)
def test_other_methods_are_no_way_in(path: str, scene: Scene) -> None:
    given = {route.method for route in routes.ROUTES if concrete(route.path) == concrete(path)}
    for method in ("GET", "POST", "PUT", "DELETE"):
        if method not in given and not any(
            route.method == method and routes._match(route.path.split("/"), concrete(path).split("/")) is not None
            for route in routes.ROUTES
        ):
            scene.expect(405, method, concrete(path), b"{}")
    for method in ("HEAD", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "BREW", "PRI"):
        scene.expect(501, method, concrete(path), b"{}")


@pytest.mark.parametrize(
    "target",
    [
        "/v1/%62undle",
        "/v1/bundle/",
        "/v1//bundle",
        "//v1/bundle",
        "/v1/./bundle",
        "/v1/../v1/bundle",
        "/v1/%2e%2e/v1/bundle",
        "/v1/bundle%00",
        "/v1/bundle;a=b",
        "/v1\\bundle",
        "/V1/bundle",
        "/v1/bundle/web-2",
        "/v1/hosts/web-2/bundle",
        "/v2/bundle",
        "/",
    ],
)
def test_a_path_has_one_spelling(target: str, scene: Scene) -> None:
    scene.apply()
    scene.expect(404, "GET", target, peer=scene.host())


@pytest.mark.parametrize("target", ["https://controller.corp.example/v1/bundle", "*", "v1/bundle", ""])
def test_a_target_is_a_path(target: str, scene: Scene) -> None:
    scene.expect(400, "GET", target, peer=scene.host())


def test_who_is_refused_is_written_down(scene: Scene) -> None:
    host = scene.host()
    before = len(scene.audit.lines)
    scene.expect(403, "POST", "/v1/hosts/web-2/deny", {}, peer=host)
    (line,) = scene.audit.lines[before:]
    assert (line["actor"], line["result"]) == ("spiffe://corp.example/host/web-1", "refused")
    assert line["object"] == "POST /v1/hosts/{host}/deny"


def test_refusals_do_not_fill_the_audit_log(scene: Scene) -> None:
    for _ in range(200):
        scene.expect(401, "GET", "/v1/hosts", peer=Peer("10.0.0.66"))
    assert scene.audit.acts("refused").count("call") <= 30


def test_web_pages_are_not_answered(scene: Scene) -> None:
    scene.expect(403, "GET", "/v1/status", origins=[b"https://evil.example"])
    scene.expect(403, "GET", "/v1/status", host=b"evil.example")
    scene.expect(200, "GET", "/v1/status", host=b"localhost:80")
    scene.expect(400, "GET", "/v1/status", hosts=[])
    scene.expect(400, "GET", "/v1/status", hosts=[b"localhost", b"localhost"])


def test_a_credential_is_shown_once(scene: Scene) -> None:
    token = scene.operator("ann", "admin")
    scene.expect(400, "GET", "/v1/status", authorization=token)
    scene.expect(400, "GET", "/v1/status", peer=scene.host(), authorization=token)
    scene.expect(401, "GET", "/v1/status", peer=Peer("10.0.0.2"), authorization="Basic YWRtaW46YWRtaW4=")
    scene.expect(401, "GET", "/v1/status", peer=Peer("10.0.0.2"), authorization="Bearer ")


def test_who_does_not_lead_changes_nothing(scene: Scene) -> None:
    class Following:
        leading, leader, term = False, "controller-2", 4

    scene.apply()
    following: Any = Following()
    scene.parts.leadership = following
    for route in routes.ROUTES:
        if route.leader:
            problem = scene.expect(503, route.method, concrete(route.path), b"{}")
            assert "controller-2" in problem["error"], route
    assert scene.expect(200, "GET", "/v1/status")["leader"] == "controller-2"
    scene.expect(200, "GET", "/v1/policy")
    scene.host("web-7")  # enrolling needs no leader
