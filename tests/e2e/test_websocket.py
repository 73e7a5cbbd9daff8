"""WebSockets through two sidecars: by a switch of protocols, and on a stream of HTTP/2."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, Protocol, State
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_websocket
from websockets.typing import Subprotocol

from tests.e2e.http2_client import Http2, Stream
from tests.e2e.http2_frames import FRAME_MAX, Kind, Setting, block, data, headers
from tests.e2e.http_client import connect
from tests.e2e.mesh import HTTP, HTTP2, WEBSOCKET, Namespace, Workload

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def web(shop: Namespace) -> Workload:
    """A caller of `chat` and `cart`, on HTTP/1.1, and of `stream`, on HTTP/2; `cart` has no switch."""
    shop.service("chat")
    shop.service("cart")
    shop.service("stream", "http2")
    web = shop.add("web", outbound=("cart", "chat", "stream"))
    shop.add("cart-1", HTTP)
    shop.add("chat-1", WEBSOCKET)
    shop.add("stream-1", HTTP2)
    shop.settle()
    return web


@contextmanager
def switched(
    shop: Namespace, web: Workload, path: str, service: str = "chat", **options: Any
) -> Iterator[ClientConnection]:
    """A WebSocket on a connection of HTTP/1.1."""
    address = web.outbound(f"{shop.name}/{service}")
    with (
        connect(address) as plain,
        connect_websocket(f"ws://chat{path}", sock=plain, max_size=None, **options) as client,
    ):
        yield client


def test_messages_go_both_ways(shop: Namespace, web: Workload) -> None:
    with switched(shop, web, "/room?n=1") as client:
        assert client.response is not None
        assert client.response.headers["x-app"] == "chat-1"
        assert client.response.headers["x-query"] == "/room?n=1"
        messages: list[str | bytes] = ["", "größer", b"\0\1", "x" * 70_000, os.urandom(2_000_000)]
        for message in messages:
            client.send(message)
            assert client.recv() == message
        assert client.ping().wait(5)


def test_a_subprotocol_is_agreed_on(shop: Namespace, web: Workload) -> None:
    with switched(shop, web, "/", subprotocols=[Subprotocol("chat.v1")]) as client:
        assert client.subprotocol == "chat.v1"


def test_either_side_closes_with_its_code(shop: Namespace, web: Workload) -> None:
    with switched(shop, web, "/") as client:
        client.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "asked to")
    with switched(shop, web, "/") as client:
        client.close(4002)
        assert client.close_code == 4002


def test_a_refusal_is_the_programs_answer(shop: Namespace, web: Workload) -> None:
    with pytest.raises(InvalidStatus) as raised, switched(shop, web, "/refuse"):
        pass

    assert raised.value.response.status_code == 403
    assert raised.value.response.body == b"no\n"


def test_a_program_that_speaks_http_2_is_reached_by_a_switch(
    shop: Namespace, web: Workload
) -> None:
    # It says that there is no body, which has no place on a stream that stays open.
    length = {"content-length": "0"}
    with switched(shop, web, "/", "stream", additional_headers=length) as client:
        assert client.response is not None
        assert client.response.headers["x-app"] == "stream-1"
        for message in ["", "größer", "x" * 70_000]:
            client.send(message)
            assert client.recv() == message


class OnStream:
    """A WebSocket on a stream (RFC 8441 §5)."""

    def __init__(
        self,
        client: Http2,
        authority: str,
        path: str = "/",
        protocol: str = "websocket",
        **more: str,
    ) -> None:
        """Ask for it, or for another protocol, with *more* fields."""
        self._client = client
        self._protocol = Protocol(CLIENT, state=State.OPEN, max_size=None)
        fields = {
            ":method": "CONNECT",
            ":protocol": protocol,
            ":scheme": "http",
            ":authority": authority,
            ":path": path,
            "sec-websocket-version": "13",
            **more,
        }
        self.stream: Stream = client.open(fields, end=False)
        frames = client.frames()
        while self.stream.status is None and self.stream.reset is None:
            next(frames)

    def send(self, message: bytes) -> None:
        """Send one text."""
        self._protocol.send_text(message)
        self._flush()

    def _flush(self) -> None:
        for part in self._protocol.data_to_send():
            for at in range(0, len(part), FRAME_MAX):
                self._client.write(data(self.stream.number, part[at : at + FRAME_MAX], end=False))

    def recv(self) -> Frame:
        """Return the next frame of the conversation, put together."""
        while True:
            for came in self._client.frames():
                assert came.kind not in {Kind.GOAWAY, Kind.RST_STREAM}
                if came.kind == Kind.DATA:
                    self._protocol.receive_data(came.payload)
                    self._flush()  # an answer to a ping or to the end
                    break
            for event in self._protocol.events_received():
                assert isinstance(event, Frame)
                return event


@pytest.fixture
def client(web: Workload) -> Iterator[Http2]:
    """A connection to the proxy of the caller's sidecar."""
    with Http2(web.proxy) as client:
        yield client


def test_the_listener_offers_websockets_on_streams(client: Http2) -> None:
    next(client.frames())

    assert client.settings[Setting.ENABLE_CONNECT_PROTOCOL] == 1


@pytest.mark.parametrize("protocol", ["websocket", "WebSocket"])
@pytest.mark.parametrize("authority", ["chat", "stream"])
def test_messages_go_both_ways_on_a_stream(client: Http2, authority: str, protocol: str) -> None:
    socket = OnStream(client, authority, "/room?n=1", protocol)

    assert (socket.stream.status, socket.stream.headers["x-app"]) == (200, f"{authority}-1")
    of_http1 = {"sec-websocket-accept", "connection", "upgrade", "content-length"}
    assert not of_http1 & set(socket.stream.headers)
    for size in (0, 5, 70_000):
        socket.send(b"x" * size)
        answer = socket.recv()
        assert (answer.opcode, bytes(answer.data)) == (Opcode.TEXT, b"x" * size)
    assert client.get("chat", "/").status == 426  # other streams go on beside it


@pytest.mark.parametrize("authority", ["chat", "stream"])
def test_a_refusal_on_a_stream_is_the_programs_answer(client: Http2, authority: str) -> None:
    assert OnStream(client, authority, "/refuse").stream.status == 403


@pytest.mark.parametrize(
    "protocol", ["x\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: chat", "x y", "", "h2c", "TLS/1.0"]
)
def test_a_switch_to_what_could_hide_requests_is_refused(client: Http2, protocol: str) -> None:
    assert OnStream(client, "chat", "/", protocol).stream.status == 400
    assert client.get("chat", "/").status == 426


def test_a_length_cannot_swallow_the_next_request(client: Http2) -> None:
    asked = OnStream(client, "cart", "/do/status/200", **{"content-length": "35"})

    assert asked.stream.status == 400
    for path in ("/first", "/second"):
        assert json.loads(client.get("cart", path).body)["target"] == path


def test_a_success_without_a_switch_is_none(client: Http2) -> None:
    """On a stream any success would open the conversation (RFC 8441 §4)."""
    assert OnStream(client, "cart", "/").stream.status == 502


def test_the_end_of_a_stream_ends_the_conversation(client: Http2) -> None:
    socket = OnStream(client, "chat")
    socket.send(b"close")

    assert socket.recv().opcode == Opcode.CLOSE
    client.read(socket.stream)
    assert socket.stream.ended


def test_trailers_of_a_conversation_do_not_speak_for_the_mesh(client: Http2) -> None:
    socket = OnStream(client, "stream", "/trailers")
    own = {"x-forwarded-client-cert": "forged", "x-tulle-peer": "forged"}
    client.write(headers(socket.stream.number, block({"x-sum": "17", **own})))

    assert json.loads(bytes(socket.recv().data)) == {"x-sum": "17"}
    client.read(socket.stream)
    assert socket.stream.trailers == {"x-sum": "17"}
