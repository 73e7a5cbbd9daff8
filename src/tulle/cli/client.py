"""The API client: `http.client` over the control plane's Unix socket, or over TCP.

The address is the user's (`--server`), or that of the mesh that the working folder
belongs to, whose data folder holds the socket and `server.json`.
Every call has a deadline; streams have one until they start.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from tulle.cli.exits import CommandError, ExitCode
from tulle.cli.home import home
from tulle.errors import InvalidResources, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SOCKET_NAME = "api.sock"
SERVER_FILE = "server.json"
ERROR_BODY_BYTES_MAX = 1 << 20
"""An error page longer than this is not from the control plane."""

STATUS_CODES: dict[int, ExitCode] = {
    400: ExitCode.REJECTED,
    401: ExitCode.FORBIDDEN,
    403: ExitCode.FORBIDDEN,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    410: ExitCode.CONFLICT,
    413: ExitCode.REJECTED,
    415: ExitCode.REJECTED,
    422: ExitCode.REJECTED,
    503: ExitCode.UNREACHABLE,
    504: ExitCode.TIMED_OUT,
}


@dataclass(frozen=True, slots=True)
class Server:
    """Where the control plane is, and why we think so."""

    socket_path: Path | None
    """None for an address of the network."""
    host: str
    port: int
    origin: str
    """What named the address: `--server`, or a data folder."""

    @property
    def address(self) -> str:
        """The address as the user would write it."""
        if self.socket_path is not None:
            return f"unix:{self.socket_path}"
        return f"http://{self.host}:{self.port}"


def find_server(address: str | None) -> Server:
    """Return the server at *address*, or that of the nearest data folder."""
    if address is not None:
        return _parse_address(address)
    data = home()
    if data.is_dir():
        return _server_of(data)
    raise CommandError(
        "no mesh runs here",
        code=ExitCode.UNREACHABLE,
        where=f"there is no folder {data}",
        hint='start one with "tulle demo" or "tulle up", or name a control plane with --server',
    )


def _parse_address(text: str) -> Server:
    if text.startswith(("unix:", "/", ".")):
        path = Path(text.removeprefix("unix://").removeprefix("unix:"))
        return Server(path, "localhost", 0, "--server or TULLE_SERVER")
    parts = urlsplit(text if "//" in text else f"http://{text}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "http" or not parts.hostname or port is None:
        raise CommandError(
            f'"{text}" is not the address of a control plane',
            code=ExitCode.USAGE,
            hint="write unix:PATH or http://HOST:PORT",
        )
    return Server(None, parts.hostname, port, "--server or TULLE_SERVER")


def _server_of(data: Path) -> Server:
    try:
        facts = json.loads((data / SERVER_FILE).read_bytes())
    except FileNotFoundError:
        facts = {}
    path = Path(facts.get("socket") or data / SOCKET_NAME)
    return Server(path if path.is_absolute() else data / path, "localhost", 0, f"the folder {data}")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket; the path may be longer than a socket address allows."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect by way of the folder's descriptor, which keeps the address short."""
        folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)


class ApiClient:
    """Calls to one control plane; a connection per call."""

    def __init__(self, server: Server, *, timeout_s: float) -> None:
        """Talk to *server*, waiting at most *timeout_s* for each answer."""
        self.server = server
        self._timeout_s = timeout_s

    def get(self, path: str, query: Mapping[str, str | None] | None = None) -> Any:
        """Return the JSON at *path*; parameters that are None are left out."""
        return self._call("GET", path, query)

    def post(self, path: str, body: object) -> Any:
        """Send *body* as JSON and return the JSON of the answer."""
        return self._call("POST", path, None, body)

    def delete(self, path: str) -> Any:
        """Delete the object at *path* and return what the server says."""
        return self._call("DELETE", path, None)

    def text(self, path: str) -> str:
        """Return the body at *path* as text."""
        with self._exchange("GET", path) as (_, response):
            return response.read().decode()

    def lines(self, path: str, query: Mapping[str, str | None] | None = None) -> Iterator[Any]:
        """Yield the JSON lines of a stream until the server ends it."""
        with self._exchange("GET", path, query) as (connection, response):
            if connection.sock is not None:  # closed already when the whole answer is here
                connection.sock.settimeout(None)
            for line in response:
                if line.strip():
                    yield json.loads(line)

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None] | None = None,
        body: object = None,
    ) -> Any:
        with self._exchange(method, path, query, body) as (_, response):
            content = response.read()
        try:
            return json.loads(content) if content else None
        except ValueError as error:
            raise CommandError(
                "what answers is not a control plane",
                code=ExitCode.UNREACHABLE,
                where=f"{method} {path} at {self.server.address}",
                hint="name the control plane with --server",
            ) from error

    @contextlib.contextmanager
    def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None] | None = None,
        body: object = None,
    ) -> Iterator[tuple[http.client.HTTPConnection, http.client.HTTPResponse]]:
        """Yield a good answer and its connection, which is closed behind it."""
        headers = {"Accept": "application/json"}
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        token = os.environ.get("TULLE_TOKEN")
        if token and self.server.socket_path is None:
            headers["Authorization"] = f"Bearer {token}"
        with contextlib.closing(self._connection()) as connection:
            try:
                connection.request(method, quote(path) + _query(query or {}), content, headers)
                response = connection.getresponse()
                if response.status >= http.HTTPStatus.BAD_REQUEST:
                    answer = response.read(ERROR_BODY_BYTES_MAX)
                    raise refusal(response.status, answer, method, path)
                yield connection, response
            except TimeoutError as error:
                raise self._timed_out(method, path) from error
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from error

    def _connection(self) -> http.client.HTTPConnection:
        if self.server.socket_path is not None:
            return _UnixConnection(self.server.socket_path, self._timeout_s)
        return http.client.HTTPConnection(
            self.server.host, self.server.port, timeout=self._timeout_s
        )

    def _timed_out(self, method: str, path: str) -> CommandError:
        return CommandError(
            f"timed out after {self._timeout_s:g}s waiting for the control plane",
            code=ExitCode.TIMED_OUT,
            where=f"{method} {path} at {self.server.address}",
            hint="wait longer with --timeout, or run tulle check",
        )

    def _unreachable(self, error: Exception) -> CommandError:
        if isinstance(error, (http.client.IncompleteRead, ConnectionError)) and not errno_of(error):
            reason = "it closed the connection"
        else:
            reason = errno_of(error) or repr(error)
        return CommandError(
            f"cannot reach the control plane: {reason.lower()}",
            code=ExitCode.UNREACHABLE,
            where=f"{self.server.address} (from {self.server.origin})",
            hint='start a mesh with "tulle up", or name another control plane with --server',
        )


def errno_of(error: Exception) -> str:
    """Return the system's words for *error*; empty when it is not from the system."""
    return (error.strerror or "") if isinstance(error, OSError) else ""


def _query(query: Mapping[str, str | None]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return "?" + urlencode(given) if given else ""


def refusal(status: int, content: bytes, method: str, path: str) -> Exception:
    """Return the exception for an answer of *status* with *content*."""
    try:
        answer = json.loads(content)
    except ValueError:
        answer = {}
    violations = answer.get("violations")
    if violations:
        return InvalidResources(
            Violation(**{k: v for k, v in violation.items() if k in Violation._fields})
            for violation in violations
        )
    message = answer.get("message") or answer.get("error") or f"the server answered {status}"
    return CommandError(
        message,
        code=STATUS_CODES.get(status, ExitCode.NO),
        where=f"{method} {path}",
        hint=HINTS.get(status),
    )


HINTS: dict[int, str] = {
    401: "give a token in TULLE_TOKEN, or use the Unix socket on the server's machine",
    409: "read the object again and repeat the change",
    500: "the reason is in the log of the control plane",
}
