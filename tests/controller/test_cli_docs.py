"""docs/controller.md, held against the sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from controller import config
from controller.__main__ import COMMANDS, main
from controller.config import CONFIG, CatalogConfig, RegistryConfig
from controller.policy import files
from controller.policy.expectations import EXPECTATIONS
from controller.rollout.plan import Bounds
from hostproxy.mesh.document import Invalid
from hostproxy.mesh.schema import Table, Tables, walk
from tests.test_docs import blocks, document, rows, section

TEXT = document("controller.md")


def of_config(table: Table) -> set[str]:
    return {".".join(map(str, path)) for path, key in walk(table) if not isinstance(key.kind, Table)}


def test_every_command_is_described() -> None:
    table = rows(section(TEXT, "## Commands"))
    assert {row[0].split()[0] for row in table if row[0].split()[0].isalpha() or "-" in row[0]} >= set(COMMANDS)


def test_every_key_of_the_configuration_is_described_with_its_default(tmp_path: Path) -> None:
    table = rows(section(TEXT, "### controller.toml").partition("\n## ")[0])
    assert {key for key, *_ in table} == of_config(CONFIG)
    path = tmp_path / "controller.toml"
    needed = '[mesh]\ntrust_domain = "a.example"\n[controller]\ndns = "c.example"\n'
    path.write_text(needed)
    bare = config.load(str(path))
    for key, default, _ in table:
        if default in ("required", "none"):
            continue
        where, _, name = key.rpartition(".")
        given = f"{name} = {default}\n"
        path.write_text(needed + given if where == "controller" else f"{needed}[{where}]\n{given}")
        # There is a catalog where there is its table, whatever is in it.
        plain = bare if where != "registry.consul" else replace(bare, registry=RegistryConfig(consul=CatalogConfig()))
        assert config.load(str(path)) == plain, key


def test_every_key_of_expectations_is_described() -> None:
    kind = EXPECTATIONS.keys["expect"].kind
    assert isinstance(kind, Tables)
    assert [row[0] for row in rows(section(TEXT, "## Policy")) if " " not in row[0]] == ["", *kind.table.keys][1:]


def test_the_policy_shown_meets_the_expectations_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = (block for block in blocks(TEXT, "sh") if "<<'END'" in block)
    (tmp_path / "mesh.toml").write_text(script.partition("<<'END'\n")[2].partition("END\n")[0])
    files.check(files.collect(str(tmp_path)))
    expected, routed = (block for block in blocks(TEXT, "toml") if "[[expect]]" in block)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "a.toml").write_text(expected)
    assert main(["policy", "test", str(tmp_path)]) == 0, capsys.readouterr()

    (route,) = (block for block in blocks(TEXT, "toml") if "[[service.payments.route]]" in block)
    (tmp_path / "tests" / "payments.toml").write_text(routed)
    (tmp_path / "payments.toml").write_text(route)
    assert main(["policy", "test", str(tmp_path)]) == 0, capsys.readouterr()
    (tmp_path / "payments.toml").write_text(re.sub("(?m)^match = .*$", "match = {}", route))
    capsys.readouterr()
    assert main(["policy", "test", str(tmp_path)]) == 1
    (fault,) = (block for block in blocks(TEXT, "text") if "is to take no route" in block)
    assert capsys.readouterr().out == fault


def test_the_bounds_shown_are_the_defaults() -> None:
    shown = dict(re.findall(r"`--([a-z0-9-]+) ([0-9.]+(?:%|ms)?)`", section(TEXT, "## Waves")))
    bounds = Bounds()
    assert shown == {
        "success-drop": f"{bounds.success_drop:.0%}",
        "p99-factor": f"{bounds.p99_factor:g}",
        "p99-floor": f"{bounds.p99_floor * 1000:g}ms",
        "denied-rise": f"{bounds.denied_rise:.0%}",
        "least-requests": f"{bounds.least_requests}",
    }


def test_the_store_shown_is_one(tmp_path: Path) -> None:
    (store,) = (block for block in blocks(TEXT, "toml") if "[store]" in block)
    path = tmp_path / "controller.toml"
    path.write_text(f'[mesh]\ntrust_domain = "a.example"\n[controller]\ndns = "c.example"\n{store}')
    assert config.load(str(path)).store.backend == "consul"


def test_the_catalog_shown_is_one(tmp_path: Path) -> None:
    (catalog,) = (block for block in blocks(TEXT, "toml") if "[registry.consul]" in block)
    path = tmp_path / "controller.toml"
    path.write_text(f'[mesh]\ntrust_domain = "a.example"\n[controller]\ndns = "c.example"\n{catalog}')
    found = config.load(str(path)).registry.consul
    assert found is not None
    assert found.token_file == "/etc/hostproxy-controller/catalog.token"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[store]\nconsul_key = "k.pem"\n', "a certificate needs its key"),
        ('[store]\nconsul_certificate = "c.pem"\n', "a certificate needs its key"),
        ('[registry.consul]\naddress = "https://localhost:8501"\nkey = "k.pem"\n', "a certificate needs its key"),
        ('[registry.consul]\ntoken_file = "t"\n', "belongs to an address"),
    ],
)
def test_keys_that_belong_together(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "controller.toml"
    path.write_text(f'[mesh]\ntrust_domain = "a.example"\n[controller]\ndns = "c.example"\n{text}')
    with pytest.raises(Invalid) as caught:
        config.load(str(path))
    (found,) = caught.value.problems
    assert problem in str(found)
    assert str(found).startswith(f"{path}:")
