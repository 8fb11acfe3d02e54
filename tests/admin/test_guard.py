"""Who may ask."""

from __future__ import annotations

import pytest

from hostproxy.admin.guard import judge


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LocalHost:15000",
        b"127.0.0.1",
        b"127.0.0.1:15000",
        b"127.0.0.1:9",  # an SSH tunnel
        b"[::1]",
        b"[::1]:15000",
        b"127.0.1.2:15000",  # the address that is listened on
    ],
)
def test_names_of_this_host(host):
    assert judge(b"GET", [host], [], "127.0.1.2") is None


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"evil.example",
        b"evil.example:15000",
        b"localhost.evil.example",
        b"localhost.",
        b"127.0.0.1.evil.example",
        b"127.0.0.2",
        b"10.0.0.11:15000",
        b"0.0.0.0",
        b"[::]",
        b"::1",
        b"[::1",
        b"localhost:123456",
        b"localhost:",
        b"user@localhost",
        b"localhost, localhost",
        b"localhost\xe9",
    ],
)
def test_names_of_others(host):
    refusal = judge(b"GET", [host], [], "127.0.1.2")
    assert refusal is not None
    assert refusal.status == 403


def test_a_unix_socket_has_no_name_of_its_own():
    assert judge(b"GET", [b"localhost"], [], "") is None
    assert judge(b"GET", [b""], [], "").status == 403


@pytest.mark.parametrize("hosts", [[], [b"localhost", b"localhost"], [b"localhost", b"evil.example"]])
def test_one_host_field(hosts):
    assert judge(b"GET", hosts, [], "127.0.0.1").status == 400


@pytest.mark.parametrize("origin", [b"http://evil.example", b"null", b"http://127.0.0.1:15000", b""])
def test_web_pages_are_refused(origin):
    assert judge(b"GET", [b"localhost"], [origin], "127.0.0.1").status == 403


@pytest.mark.parametrize(
    "method", [b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"get", b"BREW"]
)
def test_nothing_can_be_changed(method):
    assert judge(method, [b"localhost"], [], "127.0.0.1").status == 405


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_reading_is_allowed(method):
    assert judge(method, [b"localhost"], [], "127.0.0.1") is None


def test_a_stranger_does_not_learn_which_methods_there_are():
    assert judge(b"POST", [b"evil.example"], [], "127.0.0.1").status == 403
