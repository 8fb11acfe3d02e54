from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading

import pytest
from cryptography.hazmat.primitives import serialization

from hostproxy.identity.contexts import ClientContexts, ServerContexts, client_context, server_context
from hostproxy.identity.peer import handshake_failure_reason, peer_identity, peer_protocol
from hostproxy.snapshot import Identity
from tests.identity.crafting import CART, PAYMENTS, TRUST_DOMAIN, Handshake, authority, good, lenient_client

HTTP = ("http/1.1",)
BILLING = f"spiffe://{TRUST_DOMAIN}/service/billing"
PAYMENTS_NAME = f"payments.dc1.{TRUST_DOMAIN}"
BILLING_NAME = f"billing.dc1.{TRUST_DOMAIN}"


def served(*identities: Identity, protocols: dict[str, tuple[str, ...]] | None = None) -> ServerContexts:
    contexts = ServerContexts()
    update(contexts, *identities, protocols=protocols)
    return contexts


def update(contexts: ServerContexts, *identities: Identity, protocols=None, authorities=None) -> None:
    by_name = {identity.name: identity for identity in identities}
    alpn = protocols or dict.fromkeys(by_name, HTTP)
    contexts.update(TRUST_DOMAIN, "dc1", by_name, authorities or authority().pem, alpn)


def call(contexts: ServerContexts, server_name: str | None, as_identity: Identity | None = None) -> Handshake:
    client = client_context(as_identity or good(CART), authority().pem, HTTP)
    return Handshake(contexts.context, client, server_name)


def test_both_sides_know_each_other_and_talk():
    handshake = call(served(good(PAYMENTS)), PAYMENTS_NAME)
    assert handshake.complete
    assert handshake.server.version() == "TLSv1.3"
    assert peer_identity(handshake.server.getpeercert(True), TRUST_DOMAIN).uri == CART
    assert peer_identity(handshake.client.getpeercert(True), TRUST_DOMAIN, PAYMENTS).uri == PAYMENTS
    assert peer_protocol(handshake.server) == peer_protocol(handshake.client) == "http/1.1"
    assert handshake.exchange() == b"ping"
    assert handshake.server.compression() is None


def test_the_server_name_chooses_certificate_and_protocols():
    contexts = served(
        good(PAYMENTS), good(BILLING), protocols={"payments": ("http/1.1",), "billing": ("hostproxy-tcp",)}
    )
    client = client_context(good(CART), authority().pem, ("hostproxy-tcp", "http/1.1"))
    for name, uri, protocol in (
        (PAYMENTS_NAME, PAYMENTS, "http/1.1"),
        (BILLING_NAME, BILLING, "hostproxy-tcp"),
    ):
        handshake = Handshake(contexts.context, client, name)
        assert peer_identity(handshake.client.getpeercert(True), TRUST_DOMAIN, uri).uri == uri
        assert peer_protocol(handshake.server) == protocol
        assert contexts.service(handshake.server) == uri.rpartition("/")[2]


@pytest.mark.parametrize(
    "name",
    [
        BILLING_NAME,
        f"payments.dc2.{TRUST_DOMAIN}",
        "payments.dc1.other.test",
        f"x.payments.dc1.{TRUST_DOMAIN}",
        f"PAYMENTS.dc1.{TRUST_DOMAIN}",
        "payments",
        TRUST_DOMAIN,
        f"{PAYMENTS_NAME}.",
    ],
)
def test_a_server_name_of_no_service_here_is_refused_before_any_certificate_is_shown(name):
    handshake = call(served(good(PAYMENTS)), name)
    assert handshake_failure_reason(handshake.server_error) == "wrong-server-name"
    assert handshake_failure_reason(handshake.client_error) == "alert-unrecognized-name"
    with pytest.raises(ValueError, match="handshake not done"):
        handshake.client.getpeercert(True)


@pytest.mark.parametrize("name", [None, "192.0.2.1"])
def test_a_missing_server_name_is_refused(name):
    # An IP address is not sent as a server name: RFC 6066 section 3.
    handshake = call(served(good(PAYMENTS)), name)
    assert handshake_failure_reason(handshake.server_error) == "wrong-server-name"
    assert handshake_failure_reason(handshake.client_error) == "alert-missing-extension"


def test_a_host_without_services_refuses_everybody():
    assert handshake_failure_reason(call(ServerContexts(), PAYMENTS_NAME).server_error) == "wrong-server-name"


def test_callers_are_verified_behind_the_front_as_well():
    contexts = served(good(PAYMENTS))
    for caller, reason in ((None, "no-certificate"), (good(CART, authority(1)), "unknown-authority")):
        handshake = Handshake(contexts.context, lenient_client(caller), PAYMENTS_NAME)
        assert handshake_failure_reason(handshake.server_error) == reason


def test_an_intermediate_in_the_bundle_is_no_anchor():
    # The leaf itself as an "authority": a partial chain would be accepted by some defaults.
    cart = good(CART)
    server = server_context(good(PAYMENTS), cart.certificate, HTTP)
    handshake = Handshake(server, lenient_client(cart))
    assert handshake_failure_reason(handshake.server_error) == "unknown-authority"


def test_authorities_of_the_operating_system_are_not_trusted():
    for context in (
        client_context(good(CART), authority().pem, HTTP),
        server_context(good(PAYMENTS), authority().pem, HTTP),
    ):
        assert context.get_ca_certs(True) == [ssl.PEM_cert_to_DER_cert(authority().pem.decode())]
    assert ServerContexts().context.get_ca_certs() == []


def test_during_a_change_of_authorities_both_are_good_and_afterwards_the_old_one_is_not():
    old, new = authority(0), authority(1)
    contexts = served(good(PAYMENTS, old))
    both = old.pem + new.pem
    update(contexts, good(PAYMENTS, old), authorities=both)
    for by in (old, new):
        client = client_context(good(CART, by), both, HTTP)
        assert Handshake(contexts.context, client, PAYMENTS_NAME).complete
    update(contexts, good(PAYMENTS, new), authorities=new.pem)
    assert Handshake(contexts.context, client_context(good(CART, new), new.pem, HTTP), PAYMENTS_NAME).complete
    refused = Handshake(contexts.context, client_context(good(CART, old), both, HTTP), PAYMENTS_NAME)
    assert handshake_failure_reason(refused.server_error) == "unknown-authority"


def test_only_what_changed_is_made_again():
    payments, billing = good(PAYMENTS), good(BILLING)
    contexts = served(payments, billing)

    def chosen(name: str) -> ssl.SSLContext:
        return call(contexts, name).server.context

    before = chosen(PAYMENTS_NAME), chosen(BILLING_NAME)
    front = contexts.context
    # Equal, but not the same objects: as they arrive from the supervisor.
    update(
        contexts,
        Identity(payments.name, payments.uri, bytes(bytearray(payments.certificate)), payments.key),
        billing,
    )
    assert (chosen(PAYMENTS_NAME), chosen(BILLING_NAME)) == before
    update(contexts, good(PAYMENTS), billing)
    assert chosen(PAYMENTS_NAME) is not before[0]
    assert chosen(BILLING_NAME) is before[1]
    update(contexts, billing)
    assert handshake_failure_reason(call(contexts, PAYMENTS_NAME).server_error) == "wrong-server-name"
    assert contexts.context is front


def test_connections_that_are_open_survive_the_change_of_their_certificate():
    contexts = served(good(PAYMENTS))
    handshake = call(contexts, PAYMENTS_NAME)
    update(contexts, good(PAYMENTS))
    assert handshake.exchange(b"still here") == b"still here"


def test_an_update_that_fails_changes_nothing():
    contexts = served(good(PAYMENTS))
    broken = Identity("billing", BILLING, b"not a certificate", b"")
    with pytest.raises(ssl.SSLError):
        update(contexts, good(PAYMENTS), broken)
    assert call(contexts, PAYMENTS_NAME).complete


def test_client_contexts_are_kept_until_their_identity_changes():
    contexts = ClientContexts()
    cart, billing = good(CART), good(BILLING)
    contexts.update({"cart": cart, "billing": billing}, authority().pem)
    kept = contexts.get("cart", HTTP)
    assert contexts.get("cart", HTTP) is kept
    assert contexts.get("cart", ("h2",)) is not kept
    contexts.update({"cart": cart, "billing": good(BILLING)}, authority().pem)
    assert contexts.get("cart", HTTP) is kept
    contexts.update({"cart": good(CART)}, authority().pem)
    renewed = contexts.get("cart", HTTP)
    assert renewed is not kept
    contexts.update({"cart": cart}, authority().pem + authority(1).pem)
    assert contexts.get("cart", HTTP) is not renewed
    with pytest.raises(KeyError):
        contexts.get("billing", HTTP)


def test_no_descriptor_stays_open():
    identity = good(PAYMENTS)
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        server_context(identity, authority().pem, HTTP)
        with pytest.raises(ssl.SSLError):
            server_context(Identity("x", "", b"bad", b""), authority().pem, HTTP)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_an_encrypted_key_fails_without_asking_the_terminal():
    identity = good(PAYMENTS)
    key = serialization.load_pem_private_key(identity.key, None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    with pytest.raises(ssl.SSLError):
        server_context(Identity("payments", PAYMENTS, identity.certificate, encrypted), authority().pem, HTTP)


def test_the_client_is_given_nothing_to_resume():
    handshake = call(served(good(PAYMENTS)), PAYMENTS_NAME)
    handshake.server.write(b"pong")
    assert handshake.client.read(4) == b"pong"  # a ticket would have come before this
    assert not handshake.client.session.has_ticket
    assert handshake.server.context.session_stats()["number"] == 0


def test_a_ticket_that_was_given_before_is_not_taken():
    server = server_context(good(PAYMENTS), authority().pem, HTTP)
    client = client_context(good(CART), authority().pem, HTTP)
    ours = server.options
    server.options &= ~ssl.OP_NO_TICKET
    client.options &= ~ssl.OP_NO_TICKET
    server.num_tickets = 1

    def session_after_reading() -> ssl.SSLSession:
        handshake = Handshake(server, client, PAYMENTS_NAME)
        handshake.server.write(b"pong")
        assert handshake.client.read(4) == b"pong"
        return handshake.client.session

    session = session_after_reading()
    assert session.has_ticket
    assert Handshake(
        server, client, PAYMENTS_NAME, session
    ).server.session_reused  # so it would be good for that
    session = session_after_reading()
    # The same context, so with the very keys that can open the ticket.
    server.options = ours
    server.num_tickets = 0
    handshake = Handshake(server, client, PAYMENTS_NAME, session)
    assert handshake.complete
    assert not handshake.server.session_reused
    assert not handshake.client.session_reused


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_openssl_connects_and_gets_no_session(tmp_path):
    """Another program's client, over a real socket, which would take a ticket."""
    contexts = served(good(PAYMENTS))
    cart = good(CART)
    for name, content in (
        ("cart.pem", cart.certificate),
        ("cart.key", cart.key),
        ("ca.pem", authority().pem),
    ):
        (tmp_path / name).write_bytes(content)

    def serve(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        sock.settimeout(10)
        with contexts.context.wrap_socket(sock, server_side=True) as tls:
            tls.recv(1)
            tls.sendall(b"hello from payments\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        done = subprocess.run(
            [
                *("openssl", "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}", "-tls1_3"),
                *("-servername", PAYMENTS_NAME, "-alpn", "http/1.1", "-CAfile", "ca.pem", "-ign_eof"),
                *(
                    "-cert",
                    "cart.pem",
                    "-key",
                    "cart.key",
                    "-verify_return_error",
                    "-sess_out",
                    "session.pem",
                ),
            ],
            cwd=tmp_path,
            input=b"x",
            capture_output=True,
            timeout=10,
            check=False,
        )
        server.join(10)
    output = done.stdout.decode()
    assert "hello from payments" in output
    assert "Verify return code: 0 (ok)" in output
    assert "ALPN protocol: http/1.1" in output
    assert "New, TLSv1.3" in output
    assert "New Session Ticket arrived" not in output
    assert not (tmp_path / "session.pem").exists()
