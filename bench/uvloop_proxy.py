"""A minimal HTTP/1.1 proxy on uvloop and httptools: what one hop costs in Python at its best.

A C parser on a C event loop, a pool of connections to the application, bodies streamed with
backpressure, hop-by-hop headers removed, one timeout: what any proxy must do, and nothing a mesh
does. The distance to the engine, which does, is why the engine is native. Requests must not be
pipelined.

usage: python uvloop_proxy.py LISTEN_PORT FORWARD_TO_PORT     (both on 127.0.0.1)
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from http import HTTPStatus
from typing import cast

import httptools
import uvloop

IDLE_CONNECTIONS_MAX = 2048
ANSWER_SECONDS_MAX = 15.0
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class Peer(asyncio.Protocol):
    """One side of a hop: a connection, the head being read, the side it is forwarded to."""

    def __init__(self, proxy: Proxy) -> None:
        """Make a connection that belongs to *proxy*."""
        self.proxy = proxy
        self.transport: asyncio.Transport
        self.other: Peer | None = None
        self.head: list[bytes] = []
        self.chunked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        """Read no more from the other side until this one has taken what there is."""
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read from the other side again."""
        if self.other is not None:
            self.other.transport.resume_reading()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header to the head, unless it is for this hop alone."""
        lower = name.lower()
        if lower in HOP_BY_HOP:
            self.chunked = self.chunked or (
                lower == b"transfer-encoding" and value.lower() == b"chunked"
            )
        else:
            self.head.append(b"%s: %s\r\n" % (name, value))

    def forward(self, data: bytes) -> None:
        """Send *data* to the other side."""
        assert self.other is not None, "a message is forwarded only to a side that is there"
        self.other.transport.write(data)

    def forward_head(self, first_line: bytes) -> None:
        """Send the head that was read."""
        if self.chunked:
            self.head.append(b"transfer-encoding: chunked\r\n")
        self.forward(b"".join([first_line, *self.head, b"\r\n"]))

    def on_body(self, body: bytes) -> None:
        """Send a piece of the body on."""
        self.forward(b"%x\r\n%s\r\n" % (len(body), body) if self.chunked else body)

    def forward_end(self) -> None:
        """Send the end of a body that has no length."""
        if self.chunked:
            self.forward(b"0\r\n\r\n")
        self.head = []
        self.chunked = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Break the other side, if a message was on its way."""
        if self.other is not None:
            self.other.other = None
            self.other.transport.close()


class Upstream(Peer):
    """A connection to the application, lent to one client at a time."""

    def __init__(self, proxy: Proxy) -> None:
        """Make a connection nobody uses yet."""
        super().__init__(proxy)
        self.parser = httptools.HttpResponseParser(self)
        self.timeout: asyncio.TimerHandle | None = None

    def lend(self, client: Client) -> None:
        """Forward a request of *client* and its answer."""
        self.other, client.other = client, self
        self.timeout = self.proxy.loop.call_later(ANSWER_SECONDS_MAX, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; its calls forward the answer."""
        self.parser.feed_data(data)

    def on_headers_complete(self) -> None:
        """Send the head of the answer."""
        status = self.parser.get_status_code()
        self.forward_head(b"HTTP/1.1 %d %s\r\n" % (status, REASONS.get(status, b"")))

    def on_message_complete(self) -> None:
        """Finish the answer and go back to the pool."""
        self.forward_end()
        assert self.timeout is not None, "the connection was lent"
        self.timeout.cancel()
        client = self.other
        assert client is not None, "the connection was lent"
        client.other = None
        self.other = None
        if self.parser.should_keep_alive():
            self.proxy.idle.append(self)
        else:
            self.transport.close()


class Client(Peer):
    """A connection from a client."""

    def __init__(self, proxy: Proxy) -> None:
        """Make a connection that takes its upstreams from *proxy*."""
        super().__init__(proxy)
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""
        self.waiting: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        """Feed the parser; its calls forward the request."""
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Keep the target."""
        self.url = url

    def on_headers_complete(self) -> None:
        """Send the head of the request."""
        while self.other is None and self.proxy.idle:
            upstream = self.proxy.idle.pop()
            if not upstream.transport.is_closing():
                upstream.lend(self)
        if self.other is None:
            self.proxy.connect_for(self)
        self.forward_head(b"%s %s HTTP/1.1\r\n" % (self.parser.get_method(), self.url))

    def on_message_complete(self) -> None:
        """Finish the request."""
        self.forward_end()

    def forward(self, data: bytes) -> None:
        """Send *data* to the application, once there is a connection."""
        if self.other is None:
            self.waiting.append(data)
        else:
            self.other.transport.write(data)


class Proxy:
    """The pool of connections to the application."""

    def __init__(self, forward_to: int) -> None:
        """Make an empty pool for the application at *forward_to*."""
        self.forward_to = forward_to
        self.loop = asyncio.get_running_loop()
        self.idle: deque[Upstream] = deque(maxlen=IDLE_CONNECTIONS_MAX)
        self.tasks: set[asyncio.Task[None]] = set()

    def connect_for(self, client: Client) -> None:
        """Open a connection for what *client* is sending."""
        task = self.loop.create_task(self._connect_for(client))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _connect_for(self, client: Client) -> None:
        try:
            _, upstream = await self.loop.create_connection(
                lambda: Upstream(self), "127.0.0.1", self.forward_to
            )
        except OSError:
            client.transport.close()
            return
        upstream.lend(client)
        upstream.transport.writelines(client.waiting)
        client.waiting = []


async def main(listen: int, forward_to: int) -> None:
    """Serve until the process is ended."""
    proxy = Proxy(forward_to)
    server = await proxy.loop.create_server(
        lambda: Client(proxy), "127.0.0.1", listen, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
