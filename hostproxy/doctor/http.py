"""One question over HTTP, answered within a time or not at all."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from hostproxy.unixhttp import UnixConnection

SIZE = 16 * 1024 * 1024  # bytes of an answer


class NoAnswer(Exception):
    """Nothing came. The message says why."""


class Answer(NamedTuple):
    """What came."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    asked: float  # Unix seconds
    seconds: float  # that it took

    def json(self) -> Any:
        """The body; None when it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def ask(
    url: str,
    path: str,
    timeout: float,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    context: ssl.SSLContext | None = None,
) -> Answer:
    """GET a path, or POST ``body``, at ``http://``, ``https://`` or ``unix:``. Raises :class:`NoAnswer`."""
    connection: http.client.HTTPConnection
    scheme, _, rest = url.partition(":")
    if scheme == "unix":
        connection = UnixConnection(rest, timeout)
    else:
        host, _, port = rest.removeprefix("//").rpartition(":")
        if scheme == "https":
            connection = http.client.HTTPSConnection(host.strip("[]"), int(port), timeout=timeout, context=context)
        else:
            connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout)
    asked, start = time.time(), time.monotonic()
    try:
        connection.request("GET" if body is None else "POST", path, body, dict(headers or {}))
        response = connection.getresponse()
        content = response.read(SIZE + 1)
        if len(content) > SIZE:
            raise NoAnswer(f"the answer has more than {SIZE // (1024 * 1024)} MiB")
    except TimeoutError:
        raise NoAnswer(f"no answer within {timeout:.1f} s") from None
    except ssl.SSLCertVerificationError as error:
        raise NoAnswer(f"its certificate is refused: {error.verify_message}") from None
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(getattr(error, "strerror", None) or str(error) or repr(error)) from None
    finally:
        connection.close()
    found = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status, found, content, asked, time.monotonic() - start)
