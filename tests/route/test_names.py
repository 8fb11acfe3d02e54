from __future__ import annotations

import pytest

from hostproxy.route.names import REMEMBERED, Names


@pytest.mark.parametrize(
    ("host", "service"),
    [
        (b"payments", "payments"),
        (b"payments.mesh", "payments"),
        (b"payments.svc.local", "payments"),
        (b"payments.other", None),
        (b"mesh", None),
        (b".mesh", None),
        (b"", None),
        (b"xpayments", None),
        (b"payments.mesh.mesh", None),
        (b"127.0.0.1", None),
        (b"pay\xffments", None),
    ],
)
def test_names_of_services(host: bytes, service: str | None) -> None:
    names = Names(["mesh", ".svc.local."], {"payments", "cart"})
    assert names.service(host) == service
    assert names.service(host) == service  # the second time from memory


def test_a_service_s_own_name_goes_before_a_domain() -> None:
    assert Names(["mesh"], {"a", "a.mesh"}).service(b"a.mesh") == "a.mesh"


@pytest.mark.parametrize(
    ("host", "key"),
    [
        (b"v2.payments", "v2.payments"),
        (b"v2.payments.mesh", "v2.payments"),
        (b"v3.payments", None),
        (b"v2.payments.other", None),
        (b"payments", "payments"),
    ],
)
def test_names_of_subsets(host: bytes, key: str | None) -> None:
    assert Names(["mesh"], {"payments", "v2.payments"}).service(host) == key


@pytest.mark.parametrize(
    ("host", "service"),
    [
        (b"payments", "payments"),
        (b"payments.mesh", "payments"),
        (b"payments.svc.local", "payments"),
        (b"v2.payments", None),
        (b"v2.payments.mesh", "payments"),
        (b"payments.other", None),
        (b"127.0.0.1", None),
        (b"[::1]", None),
        (b"pay_ments", None),
        (b"-payments", None),
        (b"pay\xffments", None),
        (b"a" * 64, None),
        (b"host", None),
        (b"", None),
        (b".mesh", None),
    ],
)
def test_what_could_name_a_service(host: bytes, service: str | None) -> None:
    assert Names(["mesh", "svc.local"], ()).candidate(host) == service


def test_services_that_come_are_found_and_those_that_go_are_forgotten() -> None:
    services = {"payments"}
    names = Names(["mesh"], services)
    assert names.service(b"cart") is None
    assert names.service(b"payments.mesh") == "payments"
    services.add("cart")
    assert names.service(b"cart") == "cart"
    services.remove("payments")
    names.forget()
    assert names.service(b"payments.mesh") is None


def test_what_clients_make_up_is_not_remembered() -> None:
    names = Names(["mesh"], {"payments"})
    for number in range(REMEMBERED + 10):
        names.service(b"nobody-%d" % number)
    assert len(names._known) == 0


def test_what_is_remembered_is_bounded() -> None:
    services = {f"s{number}" for number in range(REMEMBERED + 10)}
    names = Names([], services)
    for service in sorted(services):
        assert names.service(service.encode()) == service
    assert len(names._known) <= REMEMBERED
