"""What ``hostproxy why`` says of routes and splits, held against where requests go."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.cases import head
from tests.fakes.client import exchange
from tests.fakes.origin import Answer, Origin, Respond, reply
from tests.integration.host import Host, certificates

CALLS = 40  # of a part of one half none is missed: once in 10^12 runs it would be


def subset(version: str, weight: int) -> dict[str, Any]:
    return {"subset": f"v{version}", "weight": weight}


PAYMENTS = {
    "permissive": True,
    "default_subset": "v1",
    "subset": {f"v{version}": {"version": version} for version in "123"},
    "route": [
        {"name": "testers", "match": {"headers": {"x-canary": "yes"}}, "split": [{"subset": "v2"}]},
        {"match": {"path_prefix": "/halves/"}, "split": [subset("1", 1), subset("2", 1), subset("3", 0)]},
        {"name": "lost", "match": {"path_prefix": "/lost/"}, "split": [subset("3", 1), subset("1", 1)]},
    ],
}


def names_itself(version: str) -> Respond:
    return lambda request, connection: Answer(reply(version.encode()))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    directory = tmp_path_factory.mktemp("why")
    certificates(directory / "pki", "alpha", "cart")
    host = Host(directory / "alpha", "alpha", certificates=directory / "pki")
    host.conf["service"].append({"name": "cart", "instances": []})
    host.conf["outbound"] |= {"caller": "cart", "domains": ["mesh"]}
    host.policy["service"]["payments"] = PAYMENTS
    origins = {version: Origin() for version in "12"}
    for version, origin in origins.items():
        origin.respond = names_itself(version)
        instance = {"service": "payments", "host": f"h{version}", "address": origin.address, "version": version}
        host.catalog.append(instance)
    try:
        host.write()
        yield host.start().wait_ready()
    finally:
        host.stop()
        for origin in origins.values():
            origin.stop()


@pytest.mark.parametrize(
    ("url", "field", "route"),
    [
        ("http://payments/", "", ""),
        ("http://payments/halves/", "X-Canary: yes", "testers"),
        ("http://payments/halves/", "X-Canary: no", "policy.toml:"),
        ("http://payments/lost/", "", "lost"),
        ("http://v2.payments.mesh/halves/", "", ""),
    ],
)
def test_requests_go_where_why_says(host: Host, url: str, field: str, route: str) -> None:
    command = [sys.executable, "-m", "hostproxy", "why", "--from", "cart", url, "--admin", host.admin, "-o", "json"]
    command += ["-H", field] if field else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["route"]["matched"].startswith(route)
    assert bool(said["route"]["matched"]) is bool(route)
    parts = {each["subset"]: each for each in said["parts"] if each["share"]}
    expected = {
        each["obstacle"].encode() if each["obstacle"] else name.removeprefix("v").encode()
        for name, each in parts.items()
    }

    name, _, path = url.removeprefix("http://").partition("/")
    lines = [f"Host: {name}".encode(), *([field.encode()] if field else [])]
    seen = set()
    for _ in range(CALLS):
        (response,) = exchange(host.proxy, head(f"GET /{path} HTTP/1.1".encode(), *lines)).responses
        body = bytes(response.body).strip()
        seen.add(body.removeprefix(b"hostproxy: ").rpartition(b" (UH)")[0] if response.status == 503 else body)
    assert seen == expected
