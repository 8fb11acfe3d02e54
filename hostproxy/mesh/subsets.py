"""Subsets: the instances of a service that have a version, tags or metadata in common, under a name of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from hostproxy.mesh import names
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.kinds import ListOf, MapOf, Text, did_you_mean
from hostproxy.mesh.scan import Path
from hostproxy.mesh.schema import Key, Table
from hostproxy.mesh.units import Wrong

SUBSETS = 64  # of a service; each is a destination that every worker knows
TAGS = 16
META = 16

_META_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")  # what Consul takes as one
_BYTES = 512  # of a tag or a value, as Consul has them


class Subset(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance must have to belong. Everything that is given must hold."""

    version: str = ""  # empty: any
    tags: tuple[str, ...] = ()  # all of them
    meta: tuple[tuple[str, str], ...] = ()  # all of them; sorted


def meta_key(text: str) -> str:
    """Return a key of metadata. Raises :class:`Wrong`."""
    if not _META_KEY.fullmatch(text):
        raise Wrong("is not a key of metadata", "it has at most 128 ASCII letters, digits, _ and -")
    return text


def printable(text: str) -> str:
    """Return a tag or a value of metadata. Raises :class:`Wrong`.

    Others register them, for programs with a syntax of their own: nearly anything goes.
    """
    if not text.isprintable():
        raise Wrong("has control characters")
    if len(text.encode()) > _BYTES:
        raise Wrong(f"is more than {_BYTES} bytes")
    return text


def _subset(version: str, tags: tuple[str, ...], meta: dict[str, str]) -> Subset:
    return Subset(version=version, tags=tags, meta=tuple(sorted(meta.items())))


SUBSET = Table(
    _subset,
    Key("version", Text(names.word), "the version of its instances", default=""),
    Key(
        "tags",
        ListOf(Text(printable), least=1, most=TAGS, if_empty="leave it out"),
        "the tags that its instances have, all of them",
        default=(),
    ),
    Key(
        "meta",
        MapOf(meta_key, Text(printable, empty=True), most=META),
        "the metadata that its instances have, all of it",
        default={},
    ),
)


def check_subset(raw: object, path: Path, findings: Findings) -> None:
    """Refuse one without criteria, to which every instance would belong: it is forgotten, or misplaced."""
    if raw in ({}, {"meta": {}}):
        findings.add(path, "says nothing of its instances", "give version, tags or meta")


def unknown_subset(name: str, known: Iterable[str]) -> Wrong:
    """Return the error for a subset that policy does not define."""
    known = sorted(known)
    hint = did_you_mean(name, known) or ("known here: " + ", ".join(known) if known else "it has none")
    return Wrong(f'"{name}" is no subset of this service', hint)
