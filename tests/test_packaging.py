"""What gets installed: the requirements are what the sources import, and all of the package is installed."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.integration import needs

ROOT = Path(__file__).parent.parent

# Required and not imported yet: the HTTPS of admin and controller is theirs.
FOR_LATER = {"pyopenssl", "service-identity"}
# Of the extra "test" and run, not imported.
PROGRAMS = {"pytest"}


def configuration() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


def normal(name: str) -> str:
    """The name of a distribution as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required(section: str, key: str) -> set[str]:
    lines = configuration()[section][key].split("\n")
    return {normal(match[0]) for line in lines if (match := re.match(r"[A-Za-z0-9._-]+", line.strip()))}


def imports(directory: Path) -> Iterator[str]:
    """The top-level modules that the sources import."""
    for path in directory.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module
                yield node.module.partition(".")[0]


def distributions(directory: Path) -> set[str]:
    """The distributions that these are from, as installed here."""
    foreign = set(imports(directory)) - sys.stdlib_module_names - {"hostproxy", "controller", "tests"}
    known = packages_distributions()
    return {normal(known[name][0]) for name in foreign}


def test_requirements_are_what_the_sources_import() -> None:
    imported = distributions(ROOT / "hostproxy") | distributions(ROOT / "controller")
    assert required("options", "install_requires") == imported | FOR_LATER


def test_the_test_extra_is_what_the_tests_import_beside() -> None:
    needs.module("wsproto")  # else it is not known which distribution that is of
    beside = distributions(ROOT / "tests") - required("options", "install_requires")
    assert required("options.extras_require", "test") == beside | PROGRAMS


def test_every_directory_of_sources_is_a_package() -> None:
    """setuptools finds packages by their __init__.py, and leaves the others out of a wheel without a word."""
    directories = {path.parent for name in ("hostproxy", "controller") for path in (ROOT / name).rglob("*.py")}
    assert [str(path) for path in directories if not (path / "__init__.py").exists()] == []


def test_only_our_packages_are_found() -> None:
    patterns = configuration()["options.packages.find"]["include"].split()
    packages = [path.parent.name for path in ROOT.glob("*/__init__.py")]
    found = {name for name in packages if any(fnmatch(name, pattern) for pattern in patterns)}
    assert found == {"hostproxy", "controller"}
