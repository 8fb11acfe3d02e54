"""Changes while traffic flows: conf.toml, catalog, policy and certificates; no request fails through any of them."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import certificates as fake
from tests.fakes.cases import get
from tests.fakes.client import connect, converse
from tests.fakes.origin import Answer, Origin, reply
from tests.integration.host import TRUST_DOMAIN, certificates, eventually, fetch, free_port, replace
from tests.integration.load import Load
from tests.integration.mesh import CALLER, OTHER, SERVICE, Pair, single


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("pair"))
    try:
        yield pair.start()
    finally:
        pair.stop()


@pytest.fixture
def pair(running: Pair) -> Iterator[Pair]:
    yield running
    running.reset()
    eventually(lambda: answers(running) == {b"0"}, message="the pair does not find back")


def answers(pair: Pair, count: int = 10) -> set[bytes]:
    """Which instances answer."""
    outcomes = [fetch(pair.address) for _ in range(count)]
    return {bytes(o.responses[0].body) if o.statuses == [200] else b"%a" % o.statuses for o in outcomes}


def test_catalog_gains_and_loses_an_instance(pair: Pair) -> None:
    with Load(pair.address) as load:
        pair.alpha.catalog = [pair.meshed, pair.plain]
        pair.alpha.write_catalog()
        eventually(lambda: answers(pair) == {b"0", b"1"}, 2, "the new instance gets nothing")
        pair.alpha.catalog = [pair.plain]
        pair.alpha.write_catalog()
        eventually(lambda: answers(pair) == {b"1"}, 2, "the old instance still gets requests")
        load.more(50)
    assert load.failures == []


def test_a_request_under_way_outlives_its_instance(pair: Pair) -> None:
    """fi-c15: taken out of the catalog with a response half sent."""
    first = pair.origins[0]
    usual = first.respond
    first.respond = lambda request, connection: Answer(reply(b"late"), wait=1.0)
    try:
        with connect(pair.address) as sock:
            sock.sendall(get())
            first.forget()
            pair.alpha.catalog = [pair.plain]
            pair.alpha.write_catalog()
            eventually(lambda: answers(pair, 2) == {b"1"}, 2)
            outcome = converse(sock, b"")
        assert outcome.statuses == [200]
        assert outcome.responses[0].body == b"late"
    finally:
        first.respond = usual


def test_bad_catalog_keeps_the_last_good_one(pair: Pair) -> None:
    with Load(pair.address) as load:
        for text in ("[[instance]]\nservice = 1\n", "this is no TOML [", "[[instance]]\nservise = 'web'\n"):
            replace(pair.alpha.directory / "catalog.toml", text)
            eventually(lambda: b"catalog.toml" in pair.alpha.ask("/status")[1] + pair.alpha.output().encode(), 3)
            load.more(30)
        assert pair.alpha.ask("/ready")[0] == 200
    assert load.failures == []


def test_policy_denies_and_allows_again(pair: Pair) -> None:
    rule = {"from": [CALLER], "methods": ["GET"], "paths": ["/load-*", "/"]}
    with Load(pair.address) as load:
        pair.beta.policy = {"defaults": {"access": "deny"}, "service": {SERVICE: {"allow": [rule]}}}
        pair.beta.write_policy()
        eventually(lambda: fetch(pair.address, "/other").statuses == [403], 3, "policy is not in force")
        denied = fetch(pair.address, "/other")
        assert b"policy.toml" in denied.responses[0].body  # names what refused it
        assert fetch(pair.address, "/", method="POST").statuses == [403]
        assert answers(pair) == {b"0"}
        load.more(50)
        pair.beta.policy = {"defaults": {"access": "allow"}, "service": {}}
        pair.beta.write_policy()
        eventually(lambda: fetch(pair.address, "/other").statuses == [200], 3)
        load.more(50)
    assert load.failures == []


def test_refused_requests_leave_the_connection_in_order(pair: Pair) -> None:
    """A refusal with a body still to come must not read that body as the next request."""
    rule = {"from": [CALLER], "methods": ["GET"], "paths": ["/*"]}
    pair.beta.policy = {"service": {SERVICE: {"allow": [rule]}}}
    pair.beta.write_policy()
    body = get(b"/smuggled")
    request = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    eventually(lambda: fetch(pair.address, "/", method="POST").statuses == [403], 3)
    pair.origins[0].forget()
    for _ in range(10):
        with connect(pair.address) as sock:
            outcome = converse(sock, request + body)
            assert outcome.statuses[0] == 403
    assert answers(pair) == {b"0"}
    assert b"/smuggled" not in [r.target for r in pair.origins[0].requests]


def test_path_rules_cannot_be_walked_around(pair: Pair) -> None:
    rule = {"from": [CALLER], "paths": ["/public/*", "/load-*"]}
    pair.beta.policy = {"service": {SERVICE: {"allow": [rule]}}}
    pair.beta.write_policy()
    eventually(lambda: fetch(pair.address, "/secret").statuses == [403], 3)
    assert fetch(pair.address, "/public/x").statuses == [200]
    pair.origins[0].forget()
    for path in (
        "/public/../secret",
        "/public/%2e%2e/secret",
        "/public/.%2E/secret",
        "/public/%2E./secret",
        "/public/./../secret",
        "/public/..%2fsecret",
        "/public%2f..%2fsecret",
        "/public/..\\secret",
        "/public/%5c..%5csecret",
        "/public/..;/secret",
        "//public/../secret",
        "/PUBLIC/x",
        "/public",
        "/%70ublic/../secret",
    ):
        outcome = fetch(pair.address, path)
        assert outcome.statuses in ([400], [403]), (path, outcome)
    assert pair.origins[0].requests == []


def test_callers_of_one_host_are_never_mixed_up(pair: Pair) -> None:
    """Connections to the peer belong to a caller: each request arrives under the identity that it was sent with."""
    usual = pair.origins[0].respond
    pair.origins[0].respond = lambda request, connection: Answer(
        reply(request.value(b"x-forwarded-client-cert") or b"nobody")
    )
    wrong: list[str] = []

    def client(address: str, caller: str) -> None:
        for _ in range(40):
            outcome = fetch(address)
            if outcome.statuses != [200] or f"/service/{caller}".encode() not in outcome.responses[0].body:
                wrong.append(f"{caller}: {outcome}")

    callers = [(pair.address, CALLER), (pair.other_address, OTHER)] * 2
    try:
        threads = [threading.Thread(target=client, args=each) for each in callers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        pair.origins[0].respond = usual
    assert wrong == []


def test_a_rule_for_one_caller_is_for_no_other(pair: Pair) -> None:
    pair.beta.policy = {"service": {SERVICE: {"allow": [{"from": [CALLER]}]}}}
    pair.beta.write_policy()
    eventually(lambda: fetch(pair.other_address).statuses == [403], 3, "policy is not in force")
    for _ in range(10):
        assert fetch(pair.address).statuses == [200]
        denied = fetch(pair.other_address)
        assert denied.statuses == [403]
        assert OTHER.encode() in denied.responses[0].body


def test_bad_policy_keeps_the_last_good_one(pair: Pair) -> None:
    with Load(pair.address) as load:
        replace(pair.beta.directory / "policy.toml", "[service.web]\nacess = 'deny'\n")
        eventually(lambda: "policy.toml:2" in pair.beta.output(), 3, "nobody says what is wrong with the policy")
        load.more(30)
        assert pair.beta.ask("/ready")[0] == 200
    assert load.failures == []


def serial(pair: Pair) -> int:
    """Serial number of the certificate that beta presents now."""
    context = fake.client_context(
        pair.pki["alpha"] / f"{CALLER}.pem", pair.pki["alpha"] / f"{CALLER}.key", ["http/1.1"]
    )
    name = f"{SERVICE}.dc1.{TRUST_DOMAIN}"
    with connect(pair.beta.mesh) as sock, context.wrap_socket(sock, server_hostname=name) as tls:
        from cryptography import x509

        der = tls.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


def test_certificates_are_renewed(pair: Pair) -> None:
    with Load(pair.address) as load:
        for _ in range(2):
            before = serial(pair)
            certificates(pair.pki["beta"], "beta", SERVICE, authority=pair.pki["alpha"])
            certificates(pair.pki["alpha"], "alpha", CALLER, OTHER)
            eventually(lambda before=before: serial(pair) != before, 3, "the old certificate is still presented")
            load.more(50)
    assert load.failures == []


def test_a_key_that_does_not_match_changes_nothing(pair: Pair) -> None:
    before = serial(pair)
    path = pair.pki["beta"] / f"{SERVICE}.key"
    good = path.read_text()
    try:
        with Load(pair.address) as load:
            other = pair.pki["beta"] / "host.key"
            path.write_text(other.read_text())
            eventually(lambda: f"{SERVICE}.key" in pair.beta.output(), 5, "nobody says that the key does not match")
            assert serial(pair) == before
            load.more(30)
        assert load.failures == []
    finally:
        path.write_text(good)


def test_reload_with_nothing_new(pair: Pair) -> None:
    """fi-p03."""
    before = pair.alpha.workers(), pair.beta.workers()
    with Load(pair.address) as load:
        for _ in range(10):
            pair.alpha.reload()
            pair.beta.reload()
            load.more(20)
        connections = load.connections
    assert load.failures == []
    assert connections == load.clients, "connections were closed"
    assert (pair.alpha.workers(), pair.beta.workers()) == before


def test_reload_adds_and_removes_a_listener(pair: Pair) -> None:
    listen = f"{pair.alpha.address}:{free_port(pair.alpha.address)}"
    with Load(pair.address) as load:
        pair.alpha.add_upstream(SERVICE, listen)
        pair.alpha.write_conf()
        pair.alpha.reload()
        eventually(lambda: answers_at(listen), 3, "the new listener does not answer")
        kept = connect(listen)
        assert converse(kept, get()).statuses == [200]
        pair.alpha.conf["outbound"]["upstream"].pop()
        pair.alpha.write_conf()
        pair.alpha.reload()
        eventually(lambda: not answers_at(listen), 3, "the old listener still answers")
        load.more(20)
        kept.close()
    assert load.failures == []


def answers_at(address: str) -> bool:
    try:
        return fetch(address, timeout=1).statuses == [200]
    except OSError:
        return False


def test_bad_conf_is_refused_whole(pair: Pair) -> None:
    path = pair.alpha.directory / "conf.toml"
    good = path.read_text()
    listen = f"{pair.alpha.address}:{free_port(pair.alpha.address)}"
    more = f'\n[[outbound.upstream]]\nservice = "web"\nlisten = "{listen}"\n'
    try:
        with Load(pair.address) as load:
            for text in (
                "no toml [",
                good + more + "\n[mash]\nx = 1\n",
                good.replace("[host]", "[host]\nnmae = 'x'") + more,
            ):
                size = len(pair.alpha.output())
                replace(path, text)
                pair.alpha.reload()
                eventually(
                    lambda size=size: len(pair.alpha.output()) > size,
                    3,
                    "a refused conf.toml is not mentioned",
                )
                load.more(20)
                assert not answers_at(listen), "half of it was taken"
            assert pair.alpha.ask("/ready")[0] == 200
            assert pair.alpha.metric("config_last_reload_successful") == 0
        assert load.failures == []
    finally:
        replace(path, good)
        pair.alpha.reload()
        eventually(lambda: pair.alpha.metric("config_last_reload_successful") == 1, 3)


def test_port_taken_at_reload_refuses_it_whole(pair: Pair) -> None:
    """fi-d12."""
    with socket.socket() as taken:
        taken.bind((pair.alpha.address, 0))
        taken.listen()
        size = len(pair.alpha.output())
        with Load(pair.address) as load:
            extra = pair.alpha.add_upstream(SERVICE)
            pair.alpha.add_upstream(SERVICE, f"{pair.alpha.address}:{taken.getsockname()[1]}")
            pair.alpha.write_conf()
            pair.alpha.reload()
            eventually(lambda: len(pair.alpha.output()) > size, 3, "the refusal is not mentioned")
            load.more(30)
            assert not answers_at(extra), "half of it was taken"
        assert load.failures == []
    del pair.alpha.conf["outbound"]["upstream"][-2:]
    pair.alpha.write_conf()
    pair.alpha.reload()


def test_tls_still_verifies_after_all_that(pair: Pair) -> None:
    with pytest.raises(OSError):
        context = fake.client_context(None, None, ["http/1.1"])
        with (
            connect(pair.beta.mesh) as sock,
            context.wrap_socket(sock, server_hostname=f"{SERVICE}.dc1.{TRUST_DOMAIN}") as tls,
        ):
            tls.sendall(get())
            if tls.recv(100) == b"":
                raise ssl.SSLError("closed")


def test_single_host_catalog_from_nothing(running: Pair, tmp_path: Path) -> None:
    """A service that nobody offers yet: a clear 503, and service as soon as somebody does."""
    with Origin() as origin:
        host, address = single(tmp_path, running.pki["alpha"], [])
        with host.start().wait_ready():
            outcome = fetch(address)
            assert outcome.statuses == [503]
            assert SERVICE.encode() in outcome.responses[0].body
            host.catalog = [{"service": SERVICE, "host": "legacy", "address": origin.address}]
            host.write_catalog()
            eventually(lambda: answers_at(address), 2)
