from __future__ import annotations

import msgspec

from hostproxy.config_limits import LIMITS
from hostproxy.limits import Limits
from hostproxy.mesh.document import parse
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.kinds import Duration, Integer, Size
from hostproxy.mesh.units import format_duration, format_size


def test_every_limit_can_be_set_and_has_the_default_of_the_struct() -> None:
    assert set(LIMITS.keys) == set(Limits.__struct_fields__)
    for field in msgspec.structs.fields(Limits):
        assert LIMITS.keys[field.name].default == field.default


def test_every_default_is_within_its_own_bounds() -> None:
    lines = []
    for name, key in LIMITS.keys.items():
        kind = key.kind
        if isinstance(kind, Duration):
            lines.append(f'{name} = "{format_duration(key.default)}"')
        elif isinstance(kind, Size):
            lines.append(f'{name} = "{format_size(key.default)}"')
        else:
            assert isinstance(kind, Integer)
            lines.append(f"{name} = {key.default}")
    findings = Findings(parse("\n".join(lines).encode(), "limits.toml", 10_000))
    assert LIMITS.read(findings.document.data, (), findings) == Limits()
    assert findings.problems == []


def test_times_are_seconds_and_sizes_bytes() -> None:
    for field in msgspec.structs.fields(Limits):
        expected = Duration if field.type is float else (Size, Integer)
        assert isinstance(LIMITS.keys[field.name].kind, expected)
