"""Read the logs of a home, of all processes in the order of time, whether anything runs or not."""

import heapq
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tulle.errors import NotFound
from tulle.local.paths import Home

FOLLOW_SECONDS = 0.1
"""Between two looks at the files; a person does not notice it."""


class LogLine(NamedTuple):
    """One line that a process wrote. Sorts by time."""

    time: datetime
    process: str
    text: str


def read_logs(
    home: Path,
    names: Sequence[str] = (),
    *,
    since_s: float | None = None,
    tail: int | None = None,
    follow: bool = False,
    sidecars: bool = False,
) -> Iterator[LogLine]:
    """Yield the lines of *names* (apps, replicas or other processes; all apps if empty).

    *since_s* is an age in seconds; *tail* a number of lines over all; *follow* never ends.

    Raises:
        NotFound: there is no log of a name.
    """
    paths = _select(Home(home), names, sidecars=sidecars)
    oldest = datetime.now(UTC) - timedelta(seconds=since_s) if since_s is not None else None
    with ExitStack() as opened:
        tails = [opened.enter_context(closing(_Tail(path))) for path in paths]
        stored = [opened.enter_context(closing(_stored(one.path, one.begin))) for one in tails]
        lines: Iterator[LogLine] = heapq.merge(*stored)
        if oldest is not None:
            lines = (line for line in lines if line.time >= oldest)
        yield from lines if tail is None else sorted(heapq.nlargest(tail, lines))
        while follow:
            fresh = sorted(line for one in tails for line in one.fresh())
            yield from fresh
            if not fresh:
                time.sleep(FOLLOW_SECONDS)


def app_of(process: str) -> str:
    """Return `cart` for `cart-1` and `cart-1.sidecar`; other processes are their own app."""
    name, _, number = process.removesuffix(".sidecar").rpartition("-")
    return name if number.isdecimal() else process


def _select(home: Home, names: Sequence[str], *, sidecars: bool) -> list[Path]:
    known = {path.stem: path for path in sorted(home.logs.glob("*.log"))}
    for name in names:
        if not any(name in (process, app_of(process)) for process in known):
            apps = sorted({app_of(process) for process in known})
            hint = f"one of {', '.join(apps)}" if apps else "start with: tulle up"
            raise NotFound(f'no log of "{name}"; {hint}')

    def wanted(process: str) -> bool:
        if process in names or (sidecars and process.removesuffix(".sidecar") in names):
            return True
        if process.endswith(".sidecar") and not sidecars:
            return False
        return app_of(process) in names if names else True

    return [path for process, path in known.items() if wanted(process)]


def _stored(path: Path, end: int) -> Generator[LogLine, None, None]:
    """Yield the lines up to byte *end* of the file at *path*, and before them the rotated ones."""
    for part in (path.with_name(f"{path.name}.1"), path):
        if part.exists():
            left = end if part == path else part.stat().st_size
            with part.open("rb") as file:
                for data in file:
                    left -= len(data)
                    if left < 0:
                        break
                    if (line := _line(path.stem, data)) is not None:
                        yield line


def _line(process: str, data: bytes) -> LogLine | None:
    """Return the line in *data*; None for what no runner wrote."""
    stamp, _, text = data.decode(errors="replace").rstrip("\n").partition(" ")
    try:
        return LogLine(datetime.fromisoformat(stamp), process, text)
    except ValueError:
        return None


class _Tail:
    """The growing end of one log file, across its rotation; from the present end on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open("rb")
        self.begin = self._file.seek(0, 2)
        self._partial = b""

    def close(self) -> None:
        self._file.close()

    def fresh(self) -> list[LogLine]:
        """Return the whole lines that came since the last call."""
        data = self._file.read()
        if not data and self.path.stat().st_ino != _inode(self._file):
            self._file.close()
            self._file = self.path.open("rb")
            data = self._file.read()
        *whole, self._partial = (self._partial + data).split(b"\n")
        return [line for part in whole if (line := _line(self.path.stem, part)) is not None]


def _inode(file: BinaryIO) -> int:
    return Path(f"/proc/self/fd/{file.fileno()}").stat().st_ino
