from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.ssl import Certificate, CertificateOptions, trustRootFromCertificates

from hostproxy.discovery.consul.transport import Agent, AgentError, Reply
from hostproxy.mesh.clocks import Comparison
from tests.discovery.consul.conftest import Authority, Served, World, http

MIB = 1024 * 1024
NEVER: Callable[[Served], object] = lambda served: None  # noqa: E731


def ask(
    agent: Agent, method: str = "GET", path: str = "/v1/x", timeout: float = 30.0, **options: Any
) -> Deferred[Reply]:
    return agent.request(method, path, timeout=timeout, what=options.pop("what", "x"), **options)


def fails(world: World, asked: Deferred[Reply]) -> AgentError:
    with pytest.raises(AgentError) as caught:
        world.get(asked)
    return caught.value


# What an answer says


def test_an_answer_has_what_its_headers_say(world: World) -> None:
    stub = world.stub(
        http(
            b'{"a": 1}',
            X_Consul_Index="42",
            X_Consul_Knownleader="false",
            X_Consul_Lastcontact="1500",
            X_Consul_Results_Filtered_By_Acls="true",
            Retry_After="30",
        )
    )
    assert world.get(ask(world.agent(stub))) == Reply(
        status=200,
        body=b'{"a": 1}',
        index=42,
        known_leader=False,
        last_contact=1.5,
        filtered=True,
        retry_after=30.0,
    )


def test_an_answer_tells_the_time(world: World) -> None:
    stub = world.stub(http(Date="Thu, 01 Jan 1970 00:16:40 GMT"), http(), http(Date="today"))
    clock = Comparison(lambda: 4601.0, world.reactor.seconds)
    agent = world.agent(stub, clock=clock)
    world.get(ask(agent))
    assert clock.skew is not None
    assert round(clock.skew.ahead) == 3600
    for _ in range(2):
        world.get(ask(agent))
        assert round(clock.skew.ahead) == 3600, "what says nothing changes nothing"


def test_an_answer_without_those_headers(world: World) -> None:
    assert world.get(ask(world.agent(world.stub(http(b"x"))))) == Reply(status=200, body=b"x")


@pytest.mark.parametrize("text", ["", "x", "-1", "+5", "0_5", "1.0", "1 2", "1" * 21, "1" * 5000, "\u0663"])
def test_an_index_that_is_no_number_is_none(world: World, text: str) -> None:
    stub = world.stub(http(X_Consul_Index=text, X_Consul_LastContact=text))
    answer = world.get(ask(world.agent(stub)))
    assert (answer.index, answer.last_contact) == (None, 0.0)


def test_an_index_of_zero_is_zero(world: World) -> None:
    assert world.get(ask(world.agent(world.stub(http(X_Consul_Index="0"))))).index == 0


@pytest.mark.parametrize("status", ["204 No Content", "301 Moved", "403 Forbidden", "404 Not Found", "500 Oh"])
def test_every_status_is_an_answer_and_no_redirect_is_followed(world: World, status: str) -> None:
    stub = world.stub(http(b"" if status[:3] == "204" else b"why", status, Location="/v1/elsewhere"))
    agent = world.agent(stub)
    assert world.get(ask(agent)).status == int(status[:3])
    assert len(stub.requests) == 1
    assert agent.counters.requests == {("x", status[:3]): 1}


def test_the_text_of_an_error_may_end_with_the_connection(world: World) -> None:
    # What Go says to HTTP on a port for HTTPS.
    words = b"Client sent an HTTP request to an HTTPS server.\n"
    stub = world.stub(lambda served: served.say(b"HTTP/1.0 400 Bad Request\r\n\r\n" + words, end=True))
    assert world.get(ask(world.agent(stub))) == Reply(status=400, body=words)


def test_compressed_answers_are_neither_asked_for_nor_decoded(world: World) -> None:
    stub = world.stub(http(b"\x1f\x8b bomb", Content_Encoding="gzip"))
    assert world.get(ask(world.agent(stub))).body == b"\x1f\x8b bomb"
    assert b"accept-encoding" not in stub.requests[0].lower()


# What is sent


def test_what_is_sent(world: World) -> None:
    stub = world.stub(http())
    agent = world.agent(stub, lambda: "secret", namespace="team")
    world.get(ask(agent, "PUT", "/v1/kv/a b\r\nX: y?#%\u00e9", params=[("q", "a b&c"), ("q", "d")], body=b"value"))
    head, _, body = stub.requests[0].partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    assert line == b"PUT /v1/kv/a%20b%0D%0AX%3A%20y%3F%23%25%C3%A9?q=a+b%26c&q=d&ns=team HTTP/1.1".replace(b"%3A", b":")
    assert body == b"value"
    host = stub.address.removeprefix("http://").encode()
    assert {b"host: " + host, b"x-consul-token: secret", b"content-length: 5"} <= {each.lower() for each in headers}


def test_a_namespace_named_in_the_request_stays(world: World) -> None:
    stub = world.stub(http())
    world.get(ask(world.agent(stub, namespace="team"), params={"ns": "other"}))
    assert stub.requests[0].startswith(b"GET /v1/x?ns=other HTTP/1.1\r\n")


def test_the_token_is_asked_for_each_time(world: World) -> None:
    stub, tokens = world.stub(http()), iter(["one", "two", ""])
    agent = world.agent(stub, lambda: next(tokens))
    for _ in range(3):
        world.get(ask(agent))
    assert [b"X-Consul-Token: one" in stub.requests[0], b"X-Consul-Token: two" in stub.requests[1]] == [True, True]
    assert b"X-Consul-Token" not in stub.requests[2]


def test_another_token_is_told_before_it_is_sent(world: World) -> None:
    stub, tokens = world.stub(http()), iter(["one", "one", "two", "two", ""])
    agent = world.agent(stub, lambda: next(tokens))
    told: list[int] = []
    agent.token_changed = lambda: told.append(len(stub.requests))
    for _ in range(5):
        world.get(ask(agent))
    assert told == [2, 4]


def test_without_its_token_nothing_is_sent(world: World) -> None:
    def token() -> str:
        raise AgentError("token", "no token")

    stub = world.stub(http())
    agent = world.agent(stub, token)
    assert fails(world, ask(agent)).kind == "token"
    assert not stub.connections
    assert agent.counters.requests == {("x", "token"): 1}


def test_over_a_unix_socket(world: World, tmp_path: Path) -> None:
    stub = world.stub(http(b"here"), unix=str(tmp_path / "socket"))
    assert world.get(ask(world.agent(stub))).body == b"here"


# No answer


def test_nobody_listens(world: World, tmp_path: Path) -> None:
    stub = world.stub(http())
    world.ports.pop().stopListening()
    error = fails(world, ask(world.agent(stub)))
    assert error.kind == "refused"
    assert stub.address in str(error)
    assert "connection refused" in str(error)
    error = fails(world, ask(world.agent(f"unix:{tmp_path}/none")))
    assert (error.kind, "no such file" in str(error)) == ("refused", True)


def test_a_name_that_nobody_knows(world: World) -> None:
    class Nobody:
        def resolveHostName(self, receiver: Any, *_: Any, **__: Any) -> Any:
            receiver.resolutionBegan(None)
            receiver.resolutionComplete()
            return receiver

    world.reactor._nameResolver = Nobody()
    error = fails(world, ask(world.agent("http://consul.example:8500")))
    assert (error.kind, "consul.example" in str(error)) == ("refused", True)


def drip(served: Served) -> None:
    served.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")


@pytest.mark.parametrize("answer", [NEVER, drip, b"HTTP/1.1 200 OK\r\nX-A: b", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_an_answer_that_does_not_come_in_time(world: World, answer: Any) -> None:
    stub = world.stub(answer)
    agent = world.agent(stub)
    asked = ask(agent, timeout=20.0)
    world.until(lambda: stub.requests)
    for _ in range(9):  # a byte now and then changes nothing
        world.skip(2.0)
        world.loop.run_for(0.01)
        if answer is not NEVER:
            stub.connections[0].say(b"x")
        assert not asked.called
    world.skip(2.0)
    error = fails(world, asked)
    assert (error.kind, "20 s" in str(error)) == ("timeout", True)
    world.until(lambda: not stub.open and not agent.connections)


def test_nobody_takes_the_connection(world: World) -> None:
    # 192.0.2.0/24 is for documentation: nobody answers, or the network refuses.
    error = None
    agent = world.agent("http://192.0.2.1:8500")
    asked = ask(agent, timeout=300.0)
    world.loop.run_for(0.05)
    world.skip(3.1)
    error = fails(world, asked)
    assert error.kind in ("timeout", "refused")


def cut(data: bytes) -> Callable[[Served], object]:
    return lambda served: served.say(data, end=True)


@pytest.mark.parametrize(
    "answer",
    [
        cut(b""),
        cut(b"HTTP/1.1 200 OK\r\nContent-Le"),
        cut(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[1,2,"),
        cut(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[1,2,\r\n"),
        cut(b"HTTP/1.1 200 OK\r\n\r\n[1,2,3]"),  # nothing says that this is all
        lambda served: served.transport.abortConnection(),
    ],
)
def test_an_answer_that_is_cut_short(world: World, answer: Any) -> None:
    stub = world.stub(answer)
    agent = world.agent(stub)
    assert fails(world, ask(agent)).kind == "reset"
    assert len(stub.requests) == 1  # over a new connection nothing is asked twice
    assert agent.counters.requests == {("x", "reset"): 1}


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46" + b"\n" * 3,
        b"HTTP/1.1 abc OK\r\n\r\n",
        cut(b"HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\n"),
        cut(b"HTTP/1.1 999 OK\r\nContent-Length: 5\r\n\r\nhello"),
        b"HTTP/1.1 -200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: zip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\nX: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        lambda served: served.pour(b"X: y\r\n" * 1000),
        lambda served: (served.say(b"HTTP/1.1 200 OK\r\n"), served.pour(b"X: y\r\n" * 1000)),
        lambda served: served.pour(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    ],
)
def test_an_answer_that_is_not_http(world: World, answer: Any) -> None:
    stub = world.stub(answer)
    agent = world.agent(stub)
    error = fails(world, ask(agent))
    assert error.kind == "protocol"
    assert stub.address in str(error)
    assert len(str(error)) < 400
    world.until(lambda: not stub.open and not agent.connections)


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 104857600", b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked", b"X: y"],
)
def test_a_body_of_more_than_16_mib(world: World, head: bytes) -> None:
    def answer(served: Served) -> None:
        served.say(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
        served.pour(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    stub = world.stub(answer)
    agent = world.agent(stub)
    assert fails(world, ask(agent)).kind == "too_large"
    world.until(lambda: not stub.open and not agent.connections)
    assert stub.connections[0].poured < 24 * MIB  # what is in the kernel's buffers counts


def test_a_body_of_16_mib(world: World) -> None:
    stub = world.stub(http(b"x" * 16 * MIB))
    assert len(world.get(ask(world.agent(stub))).body) == 16 * MIB


def test_a_body_in_chunks_that_are_mostly_framing(world: World) -> None:
    def answer(served: Served) -> None:
        served.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        served.pour((b"1;" + b"y" * 1000 + b"\r\nx\r\n") * 64)

    stub = world.stub(answer)
    assert fails(world, ask(world.agent(stub))).kind == "too_large"
    assert stub.connections[0].poured < 24 * MIB


def test_whatever_comes_there_is_an_answer_or_an_error(world: World) -> None:
    chance = random.Random(7)
    good = http(b'[{"Node": {"Node": "a"}}]', X_Consul_Index="5", X_Consul_KnownLeader="true") * 2

    def answer(served: Served) -> None:
        broken = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(len(broken))
            broken[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        served.say(bytes(broken[: chance.randrange(len(broken) + 1)]), end=chance.random() < 0.8)

    agent = world.agent(world.stub(answer))
    kinds = set()
    for _ in range(300):
        try:
            answered: Reply = world.get(ask(agent, timeout=0.05))
            kinds.add(str(answered.status // 100))
        except AgentError as error:
            kinds.add(error.kind)
    assert {"2", "reset", "timeout", "protocol"} <= kinds
    assert sum(agent.counters.requests.values()) == 300


# Connections


def test_a_connection_serves_one_round_after_the_other(world: World) -> None:
    stub = world.stub(http())
    agent = world.agent(stub)
    for _ in range(5):
        world.get(ask(agent, persistent=False))
    assert (len(stub.requests), len(stub.connections), agent.connections) == (5, 1, 1)


def test_an_unused_connection_is_closed_after_a_minute(world: World) -> None:
    stub = world.stub(http())
    world.get(ask(world.agent(stub)))
    world.skip(59.0)
    world.loop.run_for(0.02)
    assert stub.open == 1
    world.skip(2.0)
    world.until(lambda: not stub.open)


@pytest.mark.parametrize(("method", "kind"), [("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "reset")])
def test_a_connection_that_went_stale_costs_nothing(world: World, method: str, kind: str) -> None:
    stub = world.stub(http(b"1"), http(b"1"), cut(b""), cut(b""), http(b"2"))
    agent = world.agent(stub)
    both = [ask(agent), ask(agent)]  # two connections wait for the next request
    assert [world.get(each).body for each in both] == [b"1", b"1"]
    again = ask(agent, method, body=b"value" if method != "GET" else b"")
    if kind:
        assert fails(world, again).kind == kind
    else:
        assert world.get(again).body == b"2"
        assert len(stub.connections) == 3
        assert agent.counters.requests == {("x", "200"): 3}


def test_what_comes_unasked_ends_the_connection(world: World) -> None:
    stub = world.stub(http())
    agent = world.agent(stub)
    world.get(ask(agent))
    stub.connections[0].say(http(b"poison"))
    world.until(lambda: not stub.open)
    assert world.get(ask(agent)).body == b"[]"


def test_four_short_requests_at_a_time(world: World) -> None:
    stub = world.stub(NEVER)
    agent = world.agent(stub)
    short = [ask(agent) for _ in range(6)]
    blocking = [ask(agent, persistent=False) for _ in range(3)]
    world.until(lambda: len(stub.requests) == 7)
    world.loop.run_for(0.05)
    assert len(stub.requests) == 7
    stub.connections[0].say(http(b"first"))
    world.until(lambda: len(stub.requests) == 8)
    short[5].addErrback(lambda failure: failure.trap(CancelledError))
    short[5].cancel()  # still in line
    for served in stub.connections:
        served.say(http(b"rest"))
    assert {world.get(each).status for each in [*short[:5], *blocking]} == {200}
    world.loop.run_for(0.05)
    assert (len(stub.requests), len(stub.connections)) == (8, 7)  # nothing was sent for the cancelled one
    more = [ask(agent) for _ in range(5)]
    world.until(lambda: len(stub.requests) == 12)  # and it holds no place
    for each in more:
        each.addErrback(lambda _: None)


def test_waiting_for_others_counts(world: World) -> None:
    agent = world.agent(world.stub(NEVER))
    for _ in range(4):
        ask(agent, timeout=100.0).addErrback(lambda _: None)
    last = ask(agent, timeout=5.0)
    world.skip(5.0)
    assert fails(world, last).kind == "timeout"


@pytest.mark.parametrize("phase", ["connecting", "asking", "body"])
def test_cancelling_ends_the_connection(world: World, phase: str) -> None:
    stub = world.stub(drip if phase == "body" else NEVER)
    agent = world.agent(stub)
    asked = ask(agent, persistent=False)
    if phase != "connecting":
        world.until(lambda: stub.requests)
        world.loop.run_for(0.05)
    asked.cancel()
    with pytest.raises(CancelledError):
        world.get(asked)
    world.loop.run_for(0.05)
    assert (stub.open, agent.connections) == (0, 0)
    assert agent.counters.requests == {("x", "cancelled"): 1}


def test_closing_ends_everything(world: World) -> None:
    stub = world.stub(http(), NEVER, drip, NEVER)
    agent = world.agent(stub)
    world.get(ask(agent))
    asked = [ask(agent, persistent=False) for _ in range(3)]
    world.until(lambda: len(stub.requests) == 4)
    world.loop.run_for(0.05)
    asked.append(ask(agent))  # connecting
    world.get(agent.close())
    world.until(lambda: not stub.open)
    assert [fails(world, each).kind for each in asked] == ["closed"] * 4
    assert fails(world, ask(agent)).kind == "closed"
    assert agent.counters.requests == {("x", "200"): 1, ("x", "closed"): 5}
    world.get(agent.close())  # again


# TLS


def server_options(authority: Authority, **options: Any) -> CertificateOptions:
    return options_of(*authority.server(), **options)


def options_of(certificate: str, key: str, **options: Any) -> CertificateOptions:
    return CertificateOptions(
        privateKey=load_pem_private_key(Path(key).read_bytes(), None),
        certificate=x509.load_pem_x509_certificate(Path(certificate).read_bytes()),
        **options,
    )


def for_clients_of(authority: Authority) -> CertificateOptions:
    trust = trustRootFromCertificates([Certificate.loadPEM(authority.ca.read_bytes())])
    return server_options(authority, trustRoot=trust)


def test_https(world: World, authority: Authority) -> None:
    stub = world.stub(http(b"secret"), tls=server_options(authority))
    agent = world.agent(stub, ca=str(authority.ca))
    for _ in range(3):
        assert world.get(ask(agent)).body == b"secret"
    assert len(stub.connections) == 1


def test_https_to_a_host_name(world: World, authority: Authority) -> None:
    stub = world.stub(http(), tls=server_options(authority))
    address = stub.address.replace("127.0.0.1", "localhost")
    assert world.get(ask(world.agent(address, ca=str(authority.ca)))).status == 200


def test_https_with_a_certificate_of_ours(world: World, authority: Authority) -> None:
    stub = world.stub(http(), tls=for_clients_of(authority))
    certificate, key = authority.issue("client")
    agent = world.agent(stub, ca=str(authority.ca), certificate=certificate, key=key)
    assert world.get(ask(agent)).status == 200
    assert fails(world, ask(world.agent(stub, ca=str(authority.ca)))).kind == "tls"


def test_https_of_another_authority(world: World, authority: Authority, tmp_path: Path) -> None:
    stub = world.stub(http(), tls=server_options(authority))
    error = fails(world, ask(world.agent(stub, ca=str(Authority(tmp_path / "other").ca))))
    assert (error.kind, "certificate verify failed" in str(error)) == ("tls", True)
    assert not stub.requests
    assert fails(world, ask(world.agent(stub))).kind == "tls"  # nor is it one of the system's


@pytest.mark.parametrize("name", [x509.DNSName("other.example"), None])
def test_https_for_another_name(world: World, authority: Authority, name: x509.GeneralName | None) -> None:
    certificate, key = authority.issue("other", *([name] if name else []))
    stub = world.stub(http(), tls=options_of(certificate, key))
    assert fails(world, ask(world.agent(stub, ca=str(authority.ca)))).kind == "tls"
    assert not stub.requests


def test_https_where_plain_http_is_spoken_and_the_reverse(world: World, authority: Authority) -> None:
    plain = world.stub(http())
    agent = world.agent(plain.address.replace("http", "https"), ca=str(authority.ca))
    plain.dataReceived = None
    asked = ask(agent, timeout=60.0)
    world.until(lambda: plain.connections)
    plain.connections[0].say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert fails(world, asked).kind == "tls"
    secure = world.stub(http(), tls=server_options(authority))
    assert fails(world, ask(world.agent(secure.address.replace("https", "http")))).kind in ("protocol", "reset")


def test_a_handshake_that_hangs(world: World, authority: Authority) -> None:
    stub = world.stub(http())
    asked = ask(world.agent(stub.address.replace("http", "https"), ca=str(authority.ca)), timeout=300.0)
    world.until(lambda: stub.connections)
    world.skip(3.0)
    error = fails(world, asked)
    assert (error.kind, "within 3 s" in str(error)) == ("timeout", True)
    world.until(lambda: not stub.open)


def test_tls_older_than_1_2(world: World, authority: Authority) -> None:
    options = server_options(authority)
    context = options.getContext()
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.set_options(SSL.OP_NO_TLSv1_2 | SSL.OP_NO_TLSv1_3)
    stub = world.stub(http(), tls=options)
    assert fails(world, ask(world.agent(stub, ca=str(authority.ca)))).kind == "tls"


def test_new_files_are_used_for_new_connections(world: World, authority: Authority, tmp_path: Path) -> None:
    stub = world.stub(http(), tls=for_clients_of(authority))
    certificate, key = authority.issue("client")
    wrong = Authority(tmp_path / "other").issue("client")
    paths = [str(tmp_path / name) for name in ("ca.pem", "client.pem", "client.key")]
    for source, path in zip((str(authority.ca), *wrong), paths, strict=True):
        shutil.copy(source, path)
    agent = world.agent(stub, ca=paths[0], certificate=paths[1], key=paths[2])
    assert fails(world, ask(agent)).kind == "tls"
    for source, path in zip((certificate, key), paths[1:], strict=True):
        shutil.copy(source, path)
    assert world.get(ask(agent)).status == 200
    assert agent.problem == ""

    # Now they break one by one; the last good ones stay in use, also for new connections.
    for broken in paths:
        good = Path(broken).read_bytes()
        Path(broken).write_bytes(b"half of a fi")
        stub.connections[-1].transport.loseConnection()
        world.until(lambda: not agent.connections)
        assert world.get(ask(agent)).status == 200
        assert broken in agent.problem
        Path(broken).write_bytes(good)
    stub.connections[-1].transport.loseConnection()
    world.until(lambda: not agent.connections)
    world.get(ask(agent))
    assert agent.problem == ""


def test_files_that_cannot_be_used(world: World, authority: Authority, tmp_path: Path) -> None:
    stub = world.stub(http(), tls=server_options(authority))
    certificate, key = authority.issue("client")
    _, other = authority.issue("other")
    ca = str(authority.ca)
    missing = str(tmp_path / "missing")
    os.mkfifo(tmp_path / "fifo")
    for options in (
        {"ca": missing},
        {"ca": key},
        {"ca": str(tmp_path / "fifo")},
        {"ca": ca, "certificate": certificate, "key": other},
        {"ca": ca, "certificate": certificate, "key": certificate},
        {"ca": ca, "certificate": missing, "key": key},
    ):
        agent = world.agent(stub, **options)
        error = fails(world, ask(agent))
        assert error.kind == "tls"
        assert agent.problem
        assert agent.problem in str(error)


def test_a_key_that_everybody_may_read_is_named(world: World, authority: Authority) -> None:
    stub = world.stub(http(), tls=for_clients_of(authority))
    certificate, key = authority.issue("open")
    os.chmod(key, 0o644)
    agent = world.agent(stub, ca=str(authority.ca), certificate=certificate, key=key)
    assert world.get(ask(agent)).status == 200
    assert f"chmod o= {key}" in agent.problem
