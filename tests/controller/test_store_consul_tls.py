"""How the controller reaches its agent of Consul: HTTPS with certificates on both sides, or a Unix socket."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.internet.ssl import CertificateOptions

from controller.store import Unavailable, Unusable
from controller.store.client import Address, Client
from controller.store.consul import ConsulStore
from tests.consul import MASTER
from tests.controller.stores import failure, result
from tests.discovery.conftest import loop
from tests.discovery.consul.conftest import Authority, SecuredConsul, World, authority, http, secured, world

__all__ = ("authority", "loop", "secured", "world")


def ask(world: World, address: Address, token: str = "") -> Any:
    """Put and get something."""
    client = Client(world.reactor, address, lambda: token)
    store = ConsulStore(world.reactor, client, "mesh", time.time)

    async def both() -> bytes | None:
        await store.put("state/head", b"1", None)
        entry = await store.get("state/head")
        return entry.value if entry is not None else None

    try:
        return result(world.loop, both())
    finally:
        result(world.loop, store.close())


def test_https_with_certificates_and_a_unix_socket(
    world: World, secured: SecuredConsul, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.issue("controller")
    https = f"https://{secured.ip}:{secured.ports['https']}"
    good = Address(address=https, ca=secured.ca, certificate=certificate, key=key)
    assert ask(world, good, MASTER) == b"1"
    assert ask(world, Address(address=f"unix:{secured.socket}"), MASTER) == b"1"
    stranger = Authority(tmp_path / "stranger")
    for wrong in (
        Address(address=https, ca=str(stranger.ca), certificate=certificate, key=key),
        Address(address=https, certificate=certificate, key=key),
        Address(address=https, ca=secured.ca),
        Address(address=f"http://{secured.ip}:{secured.ports['https']}"),
    ):
        with pytest.raises(Unavailable):
            ask(world, wrong, MASTER)


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        ([x509.DNSName("localhost")], True),
        ([x509.DNSName("other.example"), x509.DNSName("localhost")], True),
        ([x509.DNSName("other.example")], False),
        ([x509.UniformResourceIdentifier("spiffe://corp.example/host/web-1")], False),
        ([], False),
    ],
)
def test_the_token_goes_to_nobody_but_the_agent(
    world: World, authority: Authority, names: list[x509.GeneralName], taken: bool
) -> None:
    certificate, key = authority.issue("localhost", *names)
    options: Any = CertificateOptions
    own = x509.load_pem_x509_certificate(Path(certificate).read_bytes())
    secret = load_pem_private_key(Path(key).read_bytes(), None)
    stub = world.stub(http(b"[]"), tls=options(privateKey=secret, certificate=own))
    address = Address(address=stub.address.replace("127.0.0.1", "localhost"), ca=str(authority.ca))
    client = Client(world.reactor, address, lambda: "secret")
    asked = client.request("GET", "/v1/kv/a")
    if taken:
        assert result(world.loop, asked).status == 200
        assert b"X-Consul-Token: secret" in stub.requests[0]
    else:
        error = failure(world.loop, asked)
        assert isinstance(error, Unavailable)
        assert "certificate verify failed" in str(error)
        assert "secret" not in str(error)
        assert not stub.requests
    result(world.loop, client.close())


def test_files_that_cannot_be_used_are_said(world: World, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("controller")
    text = tmp_path / "text.pem"
    text.write_text("nothing")
    text.chmod(0o600)
    exposed = tmp_path / "exposed.key"
    exposed.write_bytes(Path(key).read_bytes())
    exposed.chmod(0o644)
    for files, says in (
        ({"ca": str(text)}, "holds no certificates"),
        ({"ca": str(tmp_path / "none.pem")}, "does not exist"),
        ({"certificate": certificate, "key": str(text)}, "holds no private key"),
        ({"certificate": str(text), "key": key}, "holds no certificates"),
        ({"certificate": certificate, "key": authority.issue("other")[1]}, "is not the key of the certificate"),
        ({"certificate": certificate, "key": str(exposed)}, "chmod 600"),
    ):
        with pytest.raises(Unusable, match=says):
            Client(world.reactor, Address(address="https://localhost:8501", **files), lambda: "")


def test_certificates_are_read_again_and_those_before_serve_while_the_files_are_bad(
    world: World, secured: SecuredConsul, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = (Path(path) for path in authority.issue("controller"))
    stranger = Authority(tmp_path / "stranger")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(stranger.ca.read_bytes())
    https = f"https://{secured.ip}:{secured.ports['https']}"
    address = Address(address=https, ca=str(ca), certificate=str(certificate), key=str(key))
    client = Client(world.reactor, address, lambda: MASTER)

    def asked() -> int:
        return result(world.loop, client.request("GET", "/v1/status/leader")).status

    try:
        with pytest.raises(Unavailable):
            asked()
        ca.write_bytes(Path(secured.ca).read_bytes())
        assert asked() == 200
        result(world.loop, client._pool.closeCachedConnections())
        ca.write_bytes(b"half of a fi")
        assert asked() == 200
    finally:
        result(world.loop, client.close())
