"""JSON for people and scripts, written piece by piece.

One call of the encoder for a document of megabytes would hold the interpreter's lock, and so the reactor, until it
is done. Between two pieces the reactor's thread gets its turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

# Containers so deep are written in one piece: below the document, its services, one of them and its instances.
_DEPTH = 4


class Entries:
    """An object whose values are made when they are written, so that never all of them are held."""

    def __init__(self, items: Iterable[tuple[str, object]]) -> None:
        """Written once: ``items`` may be a generator."""
        self.items = items


def encode(document: object) -> bytes:
    """Return JSON with an indent of two, ended by a line feed."""
    return b"".join((*_pieces(document, 0), b"\n"))


def _pieces(value: object, depth: int) -> Iterator[bytes]:
    if isinstance(value, Entries):
        yield from _object(value.items, depth)
    elif depth < _DEPTH and isinstance(value, Mapping):
        yield from _object(value.items(), depth)
    elif depth < _DEPTH and isinstance(value, list | tuple):
        yield from _container(b"[", ((b"", item) for item in value), b"]", depth)
    else:
        text = msgspec.json.format(msgspec.json.encode(value), indent=2)
        yield text.replace(b"\n", b"\n" + b"  " * depth)  # there is no other line feed: strings have it escaped


def _object(items: Iterable[tuple[str, object]], depth: int) -> Iterator[bytes]:
    return _container(b"{", ((msgspec.json.encode(key) + b": ", item) for key, item in items), b"}", depth)


def _container(begin: bytes, items: Iterable[tuple[bytes, object]], end: bytes, depth: int) -> Iterator[bytes]:
    before = begin
    for key, item in items:
        yield before + b"\n" + b"  " * (depth + 1) + key
        yield from _pieces(item, depth + 1)
        before = b","
    yield begin + end if before == begin else b"\n" + b"  " * depth + end
