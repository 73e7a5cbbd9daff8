"""Calls through a sidecar's HTTP proxy, one connection at a time, and raw bytes where it matters."""

import http.client
import json
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

CALL_SECONDS = 20.0

Body = bytes | Iterable[bytes] | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def reason(self) -> str | None:
        """Why the mesh answered in place of the program."""
        return self.headers.get("x-tulle-reason")

    @property
    def app(self) -> str | None:
        """Which program answered."""
        return self.headers.get("x-app")

    def json(self) -> Any:
        """Return the body, which is JSON."""
        return json.loads(self.body)


class Client:
    """Keeps one connection to *address*; `http://cart/path` names a service."""

    def __init__(self, address: str) -> None:
        """Connect when first used."""
        self._connection = http.client.HTTPConnection(address, timeout=CALL_SECONDS)

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self._connection.close()

    def get(self, url: str, **headers: str) -> Answer:
        """GET *url*; `x_user` is the header x-user."""
        return self.call("GET", url, headers=_dashed(headers))

    def call(
        self, method: str, url: str, body: Body = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request and read its whole answer."""
        self._connection.request(method, url, body, dict(headers or {}))
        response = self._connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())


def call(address: str, method: str, url: str, body: Body = None, **headers: str) -> Answer:
    """Send one request on a connection of its own."""
    with Client(address) as client:
        return client.call(method, url, body, _dashed(headers))


def get(address: str, url: str, **headers: str) -> Answer:
    """GET *url* on a connection of its own."""
    return call(address, "GET", url, None, **headers)


def connect(address: str, seconds: float = CALL_SECONDS) -> socket.socket:
    """Return a connection whose every operation is bounded."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=seconds)


def exchange(address: str, data: bytes) -> bytes:
    """Send *data* and return everything that comes until the other side closes."""
    received = b""
    with connect(address) as connection:
        connection.sendall(data)
        try:
            while part := connection.recv(65536):
                received += part
        except ConnectionResetError:
            return received
    return received


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """Return what comes, up to and with *end*."""
    received = b""
    while not received.endswith(end):
        part = connection.recv(1)
        assert part, f"closed after {received!r}"
        received += part
    return received


def read_exactly(connection: socket.socket, length: int) -> bytes:
    """Return the next *length* bytes."""
    parts = bytearray()
    while len(parts) < length:
        part = connection.recv(min(length - len(parts), 1 << 20))
        assert part, f"closed after {len(parts)} of {length} bytes"
        parts += part
    return bytes(parts)


def status_of(head: bytes) -> int:
    """Return the status of the first answer in *head*."""
    found = re.match(rb"HTTP/1\.1 (\d{3})", head)
    assert found, head[:200]
    return int(found[1])


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
