"""What nobody else may see, taken out of what is handed on.

Three ways, one behind the other, so that a secret has to get past all of them: by the name of its key; by its value,
wherever else that turns up, in these spellings of it that logs and documents have; and by its form.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "(hidden)"
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

_FORMS = (
    re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(rb"(?i)(?<=authorization: )[^\r\n\"]+"),
    re.compile(rb"(?i)(?<=x-consul-token: )[^\r\n\"]+"),
    re.compile(rb"(?i)(?<=\bbearer )[A-Za-z0-9._~+/=-]+"),
    re.compile(rb"(?i)(?<=\bbasic )[A-Za-z0-9+/=]{6,}"),
    re.compile(rb"(?i)(?:(?<=token=)|(?<=secret=)|(?<=password=)|(?<=passwd=)|(?<=passphrase=)|(?<=key=))[^\s&\"',;]+"),
    re.compile(rb"(?<=://)[^\s/@\"]{1,256}:[^\s/@\"]{1,256}(?=@)"),
)


class Redaction:
    """Takes secrets out. It remembers each that it has met, so what names them is to be shown to it first."""

    def __init__(self, known: Iterable[str] = (), is_file: Callable[[str], bool] = lambda name: False) -> None:
        """``known`` are values that are hidden wherever they are; ``is_file`` tells names of files from others."""
        self.count = 0  # of what was taken out
        self._is_file = is_file
        self._values: set[str] = set()
        self._pattern: re.Pattern[bytes] | None = None
        for value in known:
            self.learn(value)

    def learn(self, value: str) -> None:
        """Hide this value from now on."""
        if len(value) >= SHORTEST and value not in self._values:
            self._values.add(value)
            self._pattern = None

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
        return value

    def text(self, content: bytes) -> bytes:
        """A text without secrets."""
        if self._values:
            if self._pattern is None:
                # The longest first: one may begin like another.
                spellings = {each for value in self._values for each in _spellings(value)}
                ordered = sorted(spellings, key=len, reverse=True)
                self._pattern = re.compile(b"|".join(map(re.escape, ordered)))
            content, count = self._pattern.subn(HIDDEN.encode(), content)
            self.count += count
        for form in _FORMS:
            content, count = form.subn(HIDDEN.encode(), content)
            self.count += count
        return content

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
            return "/" not in value and not self._is_file(value)
        if name in _NAMES:
            return False
        return bool(_SECRET.fullmatch(name))


def _spellings(value: str) -> Iterable[bytes]:
    raw = value.encode()
    yield raw
    yield json.dumps(value)[1:-1].encode()
    yield quote(value, safe="").encode()
    yield repr(value)[1:-1].encode()
    yield base64.b64encode(raw).rstrip(b"=")
    yield base64.urlsafe_b64encode(raw).rstrip(b"=")
