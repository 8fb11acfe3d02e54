from __future__ import annotations

from hostproxy.mesh.document import parse
from hostproxy.mesh.findings import PROBLEMS_SHOWN, Findings

DOCUMENT = parse(b"a = 1\nb = 2\n", "conf.toml", 100)


def test_problems_come_in_the_order_of_the_file() -> None:
    findings = Findings(DOCUMENT)
    findings.add(("b",), "second")
    findings.add(("a",), "first")
    assert [problem.message for problem in findings.all_problems()] == ["first", "second"]


def test_more_problems_than_anybody_reads_are_counted() -> None:
    findings = Findings(DOCUMENT)
    for _ in range(PROBLEMS_SHOWN):
        assert not findings.full()
        findings.add(("a",), "again")
        findings.warn(("a",), "again")
    assert findings.full()
    findings.add(("b",), "one too many")
    findings.warn(("b",), "one too many")
    problems = findings.all_problems()
    assert len(problems) == PROBLEMS_SHOWN + 1
    assert str(problems[-1]) == "conf.toml: has 1 more problems"
    assert len(findings.warnings) == PROBLEMS_SHOWN


def test_whether_a_value_is_blamed_already() -> None:
    findings = Findings(DOCUMENT)
    findings.add(("a",), "wrong")
    assert findings.blames(("a",))
    assert not findings.blames(("b",))
