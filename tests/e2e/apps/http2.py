"""An HTTP/2 server that echoes; a WebSocket opened by extended CONNECT sends back its messages.

It is made of libraries of the protocols alone, so that what it says on the wire is theirs.
"""

import asyncio
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, Protocol, State

NAME = os.environ["NAME"]


@dataclass
class Stream:
    """One request, and what is still to be sent on its stream."""

    fields: dict[str, str]
    trailers: dict[str, str] = field(default_factory=dict)
    socket: Protocol | None = None
    length: int = 0
    waiting: bytearray = field(default_factory=bytearray)
    ends: bool = False


class Conversation(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        offered = {SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}
        self.h2.local_settings = Settings(client=False, initial_values=offered)
        self.streams: dict[int, Stream] = {}

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.h2.initiate_connection()
        transport.write(self.h2.data_to_send())

    def data_received(self, received: bytes) -> None:
        try:
            for event in self.h2.receive_data(received):
                with suppress(StreamClosedError):  # it was reset by what came right after
                    self.happened(event)
        except ProtocolError:
            self.transport.close()
        self.transport.write(self.h2.data_to_send())

    def happened(self, event: Any) -> None:
        """Answer what came."""
        if isinstance(event, RequestReceived):
            self.begin(event.stream_id, named(event.headers))
        elif isinstance(event, DataReceived):
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.take(event.stream_id, event.data)
        elif isinstance(event, TrailersReceived):
            self.told(event.stream_id, named(event.headers))
        elif isinstance(event, StreamEnded):
            self.end(event.stream_id)
        elif isinstance(event, StreamReset):
            self.streams.pop(event.stream_id, None)
        elif isinstance(event, WindowUpdated):
            for number in list(self.streams):
                self.flush(number)

    def begin(self, number: int, fields: dict[str, str]) -> None:
        stream = self.streams[number] = Stream(fields)
        if fields.get(":protocol") == "websocket":
            if fields[":path"].startswith("/refuse"):
                self.h2.send_headers(number, [(":status", "403")], end_stream=True)
                del self.streams[number]
                return
            stream.socket = Protocol(SERVER, state=State.OPEN)
            self.h2.send_headers(number, [(":status", "200"), ("x-app", NAME)])

    def take(self, number: int, received: bytes) -> None:
        stream = self.streams.get(number)
        if stream is None:
            return
        stream.length += len(received)
        if stream.socket is None:
            return
        stream.socket.receive_data(received)
        for event in stream.socket.events_received():
            if isinstance(event, Frame) and event.opcode == Opcode.TEXT:
                stream.socket.send_text(event.data)
            stream.ends |= isinstance(event, Frame) and event.opcode == Opcode.CLOSE
        stream.waiting += b"".join(stream.socket.data_to_send())
        self.flush(number)

    def told(self, number: int, trailers: dict[str, str]) -> None:
        """Keep what the trailers say; in a conversation, say it at once."""
        stream = self.streams[number]
        stream.trailers = trailers
        if stream.socket is not None:
            stream.socket.send_text(json.dumps(trailers).encode())
            stream.waiting += b"".join(stream.socket.data_to_send())

    def end(self, number: int) -> None:
        """The request is whole."""
        stream = self.streams.get(number)
        if stream is None or stream.fields[":path"] == "/hang":
            return
        if stream.socket is None:
            fields = [(":status", "200"), ("x-app", NAME)]
            self.h2.send_headers(number, fields)
            seen = {
                "app": NAME,
                "fields": stream.fields,
                "length": stream.length,
                "trailers": stream.trailers,
            }
            if stream.fields[":method"] != "HEAD":
                stream.waiting += json.dumps(seen).encode()
        stream.ends = True
        self.flush(number)

    def flush(self, number: int) -> None:
        """Send as much as the windows let."""
        stream = self.streams.get(number)
        if stream is None:
            return
        room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
        while stream.waiting and room > 0:
            self.h2.send_data(number, bytes(stream.waiting[:room]))
            del stream.waiting[:room]
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
        if stream.ends and not stream.waiting:
            if stream.fields[":path"] == "/trailers":
                forged = ("x-forwarded-client-cert", "forged")
                self.h2.send_headers(number, [("x-sum", "17"), forged], end_stream=True)
            else:
                self.h2.end_stream(number)
            del self.streams[number]


def named(fields: Any) -> dict[str, str]:
    """Return fields by name."""
    return {str(name): str(value) for name, value in fields}


async def serve() -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        Conversation, "127.0.0.1", int(os.environ["PORT"]), backlog=512
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
