from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostproxy.mesh.spiffe import (
    MAX_TRUST_DOMAIN,
    InvalidName,
    ServerName,
    SpiffeId,
    check_host,
    check_service,
    check_trust_domain,
)

LONG_DOMAIN = ".".join(["a" * 62, "b" * 62])  # 125 bytes, the most that a trust domain may have


@pytest.mark.parametrize(
    ("uri", "kind", "trust_domain", "name"),
    [
        ("spiffe://mesh.local/service/payments", "service", "mesh.local", "payments"),
        ("spiffe://mesh/service/a", "service", "mesh", "a"),
        ("spiffe://mesh.local/host/db-1", "host", "mesh.local", "db-1"),
        ("spiffe://mesh.local/host/db-1.rack.example.com", "host", "mesh.local", "db-1.rack.example.com"),
        ("spiffe://1.2/service/0", "service", "1.2", "0"),
        (f"spiffe://{LONG_DOMAIN}/service/{'x' * 63}", "service", LONG_DOMAIN, "x" * 63),
    ],
)
def test_an_identity_is_read_and_written_back_the_same(uri, kind, trust_domain, name):
    identity = SpiffeId.parse(uri)
    assert (identity.kind, identity.trust_domain, identity.name) == (kind, trust_domain, name)
    assert str(identity) == uri
    assert identity == SpiffeId(trust_domain, kind, name)
    assert hash(identity) == hash(SpiffeId.parse(uri))


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://",
        "spiffe:///service/a",
        "spiffe://mesh",
        "spiffe://mesh/",
        "spiffe://mesh/service",
        "spiffe://mesh/service/",
        "spiffe://mesh/service/a/",
        "spiffe://mesh//a",
        "spiffe://mesh//service/a",
        "spiffe://mesh/service/a/b",
        "spiffe://mesh/service/.",
        "spiffe://mesh/service/..",
        "spiffe://mesh/./a",
        "spiffe://mesh/service/../host",
        "SPIFFE://mesh/service/a",
        "Spiffe://mesh/service/a",
        "https://mesh/service/a",
        "spiffe:/mesh/service/a",
        "spiffe:mesh/service/a",
        "//mesh/service/a",
        " spiffe://mesh/service/a",
        "spiffe://mesh/service/a ",
        "spiffe://mesh/service/a\n",
        "spiffe://mesh/service/a\x00",
        "spiffe://mesh\n/service/a",
        "spiffe://user@mesh/service/a",
        "spiffe://user:pass@mesh/service/a",
        "spiffe://mesh:443/service/a",
        "spiffe://mesh:/service/a",
        "spiffe://mesh/service/a?b",
        "spiffe://mesh/service/a?",
        "spiffe://mesh/service/a#b",
        "spiffe://mesh/service/a#",
        "spiffe://mesh/service/%61",
        "spiffe://mesh/service/a%2fb",
        "spiffe://%6desh/service/a",
        "spiffe://Mesh/service/a",
        "spiffe://mesh/Service/a",
        "spiffe://mesh/service/A",
        "spiffe://mesh/service/a_b",
        "spiffe://mesh_x/service/a",
        "spiffe://mesh/service/a.b",
        "spiffe://mesh/service/-a",
        "spiffe://mesh/service/a-",
        "spiffe://.mesh/service/a",
        "spiffe://mesh./service/a",
        "spiffe://me..sh/service/a",
        "spiffe://[::1]/service/a",
        "spiffe://mesh/pod/a",
        "spiffe://mesh\\service\\a",
        "spiffe://mesh/service/*",
        "spiffe://*/service/a",
        "spiffe://mesh/service/pаyments",  # Cyrillic a
        "spiffe://mesh/service/ａ",  # full width
        "spiffe://mesh/service/ſ",  # long s, which lower-cases and folds to s
        "spiffe://mesh/service/٣",  # Arabic digit
        "spiffe://mesh∕x/service/a",  # division slash
        "spiffe://ｍesh/service/a",
        "spiffe://mesh/service/host",  # reserved
        "spiffe://mesh/service/ca",
        f"spiffe://mesh/service/{'a' * 64}",
        f"spiffe://{LONG_DOMAIN}c/service/a",
        f"spiffe://{'a' * 64}/service/a",
        "spiffe://mesh/service/" + "a" * 3000,
        "spiffe://mesh" + "/a" * 1500,
    ],
)
def test_any_other_spelling_is_refused(uri):
    with pytest.raises(InvalidName):
        SpiffeId.parse(uri)


def test_an_identity_cannot_be_built_around_the_rules():
    for arguments in [
        ("mesh", "pod", "a"),
        ("Mesh", "service", "a"),
        ("mesh", "service", "a/b"),
        ("", "host", "a"),
    ]:
        with pytest.raises(InvalidName):
            SpiffeId(*arguments)
    with pytest.raises(AttributeError):
        SpiffeId.service("mesh", "a").name = "b"


def test_refusals_neither_quote_control_characters_nor_grow_with_the_input():
    for hostile in (
        "spiffe://mesh/service/a\n2026 forged line\x1b[31m",
        "x" * 2000,
        "spiffe://mesh/service/\u202e",
    ):
        with pytest.raises(InvalidName) as caught:
            SpiffeId.parse(hostile)
        assert str(caught.value).isascii()
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300


@given(st.text(alphabet=string.printable + "аé％", max_size=40))
def test_whatever_is_accepted_is_written_back_as_it_was(name):
    uri = f"spiffe://mesh.local/service/{name}"
    try:
        identity = SpiffeId.parse(uri)
    except InvalidName:
        with pytest.raises(InvalidName):
            check_service(name)
    else:
        assert str(identity) == uri
        assert set(name) <= set(string.ascii_lowercase + string.digits + "-")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("payments.dc1.mesh.local", ("payments", "dc1", "mesh.local")),
        ("payments.dc1.mesh", ("payments", "dc1", "mesh")),
        ("a.b.c.d.e.f", ("a", "b", "c.d.e.f")),
    ],
)
def test_a_server_name_is_two_labels_and_the_trust_domain(text, parts):
    assert ServerName.parse(text) == ServerName(*parts)
    assert str(ServerName(*parts)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "payments",
        "payments.dc1",
        "payments.dc1.",
        ".dc1.mesh",
        "payments..mesh",
        "payments.dc1.mesh.",
        "Payments.dc1.mesh",
        "payments.dc1.mesh:443",
        "*.dc1.mesh",
        "host.dc1.mesh",
        "payments.dc1.mesh\n",
        "pаyments.dc1.mesh",
        "a." * 127 + "a",
    ],
)
def test_any_other_server_name_is_refused(text):
    with pytest.raises(InvalidName):
        ServerName.parse(text)


def test_the_longest_names_together_still_make_a_server_name():
    assert len(LONG_DOMAIN) == MAX_TRUST_DOMAIN
    text = str(ServerName("s" * 63, "d" * 63, LONG_DOMAIN))
    assert len(text) == 253
    assert ServerName.parse(text).trust_domain == LONG_DOMAIN


@pytest.mark.parametrize("name", ["", "a" * 254, "-a", "a..b", "A", "a/b", "../ca", "a\x00"])
def test_hosts_and_trust_domains_are_dns_names(name):
    for check in (check_host, check_trust_domain):
        with pytest.raises(InvalidName):
            check(name)
