"""Redis: the real server where it is installed, else a small one; and a client for the cart.

The small one speaks RESP and knows the commands that the shop uses.
"""

import asyncio
import os
import shutil
import signal
from typing import Any

LINE_BYTES_MAX = 64 * 1024
LIST_ITEMS_MAX = 1000
CALL_SECONDS = 5.0


class RedisError(OSError):
    """The server refused a command."""


class Connection:
    """One connection to a Redis server; connects when first used and again after a loss."""

    def __init__(self, address: str) -> None:
        """Talk to the server at *address*, `host:port`."""
        host, _, port = address.rpartition(":")
        self._host, self._port = host, int(port)
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, *words: str) -> Any:
        """Return the answer to one command.

        Raises:
            OSError: the server is not there, closed in the middle, or answered with an error.
            TimeoutError: no answer in time.
        """
        async with self._lock, asyncio.timeout(CALL_SECONDS):
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._host, self._port)
            reader, writer = self._streams
            try:
                writer.write(encode(words))
                return await read_reply(reader)
            except asyncio.IncompleteReadError as error:
                self.close()
                raise ConnectionError("redis closed the connection") from error
            except RedisError:
                raise
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def encode(words: tuple[str, ...]) -> bytes:
    """Return a command as RESP: an array of bulk strings."""
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


async def read_reply(reader: asyncio.StreamReader) -> Any:
    """Return one RESP value: bytes, int, list or None.

    Raises:
        RedisError: it is an error.
    """
    line = (await reader.readuntil(b"\r\n"))[:-2]
    kind, rest = line[:1], line[1:]
    if kind == b"-":
        raise RedisError(f"redis: {rest.decode()}")
    if kind == b":":
        return int(rest)
    if kind == b"$":
        length = int(rest)
        return None if length < 0 else (await reader.readexactly(length + 2))[:-2]
    if kind == b"*":
        return [await read_reply(reader) for _ in range(int(rest))]
    return rest


class SmallRedis:
    """Lists in memory, for machines without a Redis server."""

    def __init__(self) -> None:
        """Start empty."""
        self._lists: dict[bytes, list[bytes]] = {}

    def execute(self, words: list[bytes]) -> bytes:
        """Return the RESP answer to one command."""
        match [words[0].upper(), *words[1:]]:
            case [b"PING"]:
                return b"+PONG\r\n"
            case [b"RPUSH", key, *items]:
                found = self._lists.setdefault(key, [])
                found += items
                del found[:-LIST_ITEMS_MAX]
                return b":%d\r\n" % len(found)
            case [b"LTRIM", key, first, last]:
                self._lists[key] = self._range(key, int(first), int(last))
                return b"+OK\r\n"
            case [b"LRANGE", key, first, last]:
                found = self._range(key, int(first), int(last))
                bulks = b"".join(b"$%d\r\n%s\r\n" % (len(item), item) for item in found)
                return b"*%d\r\n%s" % (len(found), bulks)
            case [b"DEL", *keys]:
                return b":%d\r\n" % sum(self._lists.pop(key, None) is not None for key in keys)
        return b"-ERR unknown command\r\n"

    def _range(self, key: bytes, first: int, last: int) -> list[bytes]:
        found = self._lists.get(key, [])
        size = len(found)
        start = max(first + size, 0) if first < 0 else first
        return found[start : (last + size if last < 0 else last) + 1]

    async def serve_client(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one client until it leaves."""
        try:
            while True:
                words = await read_reply(reader)
                if not isinstance(words, list) or not words:
                    writer.write(b"-ERR not a command\r\n")
                    return
                writer.write(self.execute(words))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, OSError):
            return
        finally:
            writer.close()


async def _serve_small(port: int) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    client = SmallRedis().serve_client
    server = await asyncio.start_server(client, "127.0.0.1", port, limit=LINE_BYTES_MAX)
    await stopped.wait()
    server.close()


def main() -> None:
    """Become the real server, or run the small one."""
    port = os.environ["PORT"]
    if program := shutil.which("redis-server"):
        options = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        os.execv(program, [program, *options, "--loglevel", "warning"])  # noqa: S606
    asyncio.run(_serve_small(int(port)))


if __name__ == "__main__":
    main()
