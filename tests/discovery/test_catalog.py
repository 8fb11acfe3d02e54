from __future__ import annotations

import time
from pathlib import Path

import pytest
import tomli_w

from hostproxy.discovery import catalog
from hostproxy.discovery.catalog import Instance
from hostproxy.mesh.document import CATALOG_SIZE, Invalid, parse

LEAST = '[[instance]]\nservice = "payments"\nhost = "db-1"\naddress = "10.0.0.12:9001"\n'


def read(text: str) -> catalog.Catalog:
    return catalog.parse(parse(text.encode(), "catalog.toml", CATALOG_SIZE))


def test_an_instance_with_everything(tmp_path: Path) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text(
        LEAST
        + 'mesh = "10.0.0.12:15443"\ndatacenter = "eu"\nzone = "rack-3"\nversion = "2"\ntags = ["blue"]\nweight = 3\n'
    )
    assert catalog.load(str(file)) == {
        "payments": (
            Instance(
                service="payments",
                host="db-1",
                address="10.0.0.12:9001",
                mesh="10.0.0.12:15443",
                datacenter="eu",
                zone="rack-3",
                version="2",
                tags=("blue",),
                weight=3,
            ),
        )
    }


def test_an_instance_with_the_least() -> None:
    assert read(LEAST) == {"payments": (Instance("payments", "db-1", "10.0.0.12:9001"),)}


def test_a_catalog_may_have_no_instances_when_it_says_so() -> None:
    assert read("# none yet\n") == {}
    with pytest.raises(Invalid, match="is empty"):
        read("")


def test_the_order_in_the_file_does_not_matter() -> None:
    one = LEAST + LEAST.replace("9001", "9002") + LEAST.replace("payments", "cart")
    other = LEAST.replace("payments", "cart") + LEAST.replace("9001", "9002") + LEAST
    assert read(one) == read(other)
    assert [instance.address for instance in read(other)["payments"]] == ["10.0.0.12:9001", "10.0.0.12:9002"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            LEAST + LEAST,
            '8: instance[1].address: "10.0.0.12:9001" is an instance of "payments" at line 4 already',
        ),
        (
            LEAST + LEAST.replace("db-1", "db-2"),
            '8: instance[1].address: "10.0.0.12:9001" is an instance of "payments" at line 4 already',
        ),
        (
            LEAST.replace("10.0.0.12:9001", "unix:/a"),
            "4: instance[0].address: no other host can reach a Unix socket",
        ),
        (LEAST + 'mesh = "unix:/a"', '5: instance[0].mesh: "unix:/a" is a Unix socket, which no other host'),
        (
            LEAST.replace("10.0.0.12:9001", "db-1:9001"),
            '4: instance[0].address: "db-1:9001" is a host name, where',
        ),
        (
            LEAST.replace("10.0.0.12:9001", "0.0.0.0:9001"),
            '4: instance[0].address: "0.0.0.0:9001" means every address',
        ),
        (
            LEAST.replace('service = "payments"\n', ""),
            "1: instance[0].service: is missing; it is the service that it",
        ),
        (LEAST + "wieght = 2", '5: instance[0].wieght: unknown key; did you mean "weight"?'),
        (LEAST + "weight = 0", "5: instance[0].weight: 0 is too low; the least is 1"),
        (LEAST + 'tags = "blue"', '5: instance[0].tags: expected an array, found "blue"'),
        (LEAST.replace("payments", "host"), '2: instance[0].service: "host" is not the name of a service'),
        (
            LEAST.replace("[[instance]]", "[instance]"),
            "1: instance: expected an array of tables, found a table; write",
        ),
        (LEAST.replace("instance", "instances"), '1: instances: unknown key; did you mean "instance"?'),
    ],
)
def test_a_wrong_catalog_says_where_and_why(text: str, problem: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(text)
    (found,) = caught.value.problems
    assert str(found).removeprefix("catalog.toml:").startswith(problem)


@pytest.mark.parametrize("address", ["127.0.0.1:9001", "[::1]:9001", "unix:/run/app.sock"])
def test_the_same_local_address_on_two_hosts_is_two_instances(address: str) -> None:
    text = "".join(
        LEAST.replace("10.0.0.12:9001", address).replace("db-1", host) + f'mesh = "10.0.0.{number}:15443"\n'
        for number, host in enumerate(("db-1", "db-2"), 1)
    )
    assert len(read(text)["payments"]) == 2
    with pytest.raises(Invalid, match="already"):
        read(text.replace("db-2", "db-1"))


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        read(LEAST + "weight = 0\n" + LEAST.replace("9001", "x") + LEAST.replace("db-1", "DB"))
    assert [problem.line for problem in caught.value.problems] == [5, 9, 12, 13]


A1, A2, B = (
    Instance("a", "h", "10.0.0.1:1"),
    Instance("a", "h", "10.0.0.1:2"),
    Instance("b", "h", "10.0.0.1:3"),
)


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ({}, {}, set()),
        ({}, {"a": (A1,)}, {"a"}),
        ({"a": (A1,)}, {}, {"a"}),
        ({"a": (A1,), "b": (B,)}, {"a": (A1, A2), "b": (B,)}, {"a"}),
        ({"a": (A1,)}, {"a": (Instance("a", "h", "10.0.0.1:1", weight=2),)}, {"a"}),
        ({"a": (A1,)}, {"a": (Instance("a", "h", "10.0.0.1:1"),)}, set()),
    ],
)
def test_what_changed(old: catalog.Catalog, new: catalog.Catalog, names: set[str]) -> None:
    assert catalog.changed(old, new) == names


def test_a_thousand_services_with_ten_instances_are_read_and_compared_fast() -> None:
    instances = [
        {
            "service": f"service-{number // 10}",
            "host": f"host-{number % 500}",
            "address": f"10.{number // 10_000}.{number // 100 % 100}.{number % 100 + 1}:9001",
            "mesh": "10.0.0.12:15443",
            "tags": ["blue"],
        }
        for number in range(10_000)
    ]
    text = tomli_w.dumps({"instance": instances})
    began = time.process_time()
    found = read(text)
    assert time.process_time() - began < 2  # 0.4 s on a common machine
    instances[5]["weight"] = 2
    changed = read(tomli_w.dumps({"instance": instances}))
    began = time.process_time()
    assert catalog.changed(found, changed) == {"service-0"}
    assert time.process_time() - began < 0.05  # 0.003 s
