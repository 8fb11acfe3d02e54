"""The tables ``[[service]]``: what runs, or calls, on this host."""

from __future__ import annotations

import pwd
import re

import msgspec

from hostproxy.mesh import addresses, names
from hostproxy.mesh.kinds import Duration, Flag, Integer, ListOf, MapOf, Text
from hostproxy.mesh.policy import PROTOCOLS
from hostproxy.mesh.schema import Key, Table
from hostproxy.mesh.units import Wrong

# What Consul takes as a key of service metadata. Some it reserves, and the ones that hostproxy writes itself are not
# to be given twice.
_META_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_META_OF_CONSUL = "consul-"
RESERVED_META = frozenset({"mesh_port", "version", "zone", "protocol", "socket", "registered_by"})
_PATH = re.compile(r"/[!-~]{0,1023}")
RUN_BY = ("hostproxy", "consul")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\@-]*)?\.(service|scope)")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
MAX_UID = 2**32 - 2


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """How the health of each instance of a service is asked for. Times are seconds."""

    http: str = ""  # a path; 2xx is healthy
    tcp: bool = False  # connecting is enough
    interval: float = 2.0
    timeout: float = 1.0
    healthy: int = 2  # so many answers in a row
    unhealthy: int = 3
    run_by: str = RUN_BY[0]

    @property
    def wanted(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.http) or self.tcp


class LocalService(msgspec.Struct, frozen=True, kw_only=True):
    """A service with instances, or callers, on this host."""

    name: str
    instances: tuple[str, ...] = ()
    protocol: str = PROTOCOLS[0]
    tags: tuple[str, ...] = ()
    version: str = ""
    weight: int = 1
    meta: dict[str, str] = {}
    register: bool = True
    check: Check = Check()
    unit: str = ""  # "": callers are not known by it
    user: str = ""  # the same; a name or a number
    uid: int | None = None  # of user; None also when there is no such user

    @property
    def known_by_kernel(self) -> bool:
        """Whether callers are this service only when the kernel says so."""
        return bool(self.unit or self.user)


def unit(text: str) -> str:
    """Return the name of a systemd unit with processes, or of a template. Raises :class:`Wrong`."""
    if len(text) > 255 or not _UNIT.fullmatch(text):
        fixed = f"{text}.service"
        hint = f'did you mean "{fixed}"?' if _UNIT.fullmatch(fixed) else 'it is like "payments.service"'
        raise Wrong("is not the name of a service or scope of systemd", hint)
    return text


def user(text: str) -> str:
    """Return the name or number of a user. Raises :class:`Wrong`."""
    if not _USER.fullmatch(text) or (text.isdecimal() and int(text) > MAX_UID):
        raise Wrong("is not a user", "give a name or a number")
    return text


def user_id(text: str) -> int | None:
    """Return the number of a user; ``None`` when this host has none of that name. May ask the network (NSS)."""
    if text.isdecimal():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid if text else None
    except KeyError:
        return None


def check_path(text: str) -> str:
    """Return the path, and query, that a check asks for. Raises :class:`Wrong`."""
    if not _PATH.fullmatch(text) or "#" in text:
        raise Wrong("is not a path", 'it starts with "/" and has printable ASCII characters, at most 1024')
    return text


def meta_key(text: str) -> str:
    """Return a key of metadata. Raises :class:`Wrong`."""
    if not _META_KEY.fullmatch(text):
        raise Wrong("is not a key of metadata", "it has at most 128 ASCII letters, digits, _ and -")
    if text.startswith(_META_OF_CONSUL):
        raise Wrong("is reserved by Consul", f'choose a name that does not start with "{_META_OF_CONSUL}"')
    if text in RESERVED_META:
        raise Wrong("is written by hostproxy itself", "choose another name")
    return text


def meta_value(text: str) -> str:
    """Return a value of metadata. Raises :class:`Wrong`."""
    if len(text.encode()) > 512:
        raise Wrong("is more than the 512 bytes that a value of metadata can have")
    return text


CHECK = Table(
    Check,
    Key("http", Text(check_path, empty=True), "the path that is asked for; a status of 200 to 299 is healthy"),
    Key("tcp", Flag(), "whether connecting is enough"),
    Key("interval", Duration(0.1, 3600.0), "the time between two tries"),
    Key("timeout", Duration(0.01, 60.0), "the time for one"),
    Key("healthy", Integer(1, 100), "so many good tries in a row make it healthy"),
    Key("unhealthy", Integer(1, 100), "so many bad tries in a row make it unhealthy"),
    Key("run_by", Text(choices=RUN_BY), "who runs it: hostproxy, or the agent of Consul"),
)

SERVICE = Table(
    LocalService,
    Key("name", Text(names.service), "the name of the service"),
    Key(
        "instances",
        ListOf(Text(addresses.reachable), most=256),
        "the addresses of its instances on this host; none for a service that only calls others",
    ),
    Key("protocol", Text(choices=PROTOCOLS), "what its instances speak: http, http2, grpc or tcp"),
    Key("tags", ListOf(Text(names.word), most=64), "words that policy can pick instances by"),
    Key("version", Text(names.word, empty=True), "the version of its instances"),
    Key("weight", Integer(1, 1000), "its share of the traffic beside other hosts"),
    Key("meta", MapOf(meta_key, Text(meta_value), most=32), "more that policy can pick instances by"),
    Key("register", Flag(), "whether it is registered where discovery allows that"),
    Key(
        "unit",
        Text(unit, empty=True),
        'the systemd unit whose processes call as this service; "payments@.service" is all of its instances',
    ),
    Key("user", Text(user, empty=True), "the user who calls as this service; beside unit, only within it"),
    Key("check", CHECK, "how the health of its instances is asked for"),
)
