"""The table ``[controller]``, and what ``[identity] mode = "controller"`` needs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from hostproxy.mesh import addresses, names
from hostproxy.mesh.findings import Findings
from hostproxy.mesh.kinds import Duration, Text
from hostproxy.mesh.schema import Key, Table
from hostproxy.mesh.units import Wrong

if TYPE_CHECKING:
    from hostproxy.config import Config

OPTIONAL_PATH = Text(what="a path", empty=True)
MINUTE = 60.0
MODE = "controller"  # of [identity]

_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")
_PORT = re.compile(r"[1-9][0-9]{0,4}")


class ControllerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The controller, and how this host knows it."""

    url: str = ""  # https://name:port
    ca_fingerprint: str = ""  # of its root: sha256:HEX
    ca_file: str = ""  # path
    join_token_file: str = ""  # path
    listen: str = "0.0.0.0:15009"
    interval: float = MINUTE

    @property
    def host(self) -> str:
        """The DNS name, or IP address, in the URL."""
        return self._netloc[0].strip("[]")

    @property
    def port(self) -> int:
        """The port in the URL."""
        return int(self._netloc[2])

    @property
    def _netloc(self) -> tuple[str, str, str]:
        return self.url.removeprefix("https://").rpartition(":")


def url(text: str) -> str:
    """Return where the controller is: ``https://NAME:PORT``. Raises :class:`Wrong`."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme != "https":
        raise Wrong("is not the address of a controller", 'write "https://name:15008"')
    host, colon, port = rest.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise Wrong("has no port", 'write "https://name:15008"')
    try:
        addresses.reachable_ip(rest)
    except Wrong:
        names.domain(host)
    return text


def fingerprint(text: str) -> str:
    """Return the fingerprint of a certificate, ``sha256:HEX``. Raises :class:`Wrong`."""
    if not _FINGERPRINT.fullmatch(text):
        plain = text.lower().replace(":", "").removeprefix("sha256")
        hint = f'did you mean "sha256:{plain}"?' if re.fullmatch("[0-9a-f]{64}", plain) else ""
        raise Wrong("is not a fingerprint", hint or 'it is "sha256:" and 64 hexadecimal digits')
    return text


CONTROLLER = Table(
    ControllerConfig,
    Key("url", Text(url, empty=True), "the controller: https://name:port"),
    Key(
        "ca_fingerprint",
        Text(fingerprint, empty=True),
        "the fingerprint of the controller's root, which comes with the token: how the first contact knows it",
    ),
    Key("ca_file", OPTIONAL_PATH, "the PEM file with the controller's root, instead of its fingerprint"),
    Key("join_token_file", OPTIONAL_PATH, "the file with the token that lets this host join, once"),
    Key("listen", Text(addresses.listening_ip), "where the controller brings policy to, with mutual TLS"),
    Key("interval", Duration(1.0, 60 * MINUTE), "how often the controller is asked whether there is something new"),
)


def check(config: Config, findings: Findings) -> None:
    """Note what can't be together with certificates and policy of a controller, and what is missing for it."""
    controller = config.controller
    if config.identity.mode != MODE:
        if controller.url:
            findings.warn(("controller", "url"), "does nothing", f'it is for [identity] mode = "{MODE}"')
        return
    if findings.document.has(("identity", "files")):
        findings.warn(("identity", "files"), "does nothing", 'it is for [identity] mode = "files"')
    if config.policy.path:
        hint = "apply it there: hostproxy-controller policy apply"
        findings.add(("policy", "path"), "is given, and policy comes from the controller", hint)
    if not controller.url and not findings.blames(("controller", "url")):
        findings.add(("controller", "url"), "is missing", f'[identity] mode = "{MODE}" needs a controller')
    given = [name for name in ("ca_fingerprint", "ca_file") if findings.document.has(("controller", name))]
    if len(given) == 2:
        findings.add(("controller", "ca_file"), "is given beside ca_fingerprint", "the root is known by one of them")
    elif not given:
        hint = "hostproxy-controller token create shows it"
        findings.add(("controller", "ca_fingerprint"), "is missing", f"the controller is known by it; {hint}")
