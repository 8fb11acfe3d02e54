"""Who somebody is, and how a service is named in a TLS handshake.

An identity is a SPIFFE ID of two segments, ``spiffe://TRUST_DOMAIN/service/NAME`` or
``spiffe://TRUST_DOMAIN/host/NAME``. Between hosts a service is asked for by the TLS server name
``SERVICE.DATACENTER.TRUST_DOMAIN``. Because the names of one appear in the other, every name is made of
DNS labels: lower-case ASCII letters, digits and inner hyphens. This is narrower than the SPIFFE ID
specification, so whatever that refuses (user, port, query, fragment, percent-encoding, upper case in the
trust domain, empty and dot segments, other scripts) has no way in: there is one spelling of each identity,
and two strings that differ are two identities.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

ALPN_HTTP1 = "http/1.1"
ALPN_HTTP2 = "h2"
ALPN_TCP = "hostproxy-tcp"  # bytes as they come, no message syntax
ALPN_PROTOCOLS = (ALPN_HTTP1, ALPN_HTTP2, ALPN_TCP)

MAX_LABEL = 63  # bytes, RFC 1035 section 2.3.4
MAX_SERVER_NAME = 253  # bytes of a DNS name in text, RFC 1035 section 2.3.4
# A server name puts two labels and two dots before the trust domain, and has to fit for every service:
# 253 - 2 * (63 + 1). SPIFFE-ID section 2.1 would allow 255.
MAX_TRUST_DOMAIN = MAX_SERVER_NAME - 2 * (MAX_LABEL + 1)
MAX_ID = 2048  # bytes, SPIFFE-ID section 2.3

# "host" names the host's own certificate and "ca" the authority's file in the directory of certificates.
RESERVED_SERVICE_NAMES = frozenset({"host", "ca"})

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_LABEL_PATTERN = re.compile(_LABEL)
_DOTTED_PATTERN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_RULE = "lower-case letters, digits and inner hyphens"

# controller and operator have certificates for the interface of the controller; nobody takes them on a mesh port.
Kind = Literal["service", "host", "controller", "operator"]


class InvalidName(ValueError):
    """A name or identity that is not written as the mesh writes it; the message says which rule it breaks."""


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """One identity. ``str()`` gives its URI; building or parsing a wrong one raises :class:`InvalidName`."""

    trust_domain: str
    kind: Kind
    name: str

    def __post_init__(self) -> None:
        check_trust_domain(self.trust_domain)
        if self.kind == "service":
            check_service(self.name)
        elif self.kind in ("host", "controller", "operator"):
            check_host(self.name)
        else:
            raise InvalidName(f"an identity is of a service, host, controller or operator, not of {self.kind!r:.80}")

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{self.kind}/{self.name}"

    @classmethod
    def service(cls, trust_domain: str, name: str) -> SpiffeId:
        """The identity of a service."""
        return cls(trust_domain, "service", name)

    @classmethod
    def host(cls, trust_domain: str, name: str) -> SpiffeId:
        """The identity of a host itself."""
        return cls(trust_domain, "host", name)

    @classmethod
    def parse(cls, uri: str) -> SpiffeId:
        """Read a URI. SPIFFE-ID section 2: nothing but scheme, trust domain and path may be there."""
        # Measured first, so that nothing below works on, or quotes, more than this.
        if len(uri) > MAX_ID:
            raise InvalidName(f"a SPIFFE ID has at most {MAX_ID} bytes, not {len(uri)}")
        scheme, separator, rest = uri.partition("://")
        if scheme != "spiffe" or not separator:
            raise InvalidName(f"a SPIFFE ID starts with spiffe://, unlike {_quoted(uri)}")
        parts = rest.split("/")
        if len(parts) != 3:
            raise InvalidName(
                "a SPIFFE ID of the mesh is spiffe://TRUST_DOMAIN/service/NAME or spiffe://TRUST_DOMAIN/host/NAME,"
                f" unlike {_quoted(uri)}"
            )
        trust_domain, kind, name = parts
        return cls(trust_domain, kind, name)  # type: ignore[arg-type]  # __post_init__ refuses another kind


def host_dns_name(trust_domain: str, host: str) -> str:
    """The DNS name that certificates of services have beside their URI, to tell which host they are for."""
    return f"{host}.host.{trust_domain}"


def host_of_dns_name(trust_domain: str, name: str) -> SpiffeId | None:
    """The host that such a name tells; ``None`` for other names."""
    host = name.removesuffix(f".host.{trust_domain}")
    if host == name:
        return None
    try:
        return SpiffeId.host(trust_domain, host)
    except InvalidName:
        return None


@dataclass(frozen=True, slots=True)
class ServerName:
    """What a TLS client asks for: ``SERVICE.DATACENTER.TRUST_DOMAIN``. ``str()`` gives the dotted name."""

    service: str
    datacenter: str
    trust_domain: str

    def __post_init__(self) -> None:
        check_service(self.service)
        check_datacenter(self.datacenter)
        check_trust_domain(self.trust_domain)

    def __str__(self) -> str:
        return f"{self.service}.{self.datacenter}.{self.trust_domain}"

    @classmethod
    def parse(cls, name: str) -> ServerName:
        """Read a dotted name: two labels, and the trust domain, which may have dots itself."""
        if len(name) > MAX_SERVER_NAME:
            raise InvalidName(f"a server name has at most {MAX_SERVER_NAME} bytes, not {len(name)}")
        parts = name.split(".", 2)
        if len(parts) != 3:
            raise InvalidName(
                f"a server name of the mesh is SERVICE.DATACENTER.TRUST_DOMAIN, unlike {_quoted(name)}"
            )
        return cls(*parts)


def check_trust_domain(name: str) -> None:
    """Raise :class:`InvalidName` unless this can name a mesh."""
    _check_dotted("trust domain", name, MAX_TRUST_DOMAIN)


def check_host(name: str) -> None:
    """Raise :class:`InvalidName` unless this can name a host; it may be its full DNS name."""
    _check_dotted("host", name, MAX_SERVER_NAME)


def check_service(name: str) -> None:
    """Raise :class:`InvalidName` unless this can name a service."""
    _check_label("service", name)
    if name in RESERVED_SERVICE_NAMES:
        raise InvalidName(f"a service cannot be named {name!r}: that name is taken by a file of certificates")


def check_subset(name: str) -> None:
    """Raise :class:`InvalidName` unless this can name a subset of a service, which is asked for as SUBSET.SERVICE."""
    _check_label("subset", name)


def check_datacenter(name: str) -> None:
    """Raise :class:`InvalidName` unless this can name a datacenter."""
    _check_label("datacenter", name)


def _check_label(what: str, name: str) -> None:
    if not _LABEL_PATTERN.fullmatch(name):
        raise InvalidName(
            f"the name of a {what} is {_RULE}, at most {MAX_LABEL} of them, not {_quoted(name)}"
        )


def _check_dotted(what: str, name: str, limit: int) -> None:
    # The length first: it bounds what the pattern has to look at.
    if len(name) > limit:
        raise InvalidName(f"the name of a {what} has at most {limit} bytes, not {len(name)}")
    if not _DOTTED_PATTERN.fullmatch(name):
        raise InvalidName(f"the name of a {what} is labels of {_RULE} with dots between, not {_quoted(name)}")


def _quoted(text: str) -> str:
    """Quote what somebody else wrote: printable ASCII only, and short, so that it cannot forge a log line."""
    shown = ascii(text)
    return shown if len(shown) <= 80 else f"{shown[:76]}...{shown[-1]}"
