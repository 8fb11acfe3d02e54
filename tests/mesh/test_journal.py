"""Lines for systemd's journal."""

from __future__ import annotations

import os

from hostproxy.mesh import journal


def test_who_reads_a_descriptor() -> None:
    read, write = os.pipe()
    try:
        status = os.fstat(write)
        stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert journal.reads(write, stream)
        assert not journal.reads(write, {})
        # Of the service, whose output was led elsewhere.
        assert not journal.reads(write, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        assert not journal.reads(write, {"JOURNAL_STREAM": "x"})
    finally:
        os.close(read)
        os.close(write)
    assert not journal.reads(write, stream)


def test_marks() -> None:
    assert journal.marked("a\n    b\n", "error") == "<3>a\n<3>    b\n"
    assert journal.marked("", "info") == ""


def test_a_complaint() -> None:
    assert journal.complaint("a\nb", {}) == "a\nb\n"
    status = os.fstat(2)
    stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    assert journal.complaint("a\nb", stream) == "<3>a\n<3>b\n"
