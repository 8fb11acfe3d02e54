"""Who calls: what is known of a client's connection before its first byte is read."""

from __future__ import annotations


class Caller:
    """The calling side of a connection, the same for all its requests.

    Outbound, ``name`` is the local service (or "host") in whose name calls go out; inbound it is what the peer's
    certificate proved.
    """

    __slots__ = ("address", "identity_line", "name", "protocol", "refusal", "secure", "service", "uri")

    def __init__(
        self,
        name: str,
        uri: str,
        address: bytes,
        protocol: bytes = b"http",
        service: str = "",
        identity_line: bytes = b"",
        secure: bool = False,
        refusal: str = "",
    ) -> None:
        self.name = name
        self.uri = uri  # SPIFFE ID
        self.address = address  # IP address of the other end; empty for a Unix socket
        self.protocol = protocol  # what was spoken on this connection: http or https
        self.service = service  # the only service that this connection leads to; empty: requests name it
        self.identity_line = identity_line  # tells the instance who calls, with its CRLF; empty outbound
        self.secure = secure  # it came over mutual TLS
        self.refusal = refusal  # why it may call nothing: it is nobody; empty: it may
