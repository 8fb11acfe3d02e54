from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostproxy.discovery.file import FileDiscovery
from hostproxy.mesh.document import Invalid
from tests.discovery.conftest import Loop

INSTANCE = '[[instance]]\nservice = "{}"\nhost = "db-1"\naddress = "10.0.0.12:{}"\n'


def test_a_catalog_is_there_from_the_start_and_follows_the_file(loop: Loop, tmp_path: Path) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text(INSTANCE.format("payments", 9001))
    discovery = FileDiscovery(loop.reactor, str(file))
    discovery.start()
    assert set(discovery.catalog.value) == {"payments"}
    (tmp_path / "new").write_text(INSTANCE.format("payments", 9001) + INSTANCE.format("cart", 9002))
    os.replace(tmp_path / "new", file)
    loop.until(lambda: set(discovery.catalog.value) == {"payments", "cart"})
    discovery.stop()


def test_a_bad_first_catalog_is_refused(loop: Loop, tmp_path: Path) -> None:
    for content in (None, "[[instance]]\n"):
        if content is not None:
            (tmp_path / "catalog.toml").write_text(content)
        with pytest.raises(Invalid):
            FileDiscovery(loop.reactor, str(tmp_path / "catalog.toml")).start()


def test_a_later_bad_or_missing_catalog_keeps_the_last_good_one(loop: Loop, tmp_path: Path) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text(INSTANCE.format("payments", 9001))
    discovery = FileDiscovery(loop.reactor, str(file))
    discovery.start()
    good = discovery.catalog.value
    for spoil, message in (
        (lambda: file.write_text("broken ="), "Invalid value"),
        (file.unlink, "No such file"),
    ):
        spoil()
        loop.until(lambda message=message: message in str(discovery.error))
        assert discovery.catalog.value is good
    file.write_text(INSTANCE.format("payments", 9001))
    loop.until(lambda: discovery.error is None)
    assert discovery.catalog.value is good
    discovery.stop()


def test_a_catalog_caught_empty_between_truncation_and_writing_is_not_taken(
    loop: Loop, tmp_path: Path
) -> None:
    file = tmp_path / "catalog.toml"
    file.write_text(INSTANCE.format("payments", 9001))
    discovery = FileDiscovery(loop.reactor, str(file))
    seen: list[set[str]] = []
    discovery.start()
    discovery.catalog.subscribe(lambda catalog: seen.append(set(catalog)))
    with file.open("w") as writer:
        loop.run_for(0.7)
        writer.write(INSTANCE.format("cart", 9001))
    loop.until(lambda: seen)
    assert seen == [{"cart"}]
    assert discovery.error is None
    discovery.stop()
