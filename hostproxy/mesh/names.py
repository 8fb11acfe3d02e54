"""What an operator may call things: the syntax of identities, with messages for somebody who writes a file.

Names become parts of SPIFFE identities, TLS server names, file names and metric labels; :mod:`.spiffe` holds
the allow-list of each, and here nothing is added to it but the words that no identity contains.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from hostproxy.mesh import spiffe
from hostproxy.mesh.units import Wrong

# What an operator calls a version, a zone, a tag: Debian versions and image tags are among them.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~:/@=-]{0,127}")


def service(text: str) -> str:
    """Return the name of a service. Raises :class:`Wrong`."""
    return _checked(spiffe.check_service, text, "the name of a service")


def host(text: str) -> str:
    """Return the name of a host. Raises :class:`Wrong`."""
    return _checked(spiffe.check_host, text, "the name of a host")


def subset(text: str) -> str:
    """Return the name of a subset of a service. Raises :class:`Wrong`."""
    return _checked(spiffe.check_subset, text, "the name of a subset")


def datacenter(text: str) -> str:
    """Return the name of a datacenter. Raises :class:`Wrong`."""
    return _checked(spiffe.check_datacenter, text, "the name of a datacenter")


def trust_domain(text: str) -> str:
    """Return the name of a trust domain. Raises :class:`Wrong`."""
    return _checked(spiffe.check_trust_domain, text, "the name of a trust domain")


def domain(text: str) -> str:
    """Return a DNS domain of one or more labels. Raises :class:`Wrong`."""
    return _checked(spiffe.check_trust_domain, text, "a domain")


def word(text: str) -> str:
    """Return a version, zone, tag or label. Raises :class:`Wrong`."""
    if not _WORD.fullmatch(text):
        rule = "at most 128 ASCII letters, digits and ._+~:/@=- with a letter or digit first"
        raise Wrong("is not a word", f"it has {rule}")
    return text


def _checked(check: Callable[[str], None], text: str, what: str) -> str:
    try:
        check(text)
    except spiffe.InvalidName as error:
        lower = text.lower()
        try:
            check(lower)
        except spiffe.InvalidName:
            raise Wrong(f"is not {what}", str(error)) from None
        raise Wrong(f"is not {what}", f'did you mean "{lower}"?') from None
    return text
