"""An HTTP/1.1 server whose path says how it behaves; any other path is echoed as JSON.

Its address is $PORT on loopback. What it did is told at `/do/told`, which a test asks directly,
beside the mesh. It is a server of the standard library alone, so that it starts at once.
"""

import asyncio
import hashlib
import json
import os
from collections import Counter
from urllib.parse import parse_qs, urlsplit

NAME = os.environ["NAME"]
PIECE = bytes(range(251)) * 261
"""65 KiB that no other size of pieces repeats: a lost or doubled part changes the hash."""

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Headers = dict[str, str]


class Told:
    """What happened so far, and what the test wants from now on."""

    def __init__(self) -> None:
        self.paths: Counter[str] = Counter()
        self.connections = 0
        self.bytes_sent = 0
        self.bytes_read = 0
        self.status: int | None = None
        self.delay_s = 0.0
        self.reading = asyncio.Event()


class Request:
    """One request whose body is read when asked for."""

    def __init__(self, head: bytes, reader: Reader, writer: Writer) -> None:
        start, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        self.method, self.target, self.version = start.split(" ")
        pairs = [line.partition(":") for line in lines]
        self.fields = [(name.lower(), value.strip()) for name, _, value in pairs]
        self.headers = dict(self.fields)
        split = urlsplit(self.target)
        self.path = split.path
        self.query = {key: values[0] for key, values in parse_qs(split.query).items()}
        self.trailers: Headers = {}
        self.reader, self.writer = reader, writer

    async def body(self, told: Told) -> tuple[int, str]:
        """Read the body; return its length and hash."""
        if self.headers.get("expect") == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        digest, length = hashlib.sha256(), 0
        async for chunk in self._chunks():
            digest.update(chunk)
            length += len(chunk)
            told.bytes_read += len(chunk)
        return length, digest.hexdigest()

    async def _chunks(self):
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int((await self.reader.readline()).split(b";")[0], 16):
                yield await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            while line := (await self.reader.readline()).decode("latin-1").strip():
                name, _, value = line.partition(":")
                self.trailers[name.lower()] = value.strip()
        left = int(self.headers.get("content-length", 0))
        while left:
            chunk = await self.reader.read(min(left, 65536))
            if not chunk:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(chunk)
            yield chunk


class Conversation:
    """The requests of one connection."""

    def __init__(self, told: Told, reader: Reader, writer: Writer) -> None:
        self.told, self.reader, self.writer = told, reader, writer
        self.ends = False

    async def run(self) -> None:
        """Answer until either side closes."""
        self.told.connections += 1
        try:
            while True:
                head = await self.reader.readuntil(b"\r\n\r\n")
                request = Request(head, self.reader, self.writer)
                self.told.paths[request.path] += 1
                await self.answer_to(request)
                if self.ends or request.headers.get("connection") == "close":
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.writer.close()

    async def answer_to(self, request: Request) -> None:
        """Do what the path says."""
        if not request.path.startswith("/do/"):
            await self.echo(request)
            return
        word, *rest = request.path.removeprefix("/do/").split("/")
        await getattr(self, f"do_{word}")(request, *rest)

    async def answer(self, status: int, body: bytes = b"", *fields: str) -> None:
        """Send a whole answer."""
        length = [] if status == 204 else [f"content-length: {len(body)}"]
        lines = [f"HTTP/1.1 {status} Status", f"x-app: {NAME}", *length, *fields]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await self.writer.drain()

    async def echo(self, request: Request) -> None:
        """Tell what the request was, after the delay and with the status the test wants."""
        length, digest = await request.body(self.told)
        if self.told.delay_s:
            await asyncio.sleep(self.told.delay_s)
        seen = {
            "app": NAME,
            "method": request.method,
            "target": request.target,
            "headers": request.headers,
            "fields": request.fields,
            "length": length,
            "sha256": digest,
            "trailers": request.trailers,
        }
        body = b"" if request.method == "HEAD" else json.dumps(seen).encode()
        await self.answer(self.told.status or 200, body, "content-type: application/json")

    async def do_told(self, request: Request) -> None:
        told = self.told
        seen = {
            "paths": told.paths,
            "connections": told.connections,
            "bytes_sent": told.bytes_sent,
            "bytes_read": told.bytes_read,
        }
        await self.answer(200, json.dumps(seen).encode())

    async def do_become(self, request: Request) -> None:
        """From now on echo with `?status=` and after `?delay_ms=`; let held readers read."""
        status = request.query.get("status")
        self.told.status = int(status) if status else None
        self.told.delay_s = int(request.query.get("delay_ms", 0)) / 1000
        if "read" in request.query:
            self.told.reading.set()
        await self.answer(200)

    async def do_status(self, request: Request, code: str) -> None:
        await request.body(self.told)
        await self.answer(int(code))

    async def do_head(self, request: Request, length: str) -> None:
        """Answer HEAD with the length that GET would have."""
        lines = [f"HTTP/1.1 200 OK\r\nx-app: {NAME}\r\ncontent-length: {length}\r\n\r\n"]
        self.writer.write("".join(lines).encode())

    async def do_slow(self, request: Request, ms: str) -> None:
        await asyncio.sleep(int(ms) / 1000)
        await self.answer(200)

    async def do_trickle(self, request: Request, ms: str) -> None:
        """Send the head at once and the body after *ms*."""
        self.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab")
        await asyncio.sleep(int(ms) / 1000)
        self.writer.write(b"cd")

    async def do_hang(self, request: Request) -> None:
        """Never answer."""
        await self.reader.read()

    async def do_reset(self, request: Request) -> None:
        """Close without an answer."""
        self.ends = True

    async def do_flaky(self, request: Request, failures: str, code: str) -> None:
        """Answer *code* for the first *failures* requests of this target, then 200."""
        failed = self.told.paths[request.target] < int(failures)
        self.told.paths[request.target] += 1
        await request.body(self.told)
        await self.answer(int(code) if failed else 200)

    async def do_garbage(self, request: Request) -> None:
        self.writer.write(b"this is no HTTP\r\n\r\n")
        await self.writer.drain()
        self.ends = True

    async def do_close(self, request: Request, how: str) -> None:
        """Answer and close: `told` says so, `silent` does not, `body` ends the body by it."""
        length = "" if how == "body" else "content-length: 5\r\n"
        told = "connection: close\r\n" if how == "told" else ""
        head = f"HTTP/1.1 200 OK\r\nx-app: {NAME}\r\n{length}{told}\r\nhello"
        self.writer.write(head.encode())
        await self.writer.drain()
        self.ends = True

    async def do_fields(self, request: Request, count: str, size: str) -> None:
        """Answer with *count* fields of *size* bytes."""
        fields = [f"x-field-{number}: {'a' * int(size)}" for number in range(int(count))]
        await self.answer(200, b"", *fields)

    async def do_hints(self, request: Request) -> None:
        """Send an informational answer before the final one."""
        self.writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
        await self.answer(200, b"final")

    async def do_short(self, request: Request) -> None:
        """Close before the end of the body that was announced."""
        self.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello")
        await self.writer.drain()
        self.ends = True

    async def do_bytes(self, request: Request, length: str) -> None:
        head = f"HTTP/1.1 200 OK\r\nx-app: {NAME}\r\ncontent-length: {length}\r\n\r\n"
        self.writer.write(head.encode())
        for piece in pieces(int(length)):
            self.writer.write(piece)
            await self.writer.drain()
            self.told.bytes_sent += len(piece)

    async def do_chunked(self, request: Request, length: str) -> None:
        self.writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in pieces(int(length)):
            middle = len(piece) // 3
            for part in (piece[:middle], piece[middle:]):
                if part:
                    self.writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                    await self.writer.drain()
        self.writer.write(b"0\r\n\r\n")

    async def do_trailers(self, request: Request) -> None:
        """Answer in chunks, with trailers."""
        await request.body(self.told)
        head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n"
        trailers = b"x-sum: 17\r\nx-forwarded-client-cert: forged\r\n\r\n"
        self.writer.write(head.encode() + b"5\r\nhello\r\n0\r\n" + trailers)
        await self.writer.drain()

    async def do_hold(self, request: Request) -> None:
        """Read the body only after the test has said so at `/do/become?read`."""
        await self.told.reading.wait()
        length, digest = await request.body(self.told)
        await self.answer(200, json.dumps({"length": length, "sha256": digest}).encode())

    async def do_early(self, request: Request) -> None:
        """Answer before the body has come, and close."""
        await self.answer(413, b"", "connection: close")
        self.ends = True

    async def do_upgrade(self, request: Request) -> None:
        """Switch to the protocol that was asked for, which sends back what it gets."""
        protocol = request.headers["upgrade"]
        head = f"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n"
        self.writer.write(head.encode())
        while data := await self.reader.read(65536):
            self.writer.write(data)
            await self.writer.drain()
        self.ends = True


def pieces(length: int):
    """Yield *length* bytes, always the same, in pieces."""
    while length > 0:
        yield PIECE[:length]
        length -= len(PIECE)


async def serve() -> None:
    """Serve until killed."""
    told = Told()

    async def connected(reader: Reader, writer: Writer) -> None:
        await Conversation(told, reader, writer).run()

    server = await asyncio.start_server(
        connected, "127.0.0.1", int(os.environ["PORT"]), backlog=512
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
