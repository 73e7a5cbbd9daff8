"""The little HTTP/1.1 that the shop's programs need: a server and a client on asyncio."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

HEAD_BYTES_MAX = 32 * 1024
BODY_BYTES_MAX = 1024 * 1024
IDLE_CONNECTIONS_MAX = 32
REQUEST_SECONDS = 10.0

REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 502: "Bad Gateway"}


@dataclass(frozen=True, slots=True)
class Request:
    """One request as a handler sees it."""

    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """What a handler or a peer answered."""

    status: int
    body: Any = None
    """A JSON value, or bytes as a client gets them."""
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Response]]


async def serve(handler: Handler, port: int | None = None) -> None:
    """Serve *handler* on $PORT (or *port*) until SIGTERM; then finish what is open and return."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    conversations: dict[asyncio.Task[None], _Conversation] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # asyncio runs this in a task
        conversations[task] = _Conversation(handler, reader, writer, stopped)
        try:
            await conversations[task].run()
        finally:
            del conversations[task]
            writer.close()

    where = port if port is not None else int(os.environ["PORT"])
    server = await asyncio.start_server(
        connected, "127.0.0.1", where, limit=HEAD_BYTES_MAX, backlog=512
    )
    async with server:
        await stopped.wait()
        server.close()
        for conversation in conversations.values():
            conversation.close_if_idle()
        if conversations:
            await asyncio.wait(list(conversations), timeout=REQUEST_SECONDS)


class _Conversation:
    """The requests of one connection, answered one after the other."""

    def __init__(
        self,
        handler: Handler,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        stopped: asyncio.Event,
    ) -> None:
        self._handler = handler
        self._reader = reader
        self._writer = writer
        self._stopped = stopped
        self._idle = True

    def close_if_idle(self) -> None:
        """Close the connection, unless a request is under way on it."""
        if self._idle:
            self._writer.close()

    async def run(self) -> None:
        """Answer until the client leaves or the server stops."""
        while not self._stopped.is_set():
            self._idle = True
            try:
                head = await self._reader.readuntil(b"\r\n\r\n")
                self._idle = False
                start, headers = _parse_head(head)
                method, path, _version = start.split(" ", 2)
                body = await _read_body(self._reader, headers)
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, OSError):
                return
            try:
                response = await self._handler(Request(method, path, headers, body))
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                response = Response(502, {"error": f"{type(error).__name__}: {error}"})
            close = headers.get("connection", "").lower() == "close" or self._stopped.is_set()
            self._writer.write(_to_bytes(response, close=close))
            try:
                await self._writer.drain()
            except ConnectionError:
                return
            if close:
                return


OWN_FIELDS = frozenset({"content-type", "content-length", "transfer-encoding", "connection"})
"""What an answer says of itself, also when it passes on another program's."""


def _to_bytes(response: Response, *, close: bool) -> bytes:
    data = json.dumps(response.body).encode()
    lines = [
        f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Status')}",
        "content-type: application/json",
        f"content-length: {len(data)}",
        *(f"{name}: {value}" for name, value in response.headers.items() if name not in OWN_FIELDS),
        *(["connection: close"] if close else []),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


class Client:
    """Calls services by name through $HTTP_PROXY, over connections that are kept."""

    def __init__(self, proxy: str | None = None) -> None:
        """Use *proxy*, `host:port`; $HTTP_PROXY for None."""
        address = proxy or os.environ["HTTP_PROXY"].removeprefix("http://").rstrip("/")
        host, _, port = address.rpartition(":")
        self._host, self._port = host, int(port)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, service: str, path: str) -> Response:
        """Return the answer of *service* to GET *path*."""
        return await self.request("GET", service, path)

    async def request(
        self,
        method: str,
        service: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Return the answer of *service*; its body is JSON already read.

        Raises:
            OSError: the proxy is not there, or closed in the middle.
            TimeoutError: no answer in time.
        """
        data = b"" if body is None else json.dumps(body).encode()
        lines = [
            f"{method} http://{service}{path} HTTP/1.1",
            f"host: {service}",
            f"content-length: {len(data)}",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        message = "\r\n".join(lines).encode() + b"\r\n\r\n" + data
        async with asyncio.timeout(REQUEST_SECONDS):
            return await self._exchange(message)

    def close(self) -> None:
        """Close the connections that are kept."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _exchange(self, message: bytes) -> Response:
        reused = bool(self._idle)
        reader, writer = self._idle.pop() if reused else await self._connect()
        try:
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            writer.close()
            # Closed while idle: nothing of the answer was seen, so another connection is tried.
            if reused and not getattr(error, "partial", b""):
                return await self._exchange(message)
            raise ConnectionError("closed before the answer") from error
        except BaseException:
            writer.close()
            raise
        start, headers = _parse_head(head)
        status = int(start.split(" ", 2)[1])
        data = await _read_body(reader, headers)
        if headers.get("connection", "").lower() == "close":
            writer.close()
        elif len(self._idle) < IDLE_CONNECTIONS_MAX:
            self._idle.append((reader, writer))
        else:
            writer.close()
        return Response(status, _from_json(data), headers)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port, limit=HEAD_BYTES_MAX)


def _parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    start, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return start, headers


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return await _read_chunks(reader)
    length = int(headers.get("content-length", "0"))
    if length > BODY_BYTES_MAX:
        raise ValueError(f"a body of {length} bytes is too long")
    return await reader.readexactly(length)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if len(body) + size > BODY_BYTES_MAX:
            raise ValueError("a chunked body is too long")
        chunk = await reader.readexactly(size + 2)
        if size == 0:
            return body
        body += chunk[:-2]


def _from_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:  # an answer that a proxy made
        return data.decode(errors="replace")
