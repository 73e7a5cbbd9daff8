"""The bytes of HTTP/2 and HPACK, written by hand so that a test can write wrong ones, too."""

import struct
from collections.abc import Iterable, Mapping
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20
WINDOW_MAX = 2**31 - 1
FRAME_MAX = 16_384
"""Largest payload unless the other side allows more, and this one never does."""


class Kind(IntEnum):
    """Types of frames (RFC 9113 §6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """Error codes (RFC 9113 §7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    """Parameters of SETTINGS (RFC 9113 §6.5.2, RFC 8441 §3)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame (RFC 9113 §4.1)."""
    length = len(payload)
    return struct.pack(">BHBBI", length >> 16, length & 0xFFFF, kind, flags, stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(Kind.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window_update(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def reset(stream: int, code: int = Code.CANCEL) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(Kind.RST_STREAM, 0, stream, struct.pack(">I", code))


def ping(payload: bytes = b"01234567") -> bytes:
    """Return a PING frame."""
    return frame(Kind.PING, 0, 0, payload)


def data(stream: int, payload: bytes = b"", *, end: bool = True) -> bytes:
    """Return a DATA frame."""
    return frame(Kind.DATA, END_STREAM if end else 0, stream, payload)


def headers(stream: int, block: bytes, *, end: bool = True, whole: bool = True) -> bytes:
    """Return a HEADERS frame; without *whole* the block goes on in CONTINUATION."""
    flags = (END_STREAM if end else 0) | (END_HEADERS if whole else 0)
    return frame(Kind.HEADERS, flags, stream, block)


def continuation(stream: int, block: bytes, *, whole: bool = True) -> bytes:
    """Return a CONTINUATION frame."""
    return frame(Kind.CONTINUATION, END_HEADERS if whole else 0, stream, block)


def integer(value: int, bits: int, above: int = 0) -> bytes:
    """Return a number in a prefix of *bits*, the bits *above* set (RFC 7541 §5.1)."""
    full = (1 << bits) - 1
    if value < full:
        return bytes([above | value])
    value -= full
    out = bytearray([above | full])
    while value >= 0x80:
        out.append(0x80 | (value & 0x7F))
        value >>= 7
    return bytes([*out, value])


def indexed(index: int) -> bytes:
    """Return a field line that is in a table (RFC 7541 §6.1)."""
    return integer(index, 7, 0x80)


def literal(name: str, value: str, *, keep: bool = False) -> bytes:
    """Return a field line in full, that joins the dynamic table to *keep* it (§6.2)."""
    start = b"\x40" if keep else b"\x00"
    return start + _text(name) + _text(value)


def block(fields: Mapping[str, str] | Iterable[tuple[str, str]]) -> bytes:
    """Return a header block of literals."""
    pairs = fields.items() if isinstance(fields, Mapping) else fields
    return b"".join(literal(name, value) for name, value in pairs)


def _text(value: str) -> bytes:
    return integer(len(value.encode()), 7) + value.encode()
