"""What RFC 9113 and RFC 7541 ask of a server, one row per rule: what is sent, what must come.

The rows cover what h2spec checks, in words of our own. Each is sent after a greeting that was
answered. A connection error may always stand for a stream error (RFC 9113 §5.4), and a malformed
request may be answered with 400 before its stream is reset (§8.1.1).
"""

import struct
from dataclasses import dataclass

from tests.e2e.http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME_MAX,
    PADDED,
    PRIORITIZED,
    WINDOW_MAX,
    Code,
    Kind,
    Setting,
    block,
    continuation,
    data,
    frame,
    headers,
    indexed,
    integer,
    literal,
    ping,
    reset,
    settings,
    window_update,
)


@dataclass(frozen=True, slots=True)
class Fatal:
    """The connection ends with GOAWAY and one of these codes."""

    codes: tuple[Code, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """Stream 1 is reset with one of these codes, or answered with 400 if *malformed*."""

    codes: tuple[Code, ...]
    malformed: bool = False
    stream: int = 1


@dataclass(frozen=True, slots=True)
class Answered:
    """These streams get a whole 200, and the connection goes on if it *stays*."""

    streams: tuple[int, ...] = (1,)
    stays: bool = True


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing comes of it: the connection goes on."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The head is too much, or wrong in itself: 400, 431, or an end of stream or connection."""


Expected = Fatal | Broken | Answered | Ignored | Refused

PROTOCOL = Fatal((Code.PROTOCOL_ERROR,))
SIZE = Fatal((Code.FRAME_SIZE_ERROR,))
COMPRESSION = Fatal((Code.COMPRESSION_ERROR,))
FLOW = Fatal((Code.FLOW_CONTROL_ERROR,))
CLOSED = Broken((Code.STREAM_CLOSED,))
REUSED = Broken((Code.STREAM_CLOSED, Code.PROTOCOL_ERROR))
"""A second head is both for a closed stream (§5.1) and of a number that was used (§5.1.1)."""
MALFORMED = Broken((Code.PROTOCOL_ERROR,), malformed=True)
ANSWERED = Answered()
IGNORED = Ignored()

PSEUDO = {":method": "GET", ":scheme": "http", ":authority": "cart", ":path": "/x"}
GET = block(PSEUDO)
POST = block({**PSEUDO, ":method": "POST"})
LONG = GET + literal("x-long", "a" * 20_000)
"""A block that needs more than one frame."""


def get(stream: int = 1) -> bytes:
    """Return a whole request."""
    return headers(stream, GET)


def post(stream: int = 1) -> bytes:
    """Return the head of a request whose body follows."""
    return headers(stream, POST, end=False)


def fields(*extra: tuple[str, str], **pseudo: str | None) -> bytes:
    """Return a whole request with pseudo-fields changed or left out, and more fields."""
    named = {f":{name}": value for name, value in pseudo.items()}
    pairs = [(name, value) for name, value in (PSEUDO | named).items() if value is not None]
    return headers(1, block([*pairs, *extra]))


def with_length(length: int | str, *bodies: bytes) -> bytes:
    """Return a request that says *length* and sends *bodies*."""
    head = POST + literal("content-length", str(length))
    parts = [data(1, body, end=False) for body in bodies[:-1]]
    return headers(1, head, end=False) + b"".join(parts) + data(1, bodies[-1])


def priority(stream: int, depends: int, length: int = 5) -> bytes:
    """Return a PRIORITY frame."""
    return frame(Kind.PRIORITY, 0, stream, struct.pack(">IB", depends, 15)[:length])


def goaway(stream: int, code: int) -> bytes:
    """Return a GOAWAY frame."""
    return frame(Kind.GOAWAY, 0, stream, struct.pack(">II", 0, code))


GENERIC: dict[str, tuple[bytes, Expected]] = {
    "a request without body": (get(), ANSWERED),
    "a request with a body": (post() + data(1, b"abc"), ANSWERED),
    "a body in several frames, one empty": (
        post() + data(1, b"a", end=False) + data(1, b"", end=False) + data(1, b"b"),
        ANSWERED,
    ),
    "a request with trailers": (
        post() + data(1, b"abc", end=False) + headers(1, literal("x-sum", "1")),
        ANSWERED,
    ),
    "HEAD": (fields(method="HEAD"), ANSWERED),
    "OPTIONS": (fields(method="OPTIONS"), ANSWERED),
    "several streams at once": (get(1) + get(3) + get(5), Answered((1, 3, 5))),
    "numbers of streams may be left out": (get(3) + get(9), Answered((3, 9))),
    "a padded body": (post() + frame(0, PADDED | END_STREAM, 1, b"\x03ab\0\0\0"), ANSWERED),
    "padding and nothing else": (
        post() + frame(0, PADDED, 1, b"\x02\0\0") + data(1, b"a"),
        ANSWERED,
    ),
    "a padded head with a priority": (
        frame(
            Kind.HEADERS,
            END_STREAM | END_HEADERS | PADDED | PRIORITIZED,
            1,
            b"\x02" + struct.pack(">IB", 0, 15) + GET + b"\0\0",
        ),
        ANSWERED,
    ),
    "a head in two frames": (headers(1, GET[:9], whole=False) + continuation(1, GET[9:]), ANSWERED),
    "a head in several frames": (
        headers(1, b"", whole=False)
        + b"".join(continuation(1, GET[at : at + 20], whole=False) for at in range(0, len(GET), 20))
        + continuation(1, b""),
        ANSWERED,
    ),
    "a head larger than a frame": (
        headers(1, LONG[:FRAME_MAX], whole=False) + continuation(1, LONG[FRAME_MAX:]),
        ANSWERED,
    ),
    "PRIORITY of an idle stream": (priority(1, 0) + get(1), ANSWERED),
    "PRIORITY of a closed stream": (get(1) + priority(1, 0) + get(3), Answered((1, 3))),
    "the other side opens its windows": (
        window_update(0, 1) + post() + window_update(1, 1) + data(1, b"a"),
        ANSWERED,
    ),
    "WINDOW_UPDATE and RST_STREAM of an ended stream": (
        get(1) + window_update(1, 1) + reset(1) + get(3),
        Answered((3,)),
    ),
}

FRAMES: dict[str, tuple[bytes, Expected]] = {
    "4.1 a frame of an unknown type": (frame(0xFA, 0, 0, b"any"), IGNORED),
    "4.1 unknown flags": (frame(Kind.PING, 0xFE, 0, bytes(8)), IGNORED),
    "4.1 the reserved bit of a stream's number": (
        frame(Kind.HEADERS, END_STREAM | END_HEADERS, 1 << 31 | 1, GET),
        ANSWERED,
    ),
    "4.2 DATA of the largest size": (post() + data(1, bytes(FRAME_MAX)), ANSWERED),
    "4.2 DATA too large": (
        post() + data(1, bytes(FRAME_MAX + 1)),
        Broken((Code.FRAME_SIZE_ERROR,)),
    ),
    "4.2 HEADERS too large": (headers(1, LONG), SIZE),
    "4.2 CONTINUATION too large": (
        headers(1, GET, whole=False) + continuation(1, bytes(FRAME_MAX + 1)),
        SIZE,
    ),
    "4.2 SETTINGS too large": (settings(*((0xFF, 0),) * (FRAME_MAX // 6 + 1)), SIZE),
    "4.3 a block that is no HPACK": (headers(1, b"\xff\xff\xff\xff\xff\xff\xff"), COMPRESSION),
    "4.3 a block that breaks off": (headers(1, GET + b"\x00\x05ab"), COMPRESSION),
    "4.3 PRIORITY within a block": (
        headers(1, GET, whole=False) + priority(1, 0) + continuation(1, b""),
        PROTOCOL,
    ),
    "4.3 DATA within a block": (headers(1, GET, whole=False) + data(1), PROTOCOL),
    "4.3 HEADERS of another stream within a block": (
        headers(1, GET, whole=False) + get(3),
        PROTOCOL,
    ),
    "4.3 an unknown frame within a block": (
        headers(1, GET, whole=False) + frame(0xFA, 0, 0) + continuation(1, b""),
        PROTOCOL,
    ),
    "5.5 an unknown frame on a stream": (post() + frame(0xFA, 0, 1, b"any") + data(1), ANSWERED),
    "6.1 DATA on stream 0": (data(0, b"a"), PROTOCOL),
    "6.1 padding as long as DATA": (post() + frame(0, PADDED, 1, b"\x03ab"), PROTOCOL),
    "6.1 padded DATA without a length": (post() + frame(0, PADDED, 1, b""), SIZE),
    "6.2 HEADERS on stream 0": (get(0), PROTOCOL),
    "6.2 padding as long as HEADERS": (
        frame(Kind.HEADERS, END_STREAM | END_HEADERS | PADDED, 1, bytes([len(GET) + 1]) + GET),
        PROTOCOL,
    ),
    "6.3 PRIORITY on stream 0": (priority(0, 1), PROTOCOL),
    "6.3 PRIORITY of four bytes": (priority(1, 0, 4), Broken((Code.FRAME_SIZE_ERROR,))),
    "6.4 RST_STREAM on stream 0": (reset(0), PROTOCOL),
    "6.4 RST_STREAM of an idle stream": (reset(1), PROTOCOL),
    "6.4 RST_STREAM of three bytes": (post() + frame(Kind.RST_STREAM, 0, 1, bytes(3)), SIZE),
    "6.4 RST_STREAM of five bytes": (post() + frame(Kind.RST_STREAM, 0, 1, bytes(5)), SIZE),
    "6.5 an acknowledgement with a payload": (frame(Kind.SETTINGS, ACK, 0, bytes(6)), SIZE),
    "6.5 SETTINGS on a stream": (frame(Kind.SETTINGS, 0, 1, bytes(6)), PROTOCOL),
    "6.5 SETTINGS of three bytes": (frame(Kind.SETTINGS, 0, 0, bytes(3)), SIZE),
    "6.5.2 ENABLE_PUSH of 2": (settings((Setting.ENABLE_PUSH, 2)), PROTOCOL),
    "6.5.2 a window too large": (settings((Setting.INITIAL_WINDOW_SIZE, 1 << 31)), FLOW),
    "6.5.2 frames too small": (settings((Setting.MAX_FRAME_SIZE, FRAME_MAX - 1)), PROTOCOL),
    "6.5.2 frames too large": (settings((Setting.MAX_FRAME_SIZE, 1 << 24)), PROTOCOL),
    "6.5.2 an unknown setting": (settings((0xFF, 1)), IGNORED),
    "6.5.2 one setting twice": (
        settings((Setting.INITIAL_WINDOW_SIZE, 1), (Setting.INITIAL_WINDOW_SIZE, 70_000)) + get(),
        ANSWERED,
    ),
    "6.5.2 no streams of the server": (
        settings((Setting.MAX_CONCURRENT_STREAMS, 0)) + get(),
        ANSWERED,
    ),
    "6.6 PUSH_PROMISE of a client": (
        frame(Kind.PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + GET),
        PROTOCOL,
    ),
    "6.7 PING": (ping(), IGNORED),
    "6.7 an answer to no PING": (frame(Kind.PING, ACK, 0, b"whatever"), IGNORED),
    "6.7 PING on a stream": (frame(Kind.PING, 0, 1, bytes(8)), PROTOCOL),
    "6.7 PING of six bytes": (ping(bytes(6)), SIZE),
    "6.8 GOAWAY on a stream": (goaway(1, 0), PROTOCOL),
    "6.8 GOAWAY of four bytes": (frame(Kind.GOAWAY, 0, 0, bytes(4)), SIZE),
    "6.9 WINDOW_UPDATE by 0": (window_update(0, 0), PROTOCOL),
    "6.9 WINDOW_UPDATE of a stream by 0": (
        post() + window_update(1, 0),
        Broken((Code.PROTOCOL_ERROR,)),
    ),
    "6.9 WINDOW_UPDATE of three bytes": (frame(Kind.WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    "6.9.1 the connection's window too large": (window_update(0, WINDOW_MAX), FLOW),
    "6.9.1 a stream's window too large": (
        post() + window_update(1, WINDOW_MAX) + window_update(1, WINDOW_MAX),
        Broken((Code.FLOW_CONTROL_ERROR,)),
    ),
    "6.9.2 a new setting makes a window too large": (
        post() + window_update(1, WINDOW_MAX - 65_535) + settings((4, 65_536)),
        FLOW,
    ),
    "6.10 CONTINUATION on stream 0": (
        headers(1, GET, whole=False) + continuation(0, b""),
        PROTOCOL,
    ),
    "6.10 CONTINUATION of another stream": (
        headers(1, GET, whole=False) + continuation(3, b""),
        PROTOCOL,
    ),
    "6.10 CONTINUATION after a whole head": (post() + continuation(1, GET), PROTOCOL),
    "6.10 CONTINUATION after a head in two frames": (
        headers(1, GET, end=False, whole=False) + continuation(1, b"") + continuation(1, b""),
        PROTOCOL,
    ),
    "6.10 CONTINUATION after DATA": (
        post() + data(1, b"a", end=False) + continuation(1, GET),
        PROTOCOL,
    ),
    "7 GOAWAY with an unknown code": (get() + goaway(0, 0xFF), Answered(stays=False)),
    "7 RST_STREAM with an unknown code": (post() + reset(1, 0xFF) + get(3), Answered((3,))),
}

STREAMS: dict[str, tuple[bytes, Expected]] = {
    "5.1 DATA on an idle stream": (data(1, b"a"), PROTOCOL),
    "5.1 WINDOW_UPDATE of an idle stream": (window_update(1, 1), PROTOCOL),
    "5.1 CONTINUATION on an idle stream": (continuation(1, GET), PROTOCOL),
    "5.1 DATA after the end": (get() + data(1, b"a"), CLOSED),
    "5.1 HEADERS after the end": (get() + get(), REUSED),
    "5.1 CONTINUATION after the end": (get() + continuation(1, GET), PROTOCOL),
    "5.1 DATA after RST_STREAM": (post() + reset(1) + data(1, b"a"), CLOSED),
    "5.1 HEADERS after RST_STREAM": (post() + reset(1) + get(), REUSED),
    "5.1 CONTINUATION after RST_STREAM": (post() + reset(1) + continuation(1, GET), PROTOCOL),
    "5.1.1 a stream of an even number": (get(2), PROTOCOL),
    "5.1.1 a number below one that was used": (get(5) + get(3), PROTOCOL),
    "5.3 a stream that depends on itself": (
        frame(
            Kind.HEADERS,
            END_STREAM | END_HEADERS | PRIORITIZED,
            1,
            struct.pack(">IB", 1, 15) + GET,
        ),
        Broken((Code.PROTOCOL_ERROR,)),
    ),
    "8.1 a second head that ends nothing": (
        post() + headers(1, POST, end=False),
        MALFORMED,
    ),
    "8.1 trailers that do not end the stream": (
        post() + data(1, b"a", end=False) + headers(1, literal("x-sum", "1"), end=False),
        MALFORMED,
    ),
}

MESSAGES: dict[str, tuple[bytes, Expected]] = {
    "8.2.1 a name in upper case": (fields(("X-User", "a")), MALFORMED),
    "8.2.1 a space in a name": (fields(("x user", "a")), MALFORMED),
    "8.2.1 a colon in a name": (fields(("x:user", "a")), MALFORMED),
    "8.2.1 an empty name": (fields(("", "a")), MALFORMED),
    "8.2.1 NUL in a name": (fields(("x\0", "a")), MALFORMED),
    "8.2.1 NUL in a value": (fields(("x-user", "a\0b")), MALFORMED),
    "8.2.1 CR in a value": (fields(("x-user", "a\rb")), MALFORMED),
    "8.2.1 LF in a value": (fields(("x-user", "a\nb: c")), MALFORMED),
    "8.2.1 a value that begins with a space": (fields(("x-user", " a")), MALFORMED),
    "8.2.1 a value that ends with a tab": (fields(("x-user", "a\t")), MALFORMED),
    "8.2.2 connection": (fields(("connection", "keep-alive")), MALFORMED),
    "8.2.2 proxy-connection": (fields(("proxy-connection", "close")), MALFORMED),
    "8.2.2 keep-alive": (fields(("keep-alive", "1")), MALFORMED),
    "8.2.2 transfer-encoding": (fields(("transfer-encoding", "chunked")), MALFORMED),
    "8.2.2 upgrade": (fields(("upgrade", "websocket")), MALFORMED),
    "8.2.2 te of another value": (fields(("te", "trailers, deflate")), MALFORMED),
    "8.2.2 te of trailers": (fields(("te", "trailers")), ANSWERED),
    "8.2.3 several cookies": (fields(("cookie", "a=1"), ("cookie", "b=2")), ANSWERED),
    "8.3 an unknown pseudo-field": (fields((":test", "a")), MALFORMED),
    "8.3 a pseudo-field of answers": (fields((":status", "200")), MALFORMED),
    "8.3 a pseudo-field in trailers": (
        post() + data(1, b"a", end=False) + headers(1, literal(":method", "GET")),
        MALFORMED,
    ),
    "8.3 a pseudo-field after others": (
        headers(1, block([("x-user", "a"), *PSEUDO.items()])),
        MALFORMED,
    ),
    "8.3.1 no method": (fields(method=None), MALFORMED),
    "8.3.1 no scheme": (fields(scheme=None), MALFORMED),
    "8.3.1 no path": (fields(path=None), MALFORMED),
    "8.3.1 an empty path": (fields(path=""), MALFORMED),
    "8.3.1 a path without its slash": (fields(path="x"), MALFORMED),
    "8.3.1 a path with a space": (fields(path="/x y"), MALFORMED),
    "8.3.1 two methods": (fields((":method", "GET")), MALFORMED),
    "8.3.1 two schemes": (fields((":scheme", "http")), MALFORMED),
    "8.3.1 two paths": (fields((":path", "/x")), MALFORMED),
    "8.3.1 two authorities": (fields((":authority", "cart")), MALFORMED),
    "8.3.1 a user in the authority": (fields(authority="user@cart"), MALFORMED),
    "8.3.1 a method that is no token": (fields(method="GE T"), MALFORMED),
    "8.3.1 a host in place of the authority": (fields(("host", "cart"), authority=None), ANSWERED),
    "8.5 CONNECT with a path": (fields(method="CONNECT"), MALFORMED),
    "8.1.1 a body shorter than its length": (with_length(2, b"a"), MALFORMED),
    "8.1.1 a body longer than its length": (with_length(1, b"ab"), MALFORMED),
    "8.1.1 a longer body in two frames": (with_length(2, b"ab", b"c"), MALFORMED),
    "8.1.1 a length and no body": (fields(("content-length", "1"), method="POST"), MALFORMED),
    "8.1.1 a length that is no number": (with_length("x", b"a"), MALFORMED),
    "8.1.1 a body of its length": (with_length(3, b"a", b"bc"), ANSWERED),
}

HPACK: dict[str, tuple[bytes, Expected]] = {
    "2.3.2 a line that was kept is used again": (
        headers(1, GET + literal("x-user", "anna", keep=True)) + headers(3, GET + indexed(62)),
        Answered((1, 3)),
    ),
    "2.3.3 an index beyond the tables": (headers(1, GET + indexed(70)), COMPRESSION),
    "2.3.3 a name beyond the tables": (
        headers(1, GET + integer(70, 6, 0x40) + b"\x01a"),
        COMPRESSION,
    ),
    "4.2 a smaller table, said at the beginning": (headers(1, integer(0, 5, 0x20) + GET), ANSWERED),
    "4.2 a table's size in the middle of a block": (
        headers(1, GET + integer(0, 5, 0x20)),
        COMPRESSION,
    ),
    "5.1 a number without end": (headers(1, GET + b"\xff" + b"\x80" * 12 + b"\x01"), COMPRESSION),
    "5.2 a value in Huffman's code": (headers(1, GET + b"\x00\x01a\x81\x1f"), ANSWERED),
    "5.2 Huffman padding of more than seven bits": (
        headers(1, GET + b"\x00\x01a\x82\x1f\xff"),
        COMPRESSION,
    ),
    "5.2 Huffman padding of zeros": (headers(1, GET + b"\x00\x01a\x81\x18"), COMPRESSION),
    "5.2 Huffman's end of string": (
        headers(1, GET + b"\x00\x01a\x84\xff\xff\xff\xff"),
        COMPRESSION,
    ),
    "6.1 index 0": (headers(1, GET + indexed(0)), COMPRESSION),
    "6.2.3 a line never to be kept": (headers(1, GET + b"\x10\x01a\x01b"), ANSWERED),
    "6.3 a table larger than allowed": (headers(1, integer(65_537, 5, 0x20) + GET), COMPRESSION),
    "7.3 more fields than a head may have": (
        headers(1, GET + b"\x00\x01a\x01b" * 3000),
        Refused(),
    ),
}
