"""How bytes arrive: the same message in one write, byte by byte, or split at line ends."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

SINGLE_BYTES_FIRST = 400  # of a long message only its edges go byte by byte: the faults sit there
SINGLE_BYTES_LAST = 100
LINES_FIRST = 40


class Delivery(Enum):
    """A way to cut a message into writes."""

    WHOLE = "whole"
    BYTES = "bytes"
    LINES = "lines"

    @property
    def pause(self) -> float:
        """Seconds between two pieces: long enough that the peer mostly reads them one by one."""
        return 0.0002 if self is Delivery.LINES else 0.00003

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """``data`` in the pieces to write one by one; together they are ``data`` again."""
        if self is Delivery.WHOLE:
            yield data
        elif self is Delivery.BYTES:
            edge = len(data) - SINGLE_BYTES_LAST
            if edge < SINGLE_BYTES_FIRST:
                edge = SINGLE_BYTES_FIRST
            for at in range(min(SINGLE_BYTES_FIRST, len(data))):
                yield data[at : at + 1]
            if edge > SINGLE_BYTES_FIRST:
                yield data[SINGLE_BYTES_FIRST:edge]
            for at in range(edge, len(data)):
                yield data[at : at + 1]
        else:
            start = 0
            for _ in range(LINES_FIRST):
                end = data.find(b"\n", start) + 1
                if end == 0:
                    break
                yield data[start:end]
                start = end
            if start < len(data):
                yield data[start:]
