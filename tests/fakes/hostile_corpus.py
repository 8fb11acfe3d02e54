"""Several hundred messages, hostile and legal, with the verdict of a strict proxy on each.

``REQUESTS`` are bytes of a client, ``RESPONSES`` bytes of an origin. They are data: the tests replay them in
one write, byte by byte and split at line ends, against a codec or through whole proxies.
"""

from __future__ import annotations

from tests.fakes.cases import RequestCase, ResponseCase
from tests.fakes.corpus import chunks, fields, framing, lines, pipelines, responses

REQUESTS_BY_TOPIC: dict[str, list[RequestCase]] = {
    "framing": framing.REQUESTS,
    "chunks": chunks.REQUESTS,
    "lines": lines.REQUESTS,
    "fields": fields.REQUESTS,
    "pipelines": pipelines.REQUESTS,
}
REQUESTS: list[RequestCase] = [case for cases in REQUESTS_BY_TOPIC.values() for case in cases]
RESPONSES: list[ResponseCase] = responses.RESPONSES
