"""The runner's socket: one JSON object asked, one answered, from terminals of the same user."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tulle.errors import NotFound, TulleError

REQUEST_BYTES_MAX = 64 * 1024
READ_SECONDS = 5.0
"""A client that says nothing for this long is dropped."""

Request = dict[str, Any]


class RequestServer:
    """Answers on a Unix socket; errors of the tree go back as their text."""

    def __init__(self, path: Path, answer: Callable[[Request], Awaitable[Request]]) -> None:
        """Prepare to listen at *path*, which a dead runner may have left behind."""
        self._path = path
        self._answer = answer
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. The caller holds the home's lock."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(
            self._serve, self._path, limit=REQUEST_BYTES_MAX
        )
        self._path.chmod(0o600)

    async def stop(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), READ_SECONDS)
            try:
                answer = await self._answer(json.loads(line))
            except TulleError as error:
                answer = {"error": str(error), "not_found": isinstance(error, NotFound)}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (TimeoutError, ValueError, KeyError, ConnectionError):
            return  # not a client of ours, or one that left
        finally:
            writer.close()
