"""What processes write: one bounded log file each, and one stream with prefixes in the terminal."""

import re
import zlib
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

LOG_BYTES_MAX = 5 * 1024 * 1024
"""Of one log file; with the one before it a process never holds more than twice as much."""

TAIL_LINES = 20
"""Kept in memory per process: what is shown when it crashes."""

_COLORS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-ln-z]|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]")
"""Cursor movement and the like, which would tear the other processes' lines; colours pass."""


class LogFile:
    """The lines of one process on disk, each behind the time it was written."""

    def __init__(self, path: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
        """Append to the file at *path*; move it to `<path>.1` when it passes *bytes_max*."""
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._path = path
        self._bytes_max = bytes_max
        self._file = path.open("ab", buffering=0)
        self._size = self._file.tell()

    def write(self, text: str) -> None:
        """Append one line."""
        self.tail.append(text)
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        data = f"{now} {text}\n".encode()
        if self._size + len(data) > self._bytes_max:
            self._file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file = self._path.open("ab", buffering=0)
            self._size = 0
        self._size += self._file.write(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Console:
    """The terminal of `tulle up`: lines of all processes, and the runner's own."""

    def __init__(
        self, out: TextIO, *, color: bool, width: int, quiet: bool = False, states: bool = True
    ) -> None:
        """Write to *out*; names are padded to *width*.

        *quiet* leaves the apps' lines out; without *states* changes of state are not told.
        """
        self._out = out
        self._color = color
        self._width = width
        self._quiet = quiet
        self._states = states

    def line(self, process: str, text: str) -> None:
        """Show one line of an app."""
        if not self._quiet:
            prefix = colored_prefix(process, self._width, color=self._color)
            self._write(f"{prefix}{_CONTROL.sub('', text)}")

    def state(self, process: str, state: str, text: str) -> None:
        """Show that *process* came into *state*; *text* says where or why."""
        name = process.ljust(self._width)
        if self._states:
            self._write(f"{name}  {self._tinted(state)}  {text}".rstrip())

    def problem(self, text: str) -> None:
        """Show something that the user must act on."""
        mark = "\x1b[31merror:\x1b[0m" if self._color else "error:"
        self._write(f"{mark} {text}")

    def say(self, text: str) -> None:
        """Show a line of the runner's own."""
        self._write(text)

    def _tinted(self, state: str) -> str:
        padded = state.ljust(9)
        if not self._color:
            return padded
        tint = {"ready": 32, "running": 32, "done": 32, "failed": 31, "backoff": 31}.get(state, 33)
        return f"\x1b[{tint}m{padded}\x1b[0m"

    def _write(self, text: str) -> None:
        try:
            self._out.write(f"{text}\n")
            self._out.flush()
        except (BrokenPipeError, OSError):  # the terminal is gone; the apps run on until told
            self._quiet = True


def colored_prefix(process: str, width: int, *, color: bool) -> str:
    """Return `cart-1  | `; each process keeps its colour in all terminals."""
    prefix = f"{process.ljust(width)} | "
    if not color:
        return prefix
    tint = _COLORS[zlib.crc32(process.encode()) % len(_COLORS)]
    return f"\x1b[{tint}m{prefix}\x1b[0m"
