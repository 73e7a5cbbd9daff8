"""HTTP/2 with prior knowledge, as little of it as asks one thing and reads the answer.

Fields are sent as literals without Huffman coding or index (RFC 7541 §6.2.2). Of the answer's
head only the status is read, which stands first as an entry of the static table.
"""

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from tests.e2e.http_client import connect, read_exactly

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
STATUSES = {0x88: 200, 0x89: 204, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}
WINDOW_MAX = 2**31 - 1


@dataclass(slots=True)
class Stream:
    """What came on one stream."""

    status: int | None = None
    body: bytes = b""
    ended: bool = False
    reset: bool = False


class Http2:
    """One connection."""

    def __init__(self, address: str) -> None:
        """Connect and greet."""
        self._socket: socket.socket = connect(address)
        settings = struct.pack(">HI", 4, WINDOW_MAX)
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings))
        self._socket.sendall(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW_MAX - 65535)))
        self._next = 1
        self.streams: dict[int, Stream] = {}

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self._socket.close()

    def send(
        self, method: str, authority: str, path: str, fields: Mapping[str, str], body: bytes = b""
    ) -> Stream:
        """Send a request and return its stream, whose answer `read` waits for."""
        number, self._next = self._next, self._next + 2
        self.streams[number] = Stream()
        pseudo = {":method": method, ":scheme": "http", ":authority": authority, ":path": path}
        block = b"".join(literal(name, value) for name, value in (pseudo | dict(fields)).items())
        flags = END_HEADERS | (0 if body else END_STREAM)
        self._socket.sendall(frame(HEADERS, flags, number, block))
        if body:
            self._socket.sendall(frame(DATA, END_STREAM, number, body))
        return self.streams[number]

    def get(self, authority: str, path: str, **fields: str) -> Stream:
        """GET and wait for the end of the answer."""
        stream = self.send("GET", authority, path, fields)
        self.read(stream)
        return stream

    def read(self, stream: Stream) -> None:
        """Take what comes until *stream* has ended."""
        while not (stream.ended or stream.reset):
            length, kind, flags, number = self._frame_head()
            payload = read_exactly(self._socket, length)
            if kind == SETTINGS and not flags & ACK:
                self._socket.sendall(frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                self._socket.sendall(frame(PING, ACK, 0, payload))
            elif number in self.streams:
                self._take(self.streams[number], kind, flags, payload)
            assert kind != GOAWAY, payload

    def _frame_head(self) -> tuple[int, int, int, int]:
        head = read_exactly(self._socket, 9)
        high, low, kind, flags, number = struct.unpack(">BHBBI", head)
        return (high << 16) | low, kind, flags, number

    def _take(self, stream: Stream, kind: int, flags: int, payload: bytes) -> None:
        if kind == HEADERS and stream.status is None:
            stream.status = STATUSES.get(payload[0], -1)
        elif kind == DATA:
            stream.body += payload
        elif kind == RST_STREAM:
            stream.reset = True
        stream.ended |= kind in {DATA, HEADERS} and bool(flags & END_STREAM)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one frame (RFC 9113 §4.1)."""
    length = len(payload)
    return struct.pack(">BHBBI", length >> 16, length & 0xFFFF, kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """Return one field line; neither part is longer than 126 bytes."""
    assert max(len(name), len(value)) < 127
    return bytes([0x10, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
