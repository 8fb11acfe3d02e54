"""What a check of one document found: every problem and warning, not only the first."""

from __future__ import annotations

from hostproxy.mesh.document import Document, Problem, key_text
from hostproxy.mesh.scan import Path

# More problems of one file have a common cause, and for each a line and the nearest known key are looked for.
PROBLEMS_SHOWN = 100


class Findings:
    """Everything found wrong or worth a word in one document."""

    __slots__ = ("document", "more", "problems", "warnings")

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.more = 0  # problems beyond those that are shown

    def add(self, path: Path, message: str, hint: str = "") -> None:
        """Note a problem; the document is refused."""
        if self.full():
            self.more += 1
        else:
            self.problems.append(self.document.problem(path, message, hint))

    def warn(self, path: Path, message: str, hint: str = "") -> None:
        """Note something that the operator may not expect; the document is taken."""
        if len(self.warnings) < PROBLEMS_SHOWN:
            self.warnings.append(self.document.problem(path, message, hint))

    def blames(self, path: Path) -> bool:
        """Say whether the value at ``path`` has a problem already."""
        key = key_text(path)
        return any(problem.key == key for problem in self.problems)

    def full(self) -> bool:
        """Say whether another problem would only be counted."""
        return len(self.problems) >= PROBLEMS_SHOWN

    def all_problems(self) -> list[Problem]:
        """Return the problems in the order of the file, and how many more there are."""
        problems = sorted(self.problems, key=_place)
        if self.more:
            problems.append(Problem(self.document.file, 0, 0, "", f"has {self.more} more problems"))
        return problems

    def all_warnings(self) -> list[Problem]:
        """Return the warnings in the order of the file."""
        return sorted(self.warnings, key=_place)


def _place(problem: Problem) -> tuple[int, int]:
    return problem.line, problem.column
