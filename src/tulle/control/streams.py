"""Responses of JSON lines that go on until someone ends them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class LineStream(Response):
    """One JSON object a line; ends with its source, its reader, its time or the process.

    `released` is called exactly once, however it ends.
    """

    media_type = "application/x-ndjson"

    def __init__(
        self,
        lines: AsyncGenerator[dict[str, Any], None],
        *,
        life_s: float,
        closing: asyncio.Event,
        released: Callable[[], None],
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-store"})
        self._lines = lines
        self._life_s = life_s
        self._closing = closing
        self._released = released

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the first of the four endings."""
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        try:
            await send(start)
            await self._run(receive, send)
        finally:
            self._released()

    async def _run(self, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send_lines(send))
        reading = asyncio.create_task(_wait_disconnect(receive))
        closing = asyncio.create_task(self._closing.wait())
        tasks = {sending, reading, closing}
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=self._life_s, return_when=asyncio.FIRST_COMPLETED
            )
            if sending in done:
                sending.result()
            sending.cancel()
            await asyncio.wait({sending})
            if reading not in done:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send_lines(self, send: Send) -> None:
        async with aclosing(self._lines) as lines:
            async for line in lines:
                body = json.dumps(line, separators=(",", ":")).encode() + b"\n"
                await send({"type": "http.response.body", "body": body, "more_body": True})


async def _wait_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Slots:
    """How many streams of one sort may be open at a time."""

    def __init__(self, most: int, error: Callable[[], Exception]) -> None:
        self._free = most
        self._error = error

    def take(self) -> None:
        """Take one; raises the error when all are taken."""
        if self._free == 0:
            raise self._error()
        self._free -= 1

    def give_back(self) -> None:
        """Give one back."""
        self._free += 1
