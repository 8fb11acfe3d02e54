"""What nobody else may see, taken out of what is handed on.

Three ways, one behind the other, so that a secret has to get past all of them: by the name of its key; by its form;
and by its value, wherever else that turns up, in these spellings of it that logs and documents have.
"""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "(hidden)"
MOST_FORMED = 200  # values that are known by their form; each takes time in every text
SHORTEST = 6  # characters; hiding a shorter value everywhere would hide half of the text, and it guards nothing

# Names of keys whose values are secrets; and of keys that are called like it, and have the path or name of one.
_SECRET = re.compile(
    r"(?:.*[_.-])?(?:key|apikey|token|tokens|pass|password|passwd|passphrase|secret|secrets|credential|credentials"
    r"|authorization|cookie|bearer|auth|pin)",
    re.IGNORECASE,
)
_REFERENCES = frozenset({"key", "token_file", "join_token_file"})
_NAMES = frozenset({"token_credential"})
_HEADERS = "headers"  # of a rule of policy: pairs of name and value

_PATHS = ("/", "./", "../")  # how a value begins that is a path, whether or not there is such a file

# Credentials of a URL, up to the last @ of what can be its host; or, of somebody who wrote a password with a slash as
# it is, up to the last @ of all.
_CREDENTIALS = re.compile(
    rb"(?<=://)(?:[^\s/?#\"]{1,512}|[^\s/?#\":@\[]{1,256}:(?![0-9]{1,5}[/?#])[^\s\"]{1,256})(?=@)"
)
_PROSE = re.compile(rb"(?i)(?:(?<=\bbearer )[A-Za-z0-9._~+/=-]+|(?<=\bbasic )[A-Za-z0-9+/=]{6,})")
_WORD = re.compile(rb"[A-Z]?[a-z]+")
_FORMS = (
    re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(rb"(?i)(?<=authorization: )[^\r\n\"]+"),
    re.compile(rb"(?i)(?<=x-consul-token: )[^\r\n\"]+"),
    _PROSE,
    re.compile(
        rb"(?i)(?:(?<=[?&;]sig=)|(?<=signature=)|(?<=credential=)|(?<=[?&;]pwd=)|(?<=[?&;]pass=)|(?<=[?&;]auth=))"
        rb"[^\s&\"';]+"
    ),
    re.compile(rb"(?i)(?:(?<=token=)|(?<=secret=)|(?<=password=)|(?<=passwd=)|(?<=passphrase=)|(?<=key=))[^\s&\"',;]+"),
    _CREDENTIALS,
)


class Redaction:
    """Takes secrets out. It remembers each that it has met, so what names them is to be shown to it first."""

    def __init__(self, known: Iterable[str] = (), is_file: Callable[[str], bool] = lambda name: False) -> None:
        """``known`` are values that are hidden wherever they are; ``is_file`` tells names of files from others."""
        self.count = 0  # of what was taken out
        self.only_there = 0  # of that, what had the form of a secret when enough of them were known to look for
        self._formed_values = 0
        self._is_file = is_file
        self._values: set[str] = set()
        self._ordered: list[bytes] | None = []
        for value in known:
            self.learn(value)

    def learn(self, value: str) -> None:
        """Hide this value from now on."""
        if len(value) >= SHORTEST and value not in self._values:
            self._values.add(value)
            self._ordered = None

    def document(self, value: Any, name: str = "") -> Any:
        """A document, of TOML or JSON, without secrets."""
        if isinstance(value, Mapping):
            return {key: self.document(item, str(key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            if name == _HEADERS:
                return [self._pair(item) for item in value]
            return [self.document(item, name) for item in value]
        if isinstance(value, str) and value and value != HIDDEN and self._names_secret(name, value):
            self.learn(value)
            self.count += 1
            return HIDDEN
        if isinstance(value, str):
            return self._formed(value.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")
        return value

    def text(self, content: bytes) -> bytes:
        """A text without secrets."""
        content = self._known(content)
        before = len(self._values)
        content = self._formed(content)
        return content if len(self._values) == before else self._known(content)

    def _known(self, content: bytes) -> bytes:
        if self._ordered is None:
            # The longest first: one may begin like another.
            spellings = {each for value in self._values for each in _spellings(value)}
            self._ordered = sorted(spellings, key=len, reverse=True)
        # One by one: a regular expression of them all would try each at every place.
        for each in self._ordered:
            if count := content.count(each):
                content = content.replace(each, HIDDEN.encode())
                self.count += count
        return content

    def _formed(self, content: bytes) -> bytes:
        for form in _FORMS:
            content = form.sub(functools.partial(self._take, form), content)
        return content

    def _take(self, form: re.Pattern[bytes], match: re.Match[bytes]) -> bytes:
        """Hide what looks like a secret, and learn it: the same may be elsewhere in another form."""
        if match[0] == HIDDEN.encode():
            return match[0]
        self.count += 1
        # After "bearer" and "basic" may come the rest of a sentence, and before an @ the name of a user.
        word = form in (_PROSE, _CREDENTIALS) and _WORD.fullmatch(match[0])
        if HIDDEN.encode() not in match[0] and not word:
            value = match[0].decode("utf-8", "replace")
            if form is _CREDENTIALS:
                self._learn_formed(*_of_credentials(value))
            elif not value.startswith(_PATHS):
                self._learn_formed(value)
        return HIDDEN.encode()

    def _learn_formed(self, *values: str) -> None:
        if all(value in self._values or len(value) < SHORTEST for value in values):
            return
        if self._formed_values < MOST_FORMED:
            self._formed_values += 1
            for value in values:
                self.learn(value)
        else:
            self.only_there += 1

    def _pair(self, item: Any) -> Any:
        """What a rule compares a header field with may be a password."""
        if isinstance(item, list | tuple) and len(item) == 2 and item[1] != "*":
            if _SECRET.fullmatch(str(item[0])):
                self.learn(str(item[1]).removesuffix("*"))
            self.count += 1
            return [item[0], HIDDEN]
        return item

    def _names_secret(self, name: str, value: str) -> bool:
        if name in _REFERENCES:
            # Somebody may have written the secret where its file belongs.
            return not value.startswith(_PATHS) and not self._is_file(value)
        if name in _NAMES:
            return False
        return is_secret(name)


def is_secret(name: str) -> bool:
    """Whether a key of this name has a secret for its value."""
    return bool(_SECRET.fullmatch(name))


def _of_credentials(value: str) -> Iterator[str]:
    """What is secret of a user and a password. The user alone is none: it is often the name of a service."""
    _, colon, password = value.partition(":")
    for each in (value, password) if colon else (value,):
        yield each
        yield unquote(each)
    if colon:
        yield f"{value}@"  # so that a password which is too short to be hidden everywhere is hidden here


def _spellings(value: str) -> Iterable[bytes]:
    raw = value.encode()
    yield raw
    yield json.dumps(value)[1:-1].encode()
    yield quote(value, safe="").encode()
    yield repr(value)[1:-1].encode()
    yield base64.b64encode(raw).rstrip(b"=")
    yield base64.urlsafe_b64encode(raw).rstrip(b"=")
