"""One started process: its output line by line, its end as an awaitable, its orderly stop.

Ends are watched with a pidfd, so that no thread stands behind each process. Every child leads a
session of its own: a Ctrl-C in the terminal reaches the runner alone, which then stops things in
order.
"""

import asyncio
import contextlib
import itertools
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tulle.errors import StartError
from tulle.local import marks

LINE_BYTES_MAX = 16 * 1024
"""A longer line of output is cut into pieces, so that an app cannot grow the runner's memory."""

READ_BYTES = 64 * 1024
"""What a Linux pipe holds."""

LAST_READS_MAX = 16
"""A pipe can be made larger, up to 1 MiB by default."""

Lines = Callable[[str], None]

_starts = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start: the words of a command, or one string for the shell."""

    name: str
    command: str | Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    run: str
    """The id of the run, the first part of the child's mark."""
    pass_fds: tuple[int, ...] = ()
    stdin: int = subprocess.DEVNULL
    """The descriptor to read from."""
    in_terminal: bool = False
    """Share the runner's terminal, session and standard streams instead of being read."""


class Child:
    """A running process that the runner started and will reap."""

    def __init__(
        self, launch: Launch, mark: str, popen: subprocess.Popen[bytes], on_line: Lines
    ) -> None:
        """Take over *popen*; *on_line* gets each line of its output, without the newline."""
        self.name = launch.name
        self.pid = popen.pid
        self.started = time.monotonic()
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.mark = mark
        self._popen = popen
        self._on_line = on_line
        self._partial = b""
        self._pidfd = os.pidfd_open(popen.pid)
        self._in_terminal = launch.in_terminal
        self._output = popen.stdout
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pidfd, self._reap)
        if self._output is not None:
            os.set_blocking(self._output.fileno(), False)
            loop.add_reader(self._output.fileno(), self._read)

    def __repr__(self) -> str:
        """Show the state: `<Child cart-1 pid 4711 running>`."""
        state = f"exited {self.ended.result()}" if self.ended.done() else "running"
        return f"<Child {self.name} pid {self.pid} {state}>"

    @property
    def running(self) -> bool:
        """Whether the process has not been reaped yet."""
        return not self.ended.done()

    async def wait(self) -> int:
        """Return the exit code, minus the signal's number when a signal ended it."""
        return await asyncio.shield(self.ended)

    async def stop(self, grace_seconds: float) -> None:
        """Ask the process and all its descendants to end; kill what is left after the grace."""
        if self.running:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wait(), grace_seconds)
        await asyncio.to_thread(marks.end_all, self.mark, 0 if self.running else 0.5)
        await self.wait()

    def signal(self, number: int) -> None:
        """Send *number* to the process group, so that the children of a shell get it too."""
        with contextlib.suppress(ProcessLookupError):
            if self._in_terminal:  # its group is the runner's own
                os.kill(self.pid, number)
            else:
                os.killpg(self.pid, number)

    def _read(self) -> bool:
        """Take what the pipe holds now; return whether there may be more."""
        if self._output is None:
            return False
        try:
            data = os.read(self._output.fileno(), READ_BYTES)
        except BlockingIOError:
            return False
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._emit(line)
        if not data or len(self._partial) > LINE_BYTES_MAX:
            self._flush()
        if not data:
            asyncio.get_running_loop().remove_reader(self._output.fileno())
            self._output.close()
            self._output = None
        return bool(data)

    def _flush(self) -> None:
        if self._partial:
            self._emit(self._partial)
            self._partial = b""

    def _emit(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), LINE_BYTES_MAX):
            piece = line[start : start + LINE_BYTES_MAX]
            self._on_line(piece.decode(errors="replace").rstrip("\r"))

    def _reap(self) -> None:
        code = self._popen.wait()
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        # What it wrote last explains why it ended; a grandchild may hold the pipe open, and write.
        for _ in range(LAST_READS_MAX):
            if not self._read():
                break
        self.ended.set_result(code)


def start(launch: Launch, on_line: Lines) -> Child:
    """Start the process of *launch*.

    Raises:
        StartError: the command or its directory does not exist, or may not be run.
    """
    words = launch.command
    if isinstance(words, str):
        words = ["/bin/sh", "-c", _for_shell(words, launch)]
    # A process that is started again differs from its predecessor, which may still be ending.
    mark = f"{launch.run}/{launch.name}.{next(_starts)}"
    if not launch.directory.is_dir():
        raise StartError(
            f'{launch.name}: the working directory "{launch.directory}" does not exist; '
            "create it or change workingDirectory"
        )
    try:
        popen = subprocess.Popen(
            words,
            stdin=None if launch.in_terminal else launch.stdin,
            stdout=None if launch.in_terminal else subprocess.PIPE,
            stderr=None if launch.in_terminal else subprocess.STDOUT,
            env={**launch.environment, marks.MARK: mark},
            cwd=launch.directory,
            pass_fds=launch.pass_fds,
            start_new_session=not launch.in_terminal,
        )
    except FileNotFoundError:
        raise StartError(
            f'{launch.name}: command "{words[0]}" not found; install it, write its full path, '
            "or correct `command`"
        ) from None
    except PermissionError:
        raise StartError(
            f'{launch.name}: "{words[0]}" may not be run; make it executable: chmod +x {words[0]}'
        ) from None
    except OSError as error:
        raise StartError(f'{launch.name}: "{words[0]}" cannot be run: {error.strerror}') from None
    return Child(launch, mark, popen, on_line)


def _for_shell(command: str, launch: Launch) -> str:
    """Put `exec` before a plain command, so that signals and the exit code are the program's."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    operators = set(";&|<>()`\n")
    path = launch.environment.get("PATH")
    if words and not operators & set(command) and shutil.which(words[0], path=path):
        return f"exec {command}"
    return command
