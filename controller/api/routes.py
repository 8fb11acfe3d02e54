"""Every path there is, who may use it, and what answers. What is not here does not exist."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from controller.api import access, for_hosts, keys, operators, overview, policies
from controller.api.calls import Answer, Call, No, Role
from controller.api.parts import Parts

SMALL = 256 * 1024  # bytes of a body
LARGE = 6 * 1024 * 1024  # of one with 4 MiB of policy in it, as JSON

Handler = Callable[[Parts, Call], Awaitable[Answer]]


class Route(NamedTuple):
    """One method of one path."""

    method: str
    path: str  # "/v1/hosts/{host}": a segment in braces is any one segment
    role: Role
    handler: Handler
    act: str = ""  # by which the audit log names it; "": it changes nothing, or its handler writes the line itself
    leader: bool = False  # only the controller that leads can do it
    limit: int = SMALL


STRANGER, HOST, READ, DEPLOY, ADMIN = Role

ROUTES = (
    # Hosts
    Route("POST", "/v1/enrol", STRANGER, for_hosts.enrol),
    Route("POST", "/v1/certificates", HOST, for_hosts.certificates),
    Route("GET", "/v1/bundle", HOST, for_hosts.bundle),
    Route("POST", "/v1/report", HOST, for_hosts.report),
    # Who may be in the mesh
    Route("GET", "/v1/tokens", READ, access.list_tokens),
    Route("POST", "/v1/tokens", DEPLOY, access.create_token, "token.create"),
    Route("DELETE", "/v1/tokens/{token}", DEPLOY, access.revoke_token, "token.revoke"),
    Route("GET", "/v1/hosts", READ, access.list_hosts),
    Route("GET", "/v1/hosts/{host}", READ, access.show_host),
    Route("POST", "/v1/hosts/{host}/deny", ADMIN, access.deny_host, "host.deny", leader=True),
    Route("POST", "/v1/hosts/{host}/allow", ADMIN, access.allow_host, "host.allow", leader=True),
    Route("DELETE", "/v1/hosts/{host}", ADMIN, access.forget_host, "host.forget"),
    Route("GET", "/v1/services", READ, access.list_services),
    Route("POST", "/v1/services/{service}/deny", ADMIN, access.deny_service, "service.deny", leader=True),
    Route("POST", "/v1/services/{service}/allow", ADMIN, access.allow_service, "service.allow", leader=True),
    Route("PUT", "/v1/services/{service}/hosts/{host}", DEPLOY, access.assign, "service.assign"),
    Route("DELETE", "/v1/services/{service}/hosts/{host}", DEPLOY, access.withdraw, "service.withdraw"),
    # What they may do
    Route("POST", "/v1/policy/check", READ, policies.check, limit=LARGE),
    Route("POST", "/v1/policy/diff", READ, policies.diff, limit=LARGE),
    Route("POST", "/v1/policy/epoch", ADMIN, policies.raise_epoch, "policy.epoch", leader=True),
    Route("POST", "/v1/policy", DEPLOY, policies.apply, "policy.apply", leader=True, limit=LARGE),
    Route("GET", "/v1/policy", READ, policies.history),
    Route("GET", "/v1/policy/{generation}", READ, policies.show),
    Route("POST", "/v1/policy/{generation}/rollback", DEPLOY, policies.rollback, "policy.rollback", leader=True),
    Route("GET", "/v1/rollout", READ, policies.rollout),
    Route("POST", "/v1/rollout/stop", DEPLOY, policies.stop_rollout, "rollout.stop", leader=True),
    # Keys
    Route("GET", "/v1/authority", READ, keys.status),
    Route("POST", "/v1/authority/rotate-issuing", ADMIN, keys.rotate_issuing, "authority.rotate-issuing", leader=True),
    Route("POST", "/v1/authority/roots", ADMIN, keys.add_root, "authority.add-root", leader=True),
    Route("POST", "/v1/authority/roots/{root}/use", ADMIN, keys.use_root, "authority.use-root", leader=True),
    Route("DELETE", "/v1/authority/roots/{root}", ADMIN, keys.drop_root, "authority.drop-root", leader=True),
    Route("POST", "/v1/signing/next", ADMIN, keys.next_signer, "signing.next", leader=True),
    Route("POST", "/v1/signing/use", ADMIN, keys.use_signer, "signing.use", leader=True),
    # Operators
    Route("GET", "/v1/operators", ADMIN, operators.list_all),
    Route("POST", "/v1/operators", ADMIN, operators.create, "operator.create"),
    Route("DELETE", "/v1/operators/{operator}", ADMIN, operators.revoke, "operator.revoke"),
    Route("POST", "/v1/operator-certificate", READ, operators.certificate, "operator.certificate"),
    # What was done, and how things stand
    Route("GET", "/v1/status", READ, overview.status),
    Route("GET", "/v1/audit", READ, overview.audit_tail),
    Route("POST", "/v1/audit/verify", READ, overview.audit_verify),
)

METHODS = frozenset(route.method for route in ROUTES)


def find(method: str, path: str) -> tuple[Route, Mapping[str, str]]:
    """The route of a path that is plain already, and the values of its segments. Raises :class:`No`."""
    segments = path.split("/")
    allowed = []
    for route in ROUTES:
        parameters = _match(route.path.split("/"), segments)
        if parameters is None:
            continue
        if route.method == method:
            return route, parameters
        allowed.append(route.method)
    if allowed:
        raise No(405, f"{method} is not for this path: {', '.join(allowed)} is", code=", ".join(allowed))
    raise No(404, "there is no such path")


def _match(template: list[str], segments: list[str]) -> Mapping[str, str] | None:
    if len(template) != len(segments):
        return None
    parameters = {}
    for wanted, found in zip(template, segments, strict=True):
        if wanted.startswith("{"):
            parameters[wanted[1:-1]] = found
        elif wanted != found:
            return None
    return parameters
