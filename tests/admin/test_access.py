"""Who may do more than look."""

from __future__ import annotations

import os
import socket

import pytest

from hostproxy.admin.access import Access
from hostproxy.admin.guard import judge
from hostproxy.identity.sockets import Owner, Unknown


class Diag:
    def __init__(self, answer):
        self.answer = answer
        self.closed = False

    def owner(self, sock):
        if isinstance(self.answer, Exception):
            raise self.answer
        return Owner(self.answer, 1)

    def close(self):
        self.closed = True


@pytest.fixture
def accepted():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        sock, _ = server.accept()
        with sock:
            yield sock


@pytest.mark.parametrize(("uid", "may"), [(0, True), (1000, True), (1001, False), (65534, False)])
def test_root_and_the_daemon_s_own_user_may(accepted, uid, may):
    objection = Access(Diag(uid), own=1000).objection(accepted)
    assert (objection == "") is may
    if not may:
        assert f"user {uid} may not: try as root" in objection


@pytest.mark.parametrize("error", [Unknown("gone", "the client has gone already"), OSError("no")])
def test_who_is_not_known_may_not(accepted, error):
    assert "it can't be known who asks" in Access(Diag(error), own=1000).objection(accepted)


def test_the_kernel_knows_us(accepted):
    access = Access()
    assert access.objection(accepted) == ""
    access.close()
    other = Access(own=os.geteuid() + 1)
    assert (other.objection(accepted) == "") is (os.geteuid() == 0)
    other.close()


def test_a_unix_socket_has_let_in_who_may():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert Access(Diag(1001), own=1000).objection(ours) == ""


def test_where_something_can_be_changed_web_pages_still_may_not():
    methods = (b"GET", b"HEAD", b"POST")
    assert judge(b"POST", [b"localhost"], [], "127.0.0.1", methods) is None
    assert judge(b"POST", [b"localhost"], [b"http://evil.example"], "127.0.0.1", methods).status == 403
    assert judge(b"POST", [b"evil.example"], [], "127.0.0.1", methods).status == 403
    assert judge(b"PUT", [b"localhost"], [], "127.0.0.1", methods).status == 405
