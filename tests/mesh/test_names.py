from __future__ import annotations

from collections.abc import Callable

import pytest

from hostproxy.mesh import names
from hostproxy.mesh.units import Wrong

ODD = ["", "-a", "a-", "a_b", "a/b", "a b", "a\n", "a\x00", "é", "a..b", ".a", "a.", "..", "a" * 64, "٣"]


@pytest.mark.parametrize("text", ["a", "payments", "db-1", "1", "a" * 63])
@pytest.mark.parametrize(
    "check", [names.service, names.host, names.datacenter, names.trust_domain, names.domain]
)
def test_a_label_is_a_name_of_anything(check: Callable[[str], str], text: str) -> None:
    assert check(text) == text


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize(
    "check", [names.service, names.host, names.datacenter, names.trust_domain, names.domain]
)
def test_what_is_no_name_of_anything(check: Callable[[str], str], text: str) -> None:
    with pytest.raises(Wrong, match=r"^is not (a domain|the name of a )"):
        check(text)


@pytest.mark.parametrize("check", [names.host, names.trust_domain, names.domain])
def test_these_may_have_dots(check: Callable[[str], str]) -> None:
    assert check("db-1.corp.example") == "db-1.corp.example"


@pytest.mark.parametrize("check", [names.service, names.datacenter])
def test_these_have_no_dots(check: Callable[[str], str]) -> None:
    with pytest.raises(Wrong):
        check("a.b")


def test_upper_case_is_told_the_lower() -> None:
    with pytest.raises(Wrong, match='is not the name of a service; did you mean "payments"'):
        names.service("Payments")


def test_a_service_cannot_have_the_name_of_the_host_identity() -> None:
    with pytest.raises(Wrong, match="cannot be named 'host'"):
        names.service("host")


@pytest.mark.parametrize("text", ["2", "1:2.3~deb12", "v2.0+build_5", "rack-3", "eu/west", "a" * 128])
def test_words(text: str) -> None:
    assert names.word(text) == text


@pytest.mark.parametrize("text", ["", " ", "-a", "a b", "a\n", 'a"', "a{", "é", "a" * 129])
def test_what_is_no_word(text: str) -> None:
    with pytest.raises(Wrong, match="is not a word"):
        names.word(text)
