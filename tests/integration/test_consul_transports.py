"""The agent over https with certificates on both sides, and over a Unix socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.discovery.consul.conftest import Authority, SecuredConsul
from tests.integration.consul_hosts import Site, answer, command, knowledge, site, within
from tests.integration.host import Host


class Secured:
    """An agent with ACLs; a host that registers with it over https, and one that only asks, over its Unix socket."""

    def __init__(self, site: Site) -> None:
        authority = Authority(site.directory / "authority")
        self.consul = SecuredConsul(site.directory / "consul", authority)
        site.closing(self.consul.kill)
        self.consul.start()
        certificate, key = authority.issue("hostproxy")
        self.address = f"https://{self.consul.ip}:{self.consul.ports['https']}"
        self.web = site.host(
            "web-1",
            self.consul,
            services={"web": site.origin(b"web").address},
            address=self.address,
            ca=self.consul.ca,
            certificate=certificate,
            key=key,
        )
        self.cart = site.caller("cart-1", self.consul, "web", address=f"unix:{self.consul.socket}")
        site.start(self.web, self.cart)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with site(tmp_path_factory.mktemp("secured")) as made:
        yield Secured(made)


def sound(host: Host, address: str) -> None:
    """It asks there, and nothing is wrong."""
    document = host.ask_json("/discovery")
    assert (document["source"], document["problem"]) == (address, "")
    status, text = command(host, "status")
    assert status == 0, text
    assert "Consul" not in text.partition("degraded")[2]


def test_over_https_with_a_certificate(secured: Secured) -> None:
    within(5, lambda: secured.consul.get("/v1/health/service/web?passing"), "it is not registered")
    within(3, lambda: answer(secured.web, "web") == b"web", "it does not find itself")
    sound(secured.web, secured.address)


def test_over_a_unix_socket(secured: Secured) -> None:
    within(3, lambda: answer(secured.cart, "web") == b"web")
    assert within(2, lambda: knowledge(secured.cart, "web"))["source"] == "watch"
    sound(secured.cart, f"unix:{secured.consul.socket}")


def test_https_without_a_certificate_is_named(secured: Secured) -> None:
    """A reload that forgets it: the last known instances stay in use."""
    consul = secured.web.conf["discovery"]["consul"]
    del consul["certificate"], consul["key"]
    secured.web.write_conf()
    secured.web.reload()
    problem = within(5, lambda: secured.web.ask_json("/discovery")["problem"], "no problem is shown")
    assert "certificate" in problem
    assert answer(secured.web, "web") == b"web"
