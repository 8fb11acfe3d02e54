"""The man pages are what the commands and tables say now, and roff that formatters take without a warning."""

from __future__ import annotations

import configparser
import importlib.util
import subprocess
from glob import glob
from pathlib import Path
from types import ModuleType

import pytest

from controller.__main__ import COMMANDS as CONTROLLER_COMMANDS
from hostproxy import config
from hostproxy.__main__ import COMMANDS
from hostproxy.mesh.schema import walk
from tests.integration import needs

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "man").glob("*.[58]"))


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "man" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_current(generator: ModuleType) -> None:
    made = generator.pages()
    assert {path.name for path in PAGES} == set(made)
    stale = [path.name for path in PAGES if path.read_text() != made[path.name]]
    assert not stale, "run: python docs/man/generate.py"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_groff_has_nothing_to_say(path: Path) -> None:
    groff = needs.program("groff")
    done = subprocess.run(
        [groff, "-man", "-Tascii", "-ww", "-z", str(path)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stderr == ""


def formatted(name: str) -> str:
    """A page as a reader has it, in one line."""
    groff = needs.program("groff")
    done = subprocess.run(
        [groff, "-man", "-Tascii", "-P-c", "-P-b", "-P-u", "-rLL=1000n", str(ROOT / "docs" / "man" / name)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return " ".join(done.stdout.split())


def test_commands_and_keys_can_be_read() -> None:
    text = formatted("hostproxy.8")
    assert all(f"hostproxy {name} " in text for name in COMMANDS)
    assert "-o, --output table|json" in text
    text = formatted("hostproxy-controller.8")
    assert all(f"hostproxy-controller {name} " in text for name in CONTROLLER_COMMANDS)
    text = formatted("hostproxy-conf.toml.5")
    for path, key in walk(config.CONFIG):
        assert key.planned or str(path[-1]) in text, path
    assert "head_time = duration from 10ms to 10m" in text
    assert 'The time for a whole head, from its first byte. Default: "10s".' in text
    assert "[service.NAME.subset.NAME]" in formatted("hostproxy-policy.toml.5")


def test_all_of_them_are_installed() -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    patterns = parser["options.data_files"]
    for number in (5, 8):
        found = {Path(name).name for name in glob(patterns[f"share/man/man{number}"], root_dir=ROOT)}
        assert found == {path.name for path in PAGES if path.suffix == f".{number}"} != set()
