"""The interface for operators, as commands ask it: over the controller's Unix socket, or by HTTPS from elsewhere.

Nothing here imports Twisted: a command is done before a reactor would be there.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import msgspec

from controller import config
from controller.cli.run import DEFAULT_PATH
from hostproxy.mesh import addresses, names, storage
from hostproxy.mesh.document import Invalid
from hostproxy.mesh.messages import Problem
from hostproxy.mesh.units import Wrong, parse_duration

DEFAULT_SOCKET = "/run/hostproxy-controller/operator.sock"
DEFAULT_TIMEOUT = 30.0  # seconds; a large policy is checked and applied within a few
ANSWER_SIZE = 64 * 1024 * 1024  # bytes; 10,000 hosts have about 6 MB
TOKEN_SIZE = 4096
PEM_SIZE = 64 * 1024

Document = dict[str, Any]
_URL = re.compile(r"https://(\[[0-9A-Fa-f:.]+\]|[^:/\[\]]+):([1-9][0-9]{0,4})/?")
_TOKEN = re.compile(r"[!-~]+")


class Misused(Exception):
    """The command line cannot be meant so; the text says what to write."""


class Unreachable(Exception):
    """Nothing useful came from the controller; the text says from which, and what to do."""


class Refused(Exception):
    """The controller says no; the text says why."""

    def __init__(self, text: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.problems = problems


class Client:
    """Asks one controller. Each call has a connection of its own, but within :meth:`held`."""

    def __init__(
        self, address: str, connect: Callable[[], http.client.HTTPConnection], timeout: float, token: str = ""
    ) -> None:
        """``timeout`` in seconds; ``token`` is of an operator, empty where something else says who asks."""
        self.address = address
        self._connect = connect
        self._timeout = timeout
        self._token = token
        self._held: http.client.HTTPConnection | None = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """For who asks again and again: one connection, and one line about it in the audit log."""
        self._held = self._connect()
        try:
            yield
        finally:
            self._held.close()
            self._held = None

    def get(self, path: str, **query: object) -> Document:
        """Read something. Raises :class:`Unreachable`, :class:`Refused`."""
        return self.call("GET", path, query=query)

    def post(self, path: str, body: object = None, **query: object) -> Document:
        """Have something done. Raises :class:`Unreachable`, :class:`Refused`."""
        return self.call("POST", path, body, query)

    def call(self, method: str, path: str, body: object = None, query: Document | None = None) -> Document:
        """One request and the document that it is answered with. ``path`` is made of checked names."""
        target = f"{path}?{urlencode(query)}" if query else path
        content = b"" if body is None else msgspec.json.encode(body)
        status, answer = self._exchange(method, target, content)
        if status in (200, 201):
            try:
                return msgspec.json.decode(answer, type=Document)
            except msgspec.DecodeError:
                raise self._unreachable("its answer is not JSON: is this a hostproxy-controller?") from None
        try:
            problem = msgspec.json.decode(answer, type=Problem)
        except msgspec.DecodeError:
            raise self._unreachable(f"answered with status {status}: is this a hostproxy-controller?") from None
        if status == 429 or status >= 500:
            raise self._unreachable("; ".join((problem.error, *problem.problems)))
        raise Refused(problem.error, problem.problems)

    def _exchange(self, method: str, target: str, content: bytes) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        if content:
            headers["Content-Type"] = "application/json"
        connection = self._held or self._connect()
        keep = False
        try:
            connection.request(method, target, content if method != "GET" else None, headers)
            response = connection.getresponse()
            answer = response.read(ANSWER_SIZE + 1)
            keep = connection is self._held
        except TimeoutError:
            doubt = "" if method == "GET" else "; whether it was done is not known, so look before you repeat it"
            raise self._unreachable(f"no answer within {self._timeout:g} s; --timeout waits longer{doubt}") from None
        except (ConnectionRefusedError, FileNotFoundError):
            raise self._unreachable("nobody listens: is hostproxy-controller running, and this its address?") from None
        except PermissionError:
            raise self._unreachable("not permitted: try as root, or as the controller's own user") from None
        except ssl.SSLCertVerificationError as error:
            raise self._unreachable(f"its certificate is not believed: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise self._unreachable(f"no TLS with it ({error.reason}): was the client certificate refused?") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(f"no valid answer ({error!r}): is this a hostproxy-controller?") from None
        finally:
            if not keep:
                connection.close()
        if len(answer) > ANSWER_SIZE:
            raise self._unreachable(f"its answer has more than {ANSWER_SIZE} bytes")
        return response.status, answer

    def _unreachable(self, text: str) -> Unreachable:
        return Unreachable(f"{self.address}: {text}")


def options(parser: argparse.ArgumentParser, default: Any = None) -> None:
    """Say which controller is asked, and as whom. With ``argparse.SUPPRESS`` what is not given is left as it is."""
    group = parser.add_argument_group("the controller")

    def add(*flags: str, **keywords: Any) -> None:
        group.add_argument(*flags, **{"default": default, **keywords})

    add("-c", "--config", metavar="FILE", help=f"controller.toml that names the operators' socket ({DEFAULT_PATH})")
    add("--controller", metavar="ADDRESS", help=f"unix:/path or https://name:port (unix:{DEFAULT_SOCKET})")
    add("--ca", metavar="FILE", help="for https: PEM file with the root of the mesh")
    add("--token-file", metavar="FILE", help="for https: file with an operator's token, mode 0600")
    add("--certificate", metavar="FILE", help="for https: PEM file with an operator's certificate and its chain")
    add("--key", metavar="FILE", help="for https: PEM file with its key, mode 0600")
    timeout = DEFAULT_TIMEOUT if default is None else default
    add("--timeout", metavar="S", type=_seconds, default=timeout, help=f"seconds to wait ({DEFAULT_TIMEOUT:g})")


def named(arguments: argparse.Namespace) -> bool:
    """Whether somebody said which controller is to be asked."""
    return arguments.config is not None or arguments.controller is not None


def connect(arguments: argparse.Namespace) -> Client:
    """The controller that was asked for. Nothing is sent yet. Raises :class:`Misused`."""
    if arguments.config is not None and arguments.controller is not None:
        raise Misused("--config and --controller both say which controller is meant: leave one out")
    address: str = arguments.controller if arguments.controller is not None else _configured(arguments.config)
    if address.startswith("https://"):
        return _remote(address, arguments)
    try:
        if not addresses.is_unix(address):
            raise Wrong("is not the address of a controller", 'write "unix:/path" or "https://name:15008"')
        addresses.reachable(address)
    except Wrong as wrong:
        raise Misused(f"--controller {address} {wrong}") from None
    for option in ("ca", "token_file", "certificate", "key"):
        if getattr(arguments, option) is not None:
            flag = option.replace("_", "-")
            raise Misused(f"--{flag} is for --controller https://...; the Unix socket knows who asks")
    path = address.removeprefix(addresses.UNIX)
    return Client(address, lambda: _UnixConnection(path, arguments.timeout), arguments.timeout)


def _configured(path: str | None) -> str:
    """The socket in controller.toml. Raises :class:`Misused`."""
    if path is None and not os.access(DEFAULT_PATH, os.R_OK):
        return addresses.UNIX + DEFAULT_SOCKET
    try:
        return addresses.UNIX + config.load(path or DEFAULT_PATH).serving.operator_socket
    except Invalid as invalid:
        problems = "\n".join(str(problem) for problem in invalid.problems)
        raise Misused(f"{problems}\nname the controller with --controller instead") from None


def _remote(url: str, arguments: argparse.Namespace) -> Client:
    match = _URL.fullmatch(url)
    if match is None or int(match[2]) > 65535:
        raise Misused(f"--controller {url} is not https://name:port")
    if arguments.ca is None:
        raise Misused("--ca is needed with https: the root of the mesh, root.pem of hostproxy-controller init")
    if (arguments.certificate is None) != (arguments.key is None):
        raise Misused("--certificate and --key belong together")
    if (arguments.token_file is None) == (arguments.certificate is None):
        raise Misused("with https, either --token-file or --certificate and --key say who asks")
    host, port, timeout = match[1].strip("[]"), int(match[2]), arguments.timeout
    context = _context(arguments)
    token = _token(arguments.token_file) if arguments.token_file is not None else ""
    return Client(
        url, lambda: http.client.HTTPSConnection(host, port, timeout=timeout, context=context), timeout, token
    )


def _context(arguments: argparse.Namespace) -> ssl.SSLContext:
    """Only the root of the mesh is believed, and the name in the controller's certificate is checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    path = arguments.ca
    try:
        context.load_verify_locations(path)
        if arguments.key is not None:
            path = arguments.key
            storage.read(path, PEM_SIZE, private=True)
            path = arguments.certificate
            storage.read(path, PEM_SIZE)
            context.load_cert_chain(path, arguments.key, password=_no_password)
    except storage.Unusable as error:
        raise Misused(_unusable(path, error)) from None
    except ssl.SSLError as error:
        raise Misused(f"{path}: cannot be used ({error.reason or error})") from None
    except (OSError, ValueError) as error:
        raise Misused(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return context


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal, also where there is nobody.
    raise ValueError("the key is encrypted, which is not supported")


def _token(path: str) -> str:
    try:
        token = storage.read(path, TOKEN_SIZE, private=True).decode("ascii", "replace").strip()
    except storage.Unusable as error:
        raise Misused(_unusable(path, error)) from None
    if not _TOKEN.fullmatch(token):
        raise Misused(f"{path}: is not an operator's token alone")
    return token


def _unusable(path: str, error: storage.Unusable) -> str:
    return f"{path}: {error}; {error.hint}" if error.hint else f"{path}: {error}"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


# Values on command lines


def checked(check: Callable[[str], str]) -> Callable[[str], str]:
    """A check of an operator's file, as the type of an argument."""

    def value(text: str) -> str:
        try:
            return check(text)
        except Wrong as wrong:
            raise argparse.ArgumentTypeError(f"{text!r:.100} {wrong}") from None

    return value


host = checked(names.host)
service = checked(names.service)


def duration(text: str) -> float:
    """Seconds of "250ms" or "15m", as the type of an argument."""
    try:
        return parse_duration(text)
    except Wrong as wrong:
        raise argparse.ArgumentTypeError(f"{text!r:.100} {wrong}") from None


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.0 < value <= 3600.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600 seconds")
    return value
