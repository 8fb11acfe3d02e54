"""A bed for tests: they are skipped, with the reason, where the kernel doesn't allow hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts import machine
from tests.hosts.bed import Bed
from tests.integration import needs


@pytest.fixture(scope="module")
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """An empty one; its hosts end with the tests of a file."""
    try:
        machine.check()
    except machine.Missing as missing:
        needs.missing(str(missing))
    except machine.Impossible as impossible:
        pytest.skip(f"not tried on real hosts: {impossible}")
    name = request.module.__name__.rpartition("test_")[2].replace("_", "")[:8]
    with Bed(name) as bed:
        yield bed
