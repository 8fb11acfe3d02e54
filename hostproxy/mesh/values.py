"""Values that rules and routes ask of a request, in header fields and in the query: which ones meet which.

What is wanted is exact, a prefix when it ends with ``*``, or ``*`` alone when anything will do, even nothing.
"""

from __future__ import annotations

from hostproxy.mesh.rules import PRESENT

_PRESENT = PRESENT.encode()

Values = dict[bytes, list[bytes]]  # by name, in the request's order


def of_fields(fields: bytes) -> Values:
    """The values in field lines, each with its CRLF; names in lower case.

    To CGI and its like ``X_Role`` and ``X-Role`` are one name, so here as well.
    """
    values: Values = {}
    for line in fields.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            values.setdefault(name.lower().replace(b"_", b"-"), []).append(value.strip(b" \t"))
    return values


def of_query(query: bytes) -> Values:
    """The values of a query's parameters, as they were sent: nothing is decoded. Without ``=`` the value is empty."""
    values: Values = {}
    for parameter in query.split(b"&"):
        if parameter:
            name, _, value = parameter.partition(b"=")
            values.setdefault(name, []).append(value)
    return values


def meets(value: bytes, wanted: bytes) -> bool:
    """Whether one value is what is wanted."""
    return value.startswith(wanted[:-1]) if wanted.endswith(b"*") else value == wanted


def all_meet(values: Values, name: bytes, wanted: bytes) -> bool:
    """Whether there is a value of this name, and every one is what is wanted."""
    found = values.get(name)
    if found is None:
        return False
    return wanted == _PRESENT or all(meets(value, wanted) for value in found)
