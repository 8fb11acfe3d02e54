"""A Consul with ACLs that denies by default: the documented rights are enough; what cannot be trusted is not used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.consul import Consul, Refused
from tests.fakes.origin import Origin
from tests.integration.consul_hosts import (
    Site,
    answer,
    answers,
    command,
    knowledge,
    site,
    token_file,
    upstream,
    within,
)
from tests.integration.host import Host
from tests.integration.load import Load

DOCUMENT = Path(__file__).parents[2] / "docs" / "consul.md"
SOON = 2.0  # seconds
OUTSIDE = "127.79.0.9"  # where an instance may be, with the hosts: allow has both networks, and not 127.0.0.1
ALLOW = ["127.77.0.0/16", "127.79.0.0/16"]


def documented() -> str:
    """The rights that docs/consul.md gives a host that runs "web"."""
    [rules] = re.findall(r"```hcl\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert 'service "web"' in rules
    return str(rules)


def reading(rules: str) -> str:
    """Those of them that are enough with ``register = false``."""
    lines = [line for line in rules.splitlines() if 'policy = "read"' in line]
    assert len(lines) == 2
    return "\n".join(lines)


class Guarded:
    """A server with ACLs; a host that runs web with the documented rights, and one that calls with less."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.server: Consul = site.consul("server-1", acl=True, memory=True)
        self.web = site.origin(b"web")
        self.good = Origin(address=(OUTSIDE, 0))
        rules = documented()
        self.token = self.server.policy("web", rules)
        self.reader = self.server.policy("reader", reading(rules))
        self.hosts = site.host(
            "web-1",
            self.server,
            services={"web": self.web.address},
            check={"http": "/", "interval": "100ms"},
            token_file=str(token_file(site.directory / "web.token", self.token)),
        )
        self.file = token_file(site.directory / "reader.token", self.reader)
        self.caller = site.caller("cart-1", self.server, "web", "steady", token_file=str(self.file), allow=ALLOW)
        self.caller.policy["service"] = {name: {"permissive": True} for name in ("steady", "poisoned")}
        site.start(self.hosts, self.caller)
        within(5, lambda: answer(self.caller, "web") == b"web", "web is not found")

    def catalog(self, service: str, number: int, address: str, port: int) -> None:
        """Somebody with the right to, or who took it, writes into the catalog."""
        ident = f"{service}-{number}"
        entry = {"ID": ident, "Service": service, "Address": address, "Port": port}
        self.server.put("/v1/catalog/register", {"Node": ident, "Address": "10.255.0.1", "Service": entry})

    def revoke(self, token: str) -> None:
        accessor = self.server.get("/v1/acl/token/self", token=token)["AccessorID"]
        self.server.request("DELETE", f"/v1/acl/token/{accessor}")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with site(tmp_path_factory.mktemp("guarded")) as made:
        town = Guarded(made)
        yield town
        town.good.stop()


def problems(host: Host) -> str:
    return str(host.ask_json("/status"))


def sound(host: Host) -> None:
    """Nothing is degraded."""
    within(3, lambda: not host.ask_json("/ready")["degraded"], "something does not work")
    assert command(host, "status")[0] == 0


def test_the_documented_rights_are_enough(guarded: Guarded) -> None:
    found = guarded.server.get("/v1/health/service/web?passing")
    assert [each["Service"]["Port"] for each in found] == [guarded.web.port]
    own = within(3, lambda: guarded.server.get("/v1/health/service/hostproxy?passing"), "hostproxy does not pass")
    assert len(own) == 1
    for host in (guarded.hosts, guarded.caller):
        sound(host)


def test_and_nothing_more_than_these(guarded: Guarded) -> None:
    """The same calls are refused without them: Consul denies by default here."""
    body = {"Name": "web", "Port": 1, "Address": "10.0.0.1"}
    for token in (guarded.reader, ""):
        with pytest.raises(Refused) as refused:
            guarded.server.request("PUT", "/v1/agent/service/register", body, token=token or "anonymous")
        assert refused.value.status == 403
    with pytest.raises(Refused):
        guarded.server.request("PUT", "/v1/agent/service/register", {**body, "Name": "other"}, token=guarded.token)


def test_a_revoked_token_changes_nothing_and_a_new_one_is_used_without_a_restart(guarded: Guarded) -> None:
    """fi-c17."""
    guarded.catalog("steady", 1, OUTSIDE, guarded.good.port)
    other = Origin(address=(OUTSIDE, 0))
    try:
        within(SOON, lambda: answer(guarded.caller, "steady") == b"ok")
        with Load(upstream(guarded.caller, 1), clients=2) as load:
            guarded.revoke(guarded.reader)
            guarded.catalog("steady", 2, OUTSIDE, other.port)  # what asks next is refused
            within(SOON + 2, lambda: "ACL not found" in problems(guarded.caller), "it is not shown")
            load.more(200)
            token_file(guarded.file, guarded.server.policy("reader-2", reading(documented())))
            within(SOON + 2, lambda: other.accepted > 0, "the new token is not used")
            load.more(50)
        assert load.failures == []
        within(10, lambda: "ACL not found" not in problems(guarded.caller), "it is still shown")
    finally:
        other.stop()


def test_poisoned_instances_are_never_connected_to(guarded: Guarded) -> None:
    """fi-c18: what listens at such an address sees nobody, and the instance beside them answers everything."""
    trap = Origin(address=("0.0.0.0", 0))
    try:
        own_ip, _, admin = guarded.caller.admin.rpartition(":")
        proxy = int(guarded.caller.proxy.rpartition(":")[2])
        poison = [
            ("127.0.0.1", trap.port),
            ("::1", trap.port),
            ("::ffff:127.0.0.1", trap.port),
            ("169.254.169.254", 80),
            ("224.0.0.1", trap.port),
            ("localhost", trap.port),
            (own_ip, int(admin)),
            (own_ip, proxy),
        ]
        for number, (address, port) in enumerate(poison):
            guarded.catalog("poisoned", number, address, port)
        guarded.catalog("poisoned", len(poison), OUTSIDE, guarded.good.port)
        within(5, lambda: answer(guarded.caller, "poisoned") == b"ok", "the good one is not used")
        refused = "consul_refused_instances_total"
        within(5, lambda: guarded.caller.metric(refused) >= len(poison), "some are not refused")
        assert answers(guarded.caller, "poisoned", 100) == {b"ok"}
        assert trap.accepted == 0
        instances = guarded.caller.ask_json("/catalog?service=poisoned")["services"]["poisoned"]["instances"]
        assert [each["address"] for each in instances] == [f"{OUTSIDE}:{guarded.good.port}"]
        assert "left out" in within(SOON, lambda: knowledge(guarded.caller, "poisoned")["problem"])
        output = guarded.caller.output()
        for number in range(len(poison)):
            assert f"poisoned-{number}" in output, "each is named in the log"
        status, text = command(guarded.caller, "endpoints", "poisoned")
        assert status == 0
        assert "169.254" not in text.partition("ADDRESS")[2]
    finally:
        trap.stop()
