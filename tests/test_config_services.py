from __future__ import annotations

from typing import Any

import pytest

from hostproxy.config_services import SERVICE, Check, LocalService, check_path, meta_key, meta_value
from hostproxy.mesh.document import Document
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.units import Wrong


def read(**keys: Any) -> tuple[LocalService, list[str]]:
    """The service of these keys, and what is wrong with them."""
    findings = Findings(Document("conf.toml", "", {}))
    service = SERVICE.read({"name": "payments", **keys}, (), findings)
    return service, [problem.what() for problem in findings.problems]


def test_the_least_of_a_service() -> None:
    assert read() == (LocalService(name="payments"), [])
    assert not LocalService(name="payments").check.wanted


@pytest.mark.parametrize(
    ("given", "check"),
    [
        ({"http": "/healthz"}, Check(http="/healthz")),
        ({"tcp": True, "interval": "250ms"}, Check(tcp=True, interval=0.25)),
        (
            {"http": "/", "timeout": "1m", "healthy": 1, "unhealthy": 100},
            Check(http="/", timeout=60.0, healthy=1, unhealthy=100),
        ),
        ({"tcp": True, "run_by": "consul"}, Check(tcp=True, run_by="consul")),
    ],
)
def test_checks(given: dict[str, Any], check: Check) -> None:
    assert read(check=given) == (LocalService(name="payments", check=check), [])
    assert check.wanted


def test_what_a_check_is_when_little_is_said() -> None:
    assert Check() == Check(
        http="", tcp=False, interval=2.0, timeout=1.0, healthy=2, unhealthy=3, run_by="hostproxy"
    )


@pytest.mark.parametrize("path", ["/", "/healthz", "/a/b?c=d&e=%20", "/" + "a" * 1023])
def test_paths(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path", ["healthz", "http://127.0.0.1/", "/a b", "/a\r\nHost: evil", "/a#b", "/\u00e9", "/\x7f", "/" + "a" * 1024]
)
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(Wrong, match="is not a path"):
        check_path(path)


@pytest.mark.parametrize("key", ["tier", "Tier_2-b", "a" * 128, "1", "consul"])
def test_metadata(key: str) -> None:
    assert read(meta={key: "gold"}) == (LocalService(name="payments", meta={key: "gold"}), [])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "is not a key of metadata"),
        ("a.b", "is not a key of metadata"),
        ("a b", "is not a key of metadata"),
        ("a" * 129, "is not a key of metadata"),
        ("consul-segment", "is reserved by Consul"),
        ("mesh_port", "is written by hostproxy itself"),
        ("version", "is written by hostproxy itself"),
        ("zone", "is written by hostproxy itself"),
        ("protocol", "is written by hostproxy itself"),
        ("socket", "is written by hostproxy itself"),
    ],
)
def test_keys_of_metadata_that_cannot_be(key: str, message: str) -> None:
    with pytest.raises(Wrong, match=message):
        meta_key(key)
    assert message in read(meta={key: "gold"})[1][0]


def test_values_of_metadata_are_bounded_in_bytes() -> None:
    assert meta_value("\u00e9" * 256) == "\u00e9" * 256
    with pytest.raises(Wrong, match="more than the 512 bytes"):
        meta_value("\u00e9" * 257)


def test_there_is_not_more_metadata_than_consul_takes() -> None:
    assert read(meta={str(number): "" for number in range(33)})[1]
    # With what hostproxy adds, Consul's 64 are not reached.
    assert read(meta={str(number): "x" for number in range(32)})[1] == []
