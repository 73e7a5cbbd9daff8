"""The rules of RFC 9113 and RFC 7541, at the listener for the program and at that for others."""

from collections.abc import Callable

import pytest

from tests.e2e.http2_cases import (
    FRAMES,
    GENERIC,
    HPACK,
    MESSAGES,
    STREAMS,
    Answered,
    Broken,
    Expected,
    Fatal,
    Ignored,
    Refused,
)
from tests.e2e.http2_client import Frame, Http2
from tests.e2e.http2_frames import ACK, PREFACE, Code, Kind, Setting, ping, settings
from tests.e2e.mesh import HTTP, HTTP2, Namespace

pytestmark = pytest.mark.e2e

SECONDS = 5.0
END = b"the end."
CASES = GENERIC | FRAMES | STREAMS | MESSAGES | HPACK
WRONG_CODE = "h2 ends the connection with PROTOCOL_ERROR, where the RFC has a code of its own"
FAILURES = dict.fromkeys(
    (
        "4.3 a block that is no HPACK",
        "4.3 a block that breaks off",
        "5.1 DATA after the end",
        "6.1 padded DATA without a length",
        "6.3 PRIORITY of four bytes",
        "6.4 RST_STREAM of three bytes",
        "6.4 RST_STREAM of five bytes",
        "6.5 an acknowledgement with a payload",
        "6.5 SETTINGS of three bytes",
        "6.5.2 a window too large",
        "6.7 PING of six bytes",
        "6.8 GOAWAY of four bytes",
        "6.9 WINDOW_UPDATE of three bytes",
        "2.3.3 an index beyond the tables",
        "2.3.3 a name beyond the tables",
        "4.2 a table's size in the middle of a block",
        "5.1 a number without end",
        "5.2 Huffman padding of more than seven bits",
        "5.2 Huffman padding of zeros",
        "5.2 Huffman's end of string",
        "6.1 index 0",
        "6.3 a table larger than allowed",
    ),
    WRONG_CODE,
) | {"8.3 a pseudo-field in trailers": "h2 drops it and takes the rest for trailers"}
"""Rules that are not kept, and why."""


@pytest.fixture(scope="module")
def addresses(shop: Namespace) -> dict[str, str]:
    """Where HTTP/2 is spoken: towards `cart`, on HTTP/1.1, and for `echo`, on HTTP/2."""
    shop.service("cart")
    web = shop.add("web")
    shop.add("cart-1", HTTP)
    echo = shop.add("echo-1", HTTP2)
    shop.settle()
    shop.apply("""
        apiVersion: tulle.dev/v1alpha1
        kind: PeerAuthentication
        metadata: {name: echo}
        spec: {selector: {matchLabels: {app: echo}}, mtls: {mode: PERMISSIVE}}
    """)
    return {"outbound": web.proxy, "inbound": echo.inbound}


@pytest.fixture(params=["outbound", "inbound"])
def address(addresses: dict[str, str], request: pytest.FixtureRequest) -> str:
    """One of them."""
    return addresses[request.param]


def greeted(address: str) -> Http2:
    """Return a connection whose greetings are exchanged."""
    wanted = (Setting.INITIAL_WINDOW_SIZE, 65_535)
    client = Http2(address, wanted, window=65_535, seconds=SECONDS)
    for came in client.frames():
        if came.kind == Kind.SETTINGS and came.flags & ACK:
            break
    return client


def wait_for(client: Http2, is_it: Callable[[Frame], bool]) -> None:
    """Read until *is_it* has come; nothing may end the connection before."""
    for came in client.frames():
        assert came.kind != Kind.GOAWAY or came.code == Code.NO_ERROR, Code(came.code)
        if is_it(came):
            return
    pytest.fail("the connection was closed")


def goes_on(client: Http2) -> None:
    """Whatever came before, a PING is answered."""
    client.write(ping(END))
    wait_for(client, lambda came: came.kind == Kind.PING and came.payload == END)


def ends(client: Http2, codes: tuple[Code, ...]) -> None:
    """GOAWAY tells one of *codes*, and the connection closes."""
    gone = [came.code for came in client.frames() if came.kind == Kind.GOAWAY]
    assert gone, "closed without GOAWAY"
    assert gone[-1] in codes, Code(gone[-1])


def breaks(client: Http2, expected: Broken) -> None:
    """The stream is reset, the connection ended, or a malformed request answered with 400."""
    for came in client.frames():
        if came.kind in {Kind.RST_STREAM, Kind.GOAWAY} and came.code != Code.NO_ERROR:
            assert came.kind == Kind.GOAWAY or came.stream == expected.stream
            assert came.code in expected.codes, Code(came.code)
            return
        stream = client.streams.get(expected.stream)
        if expected.malformed and stream and stream.status is not None:
            assert stream.status == 400
            return
    pytest.fail("the connection was closed without a reason")


def are_answered(client: Http2, streams: tuple[int, ...]) -> None:
    """Each stream gets a whole 200."""

    def is_ended(number: int) -> bool:
        return number in client.streams and client.streams[number].ended

    wait_for(client, lambda came: came.kind == Kind.RST_STREAM or all(map(is_ended, streams)))
    assert [client.streams[number].status for number in streams] == [200] * len(streams)


def is_refused(client: Http2) -> None:
    """The head is answered with an error, or ends its stream or the connection."""
    for came in client.frames():
        if came.kind in {Kind.RST_STREAM, Kind.GOAWAY}:
            return
        if came.kind == Kind.HEADERS:
            assert client.streams[1].status in {400, 431}
            return


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(
            *CASES[name],
            marks=[pytest.mark.xfail(reason=FAILURES[name])] if name in FAILURES else [],
            id=name,
        )
        for name in CASES
    ],
)
def test_a_rule_is_kept(address: str, sent: bytes, expected: Expected) -> None:
    with greeted(address) as client:
        client.write(sent)
        match expected:
            case Fatal(codes):
                ends(client, codes)
            case Broken():
                breaks(client, expected)
            case Answered(streams, stays):
                are_answered(client, streams)
                if stays:
                    goes_on(client)
            case Ignored():
                goes_on(client)
            case Refused():
                is_refused(client)


@pytest.mark.parametrize("name", [name for name in FAILURES if FAILURES[name] == WRONG_CODE])
def test_where_the_code_is_another_the_connection_still_ends(address: str, name: str) -> None:
    """As much as h2spec asks for: it takes a closed connection for any connection error."""
    with greeted(address) as client:
        client.write(CASES[name][0])
        ends(client, (Code.PROTOCOL_ERROR,))


def test_the_server_greets_first_with_its_bounds(address: str) -> None:
    with Http2(address, seconds=SECONDS) as client:
        first = next(client.frames())

    assert (first.kind, first.flags, first.stream) == (Kind.SETTINGS, 0, 0)
    assert 100 <= client.settings[Setting.MAX_CONCURRENT_STREAMS] <= 1024
    assert client.settings[Setting.MAX_HEADER_LIST_SIZE] == 65_536


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(PREFACE.replace(b"SM", b"XX"), id="another preface"),
        pytest.param(
            PREFACE + ping(b"too soon"),
            id="no SETTINGS",
            marks=pytest.mark.xfail(reason="h2 takes any frame for the first"),
        ),
    ],
)
def test_a_wrong_greeting_ends_the_connection(address: str, start: bytes) -> None:
    with Http2(address, seconds=SECONDS, greets=False) as client:
        client.write(start + settings() + ping(END))
        assert not any(came.kind == Kind.PING for came in client.frames())
