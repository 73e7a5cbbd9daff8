"""Load through a sidecar's proxy: at a fixed rate, all at once, or one after the other.

At a rate, a request starts when it is due and not when the one before is answered, so that a
stall is seen by all requests that it would hit.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.e2e.http_client import CALL_SECONDS

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Result:
    """How the requests ended."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """By status, or by the error's name."""
    apps: Counter[str] = field(default_factory=Counter)
    """By the program that answered."""

    @property
    def total(self) -> int:
        """Number of requests."""
        return self.outcomes.total()


class Load:
    """A client that keeps its connections and never sends anything twice."""

    def __init__(self, proxy: str, url: str) -> None:
        """Send GET *url* through *proxy*."""
        host, _, port = proxy.rpartition(":")
        self._address = (host, int(port))
        service = url.removeprefix("http://").partition("/")[0]
        self._message = f"GET {url} HTTP/1.1\r\nHost: {service}\r\n\r\n".encode()
        self._idle: list[Streams] = []
        self.result = Result()

    async def at_rate(self, rate: int, seconds: float, half_way: Callable[[], object]) -> None:
        """Start *rate* requests each second, and call *half_way* in the middle, in a thread."""
        loop = asyncio.get_running_loop()
        start, count = loop.time(), int(rate * seconds)
        async with asyncio.TaskGroup() as requests:
            for number in range(count):
                if (wait := start + number / rate - loop.time()) > 0:
                    await asyncio.sleep(wait)
                requests.create_task(self._one())
                if number == count // 2:
                    requests.create_task(asyncio.to_thread(half_way))
        self.close()

    async def at_once(self, count: int) -> None:
        """Start *count* requests together."""
        async with asyncio.TaskGroup() as requests:
            for _ in range(count):
                requests.create_task(self._one())
        self.close()

    async def in_turn(self, workers: int, count: int) -> None:
        """Send *count* requests from each of *workers*, one after the other."""

        async def work() -> None:
            for _ in range(count):
                await self._one()

        async with asyncio.TaskGroup() as requests:
            for _ in range(workers):
                requests.create_task(work())
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _one(self) -> None:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                status, app = await self._exchange()
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.result.outcomes[type(error).__name__] += 1
            return
        self.result.outcomes[status] += 1
        if app:
            self.result.apps[app] += 1

    def _take_idle(self) -> Streams | None:
        """Return a connection that the other side has not closed meanwhile."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    async def _exchange(self) -> tuple[str, str]:
        reader, writer = self._take_idle() or await asyncio.open_connection(*self._address)
        try:
            writer.write(self._message)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            start, *lines = head.rstrip("\r\n").split("\r\n")
            pairs = (line.partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            writer.close()
            raise
        if headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        reason = headers.get("x-tulle-reason")
        status = start.split(" ")[1]
        return f"{status} {reason}" if reason else status, headers.get("x-app", "")


def at_rate(
    proxy: str, url: str, rate: int, seconds: float, half_way: Callable[[], object]
) -> Result:
    """Run `Load.at_rate` to its end."""
    load = Load(proxy, url)
    asyncio.run(load.at_rate(rate, seconds, half_way))
    return load.result


def at_once(proxy: str, url: str, count: int) -> Result:
    """Run `Load.at_once` to its end."""
    load = Load(proxy, url)
    asyncio.run(load.at_once(count))
    return load.result


def in_turn(proxy: str, url: str, workers: int, count: int) -> Result:
    """Run `Load.in_turn` to its end."""
    load = Load(proxy, url)
    asyncio.run(load.in_turn(workers, count))
    return load.result
