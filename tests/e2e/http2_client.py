"""A client of HTTP/2 with prior knowledge that hides nothing of what is sent and what comes."""

import socket
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from hpack import Decoder

from tests.e2e.http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PREFACE,
    WINDOW_MAX,
    Kind,
    Setting,
    block,
    data,
    frame,
    headers,
    settings,
    window_update,
)
from tests.e2e.http_client import CALL_SECONDS, connect


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame that came."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of a RST_STREAM or GOAWAY."""
        start = 4 if self.kind == Kind.GOAWAY else 0
        (code,) = struct.unpack_from(">I", self.payload, start)
        return int(code)


@dataclass(slots=True)
class Stream:
    """What came on one stream."""

    number: int
    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None
    """The code it was reset with."""

    @property
    def status(self) -> int | None:
        """The answer's status, once its head has come."""
        return int(self.headers[":status"]) if self.headers else None


class Http2:
    """One connection, with windows as large as can be unless *wanted* says otherwise."""

    def __init__(
        self,
        address: str,
        *wanted: tuple[int, int],
        window: int = WINDOW_MAX,
        buffer: int = 0,
        seconds: float = CALL_SECONDS,
        greets: bool = True,
    ) -> None:
        """Connect and greet, unless the test does that itself.

        *buffer* bounds what the kernel takes for us; 0 leaves it to the kernel.
        """
        self._socket: socket.socket = connect(address, seconds)
        if buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._decoder = Decoder(max_header_list_size=1 << 20)
        self._received = bytearray()
        self._next = 1
        self.streams: dict[int, Stream] = {}
        self.settings: dict[int, int] = {}
        greeting = settings(*(wanted or ((Setting.INITIAL_WINDOW_SIZE, WINDOW_MAX),)))
        if window > 65_535:
            greeting += window_update(0, window - 65_535)
        if greets:
            self.write(PREFACE + greeting)

    def __enter__(self) -> Self:
        """Close at the end of the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self._socket.close()

    def write(self, sent: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(sent)

    def write_while_taken(self, sent: bytes, seconds: float) -> bool:
        """Send bytes; return whether all went in before the other side took none in *seconds*."""
        before = self._socket.gettimeout()
        self._socket.settimeout(seconds)
        try:
            self._socket.sendall(sent)
        except (TimeoutError, ConnectionError):
            return False
        else:
            return True
        finally:
            self._socket.settimeout(before)

    def discard(self) -> None:
        """Take what comes and look at none of it, until the other side closes."""
        try:
            while self._socket.recv(1 << 16):
                pass
        except OSError:
            return

    def shut(self) -> None:
        """Say that no more is sent."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the other side closed already

    def open(self, fields: Mapping[str, str], *, end: bool = True) -> Stream:
        """Send a head of these fields and return its stream."""
        stream = Stream(self._next)
        self._next += 2
        self.streams[stream.number] = stream
        self.write(headers(stream.number, block(fields), end=end))
        return stream

    def send(
        self, method: str, authority: str, path: str, fields: Mapping[str, str], body: bytes = b""
    ) -> Stream:
        """Send a request and return its stream, whose answer `read` waits for."""
        pseudo = {":method": method, ":scheme": "http", ":authority": authority, ":path": path}
        stream = self.open(pseudo | dict(fields), end=not body)
        if body:
            self.write(data(stream.number, body))
        return stream

    def get(self, authority: str, path: str, **fields: str) -> Stream:
        """GET and wait for the end of the answer."""
        stream = self.send("GET", authority, path, fields)
        self.read(stream)
        return stream

    def read(self, stream: Stream) -> None:
        """Take what comes until *stream* has ended."""
        while not stream.ended and stream.reset is None:
            came = next(self.frames(), None)
            assert came is not None, f"closed before stream {stream.number} ended"
            assert came.kind != Kind.GOAWAY, came.payload

    def frames(self) -> Iterator[Frame]:
        """Yield each frame that comes, answered and noted, until the other side closes."""
        blocks: deque[Frame] = deque()
        while (came := self._frame()) is not None:
            if came.kind in {Kind.SETTINGS, Kind.PING} and not came.flags & ACK:
                self._answer(came)
            elif came.kind in {Kind.HEADERS, Kind.CONTINUATION}:
                blocks.append(came)
                if came.flags & END_HEADERS:
                    self._take_head(blocks)
                    blocks.clear()
            elif came.stream in self.streams:
                self._take(self.streams[came.stream], came)
            yield came

    def _frame(self) -> Frame | None:
        head = self._read(9)
        if head is None:
            return None
        high, low, kind, flags, number = struct.unpack(">BHBBI", head)
        payload = self._read((high << 16) | low)
        return None if payload is None else Frame(kind, flags, number, payload)

    def _read(self, length: int) -> bytes | None:
        """Return the next *length* bytes; None if the other side closed before."""
        while len(self._received) < length:
            try:
                part = self._socket.recv(1 << 16)
            except ConnectionResetError:
                part = b""
            if not part:
                return None
            self._received += part
        out = bytes(self._received[:length])
        del self._received[:length]
        return out

    def _answer(self, came: Frame) -> None:
        if came.kind == Kind.SETTINGS:
            self.settings |= struct.iter_unpack(">HI", came.payload)
        answer = came.payload if came.kind == Kind.PING else b""
        try:
            self.write(frame(came.kind, ACK, 0, answer))
        except ConnectionError:
            return  # what it said before it closed is still to be read

    def _take_head(self, blocks: deque[Frame]) -> None:
        stream = self.streams.setdefault(blocks[0].stream, Stream(blocks[0].stream))
        whole = b"".join(part.payload for part in blocks)
        fields = {str(name): str(value) for name, value in self._decoder.decode(whole)}
        if stream.headers and not stream.headers[":status"].startswith("1"):
            stream.trailers = fields
        else:
            stream.headers = fields
        stream.ended |= bool(blocks[0].flags & END_STREAM)

    def _take(self, stream: Stream, came: Frame) -> None:
        if came.kind == Kind.DATA:
            stream.body += came.payload
            stream.ended |= bool(came.flags & END_STREAM)
        elif came.kind == Kind.RST_STREAM:
            stream.reset = came.code
