from __future__ import annotations

from collections.abc import Callable

import pytest

from hostproxy.mesh import addresses
from hostproxy.mesh.units import Wrong

LONGEST = "unix:/" + "a" * 106


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("255.255.255.254:65535", "255.255.255.254:65535"),
        ("[::1]:80", "[::1]:80"),
        ("[2001:DB8:0::1]:80", "[2001:db8::1]:80"),
        ("unix:/run/app.sock", "unix:/run/app.sock"),
        (LONGEST, LONGEST),
    ],
)
def test_an_address_has_one_spelling(text: str, canonical: str) -> None:
    assert addresses.socket_address(text) == canonical


NOT_ADDRESSES = [
    "", "80", ":80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:080", "127.0.0.1:+8",
    "127.0.0.1:80 ", "127.0.0.1:80\n", "127.0.0.01:80", "127.0.0.256:80", "127.1:80", "1.2.3.4.5:80",
    "127.0.0.1:٣", "::1:80", "[::1]", "[::1]:0", "[::g]:80", "[fe80::1%eth0]:80", "[1.2.3.4]:80", "unix:", "unix:app",
    "unix:/a/../b", "unix:/a\nb", "unix:/a\x00b", "unix:@abstract", "UNIX:/a", "tcp://127.0.0.1:80",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_ADDRESSES)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(Wrong, match="is not a"):
        addresses.socket_address(text)


@pytest.mark.parametrize("text", ["localhost:80", "0x7f000001:80", "db-1.corp.example:9001", "payments:80"])
def test_a_host_name_is_told_what_is_taken(text: str) -> None:
    with pytest.raises(Wrong, match='is a host name, where only an IP address is taken; write "ip:port"'):
        addresses.socket_address(text)


@pytest.mark.parametrize(
    ("check", "text", "message"),
    [
        (addresses.socket_address, LONGEST + "a", "more than the 107 bytes"),
        (addresses.socket_address, "[::ffff:10.0.0.1]:80", 'in disguise; write "10.0.0.1:80"'),
        (addresses.listening_ip, "unix:/a", "is a Unix socket"),
        (addresses.reachable_ip, "unix:/a", "is a Unix socket"),
        (addresses.reachable, "0.0.0.0:80", "means every address"),
        (addresses.reachable, "[::]:80", "means every address"),
        (addresses.listening, "224.0.0.1:80", "multicast"),
        (addresses.reachable, "[ff02::1]:80", "multicast"),
        (addresses.reachable, "255.255.255.255:80", "multicast or reserved"),
        (addresses.ip_address, "10.0.0.1:80", "is not an IP address; write one without a port"),
        (addresses.ip_address, "db-1", "is not an IP address"),
        (addresses.ip_address, "0.0.0.0", "could reach this host"),
        (addresses.ip_address, "fe80::1%eth0", "could reach this host"),
    ],
)
def test_an_address_for_the_wrong_use_says_why(check: Callable[[str], str], text: str, message: str) -> None:
    with pytest.raises(Wrong, match=message):
        check(text)


def test_addresses_for_their_use() -> None:
    assert addresses.listening("unix:/a") == "unix:/a"
    assert addresses.listening_ip("0.0.0.0:80") == "0.0.0.0:80"
    assert addresses.listening_ip("[::]:80") == "[::]:80"
    assert addresses.reachable_ip("10.0.0.1:80") == "10.0.0.1:80"
    assert addresses.ip_address("2001:DB8::1") == "2001:db8::1"


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("unix:/a", True),
        ("10.0.0.1:1", False),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
    ],
)
def test_loopback_and_unix_sockets_are_local(address: str, local: bool) -> None:
    assert addresses.is_local(address) is local


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("[::]:80", "[::1]:80", True),
        ("[::]:80", "127.0.0.1:80", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("unix:/a", "0.0.0.0:80", False),
    ],
)
def test_what_overlaps(one: str, other: str, overlap: bool) -> None:
    assert addresses.overlap(one, other) is overlap
    assert addresses.overlap(other, one) is overlap


def test_an_address_is_split_for_a_socket() -> None:
    assert addresses.split("[fd00::1]:80") == ("fd00::1", 80)
    assert addresses.split("10.0.0.1:80") == ("10.0.0.1", 80)
