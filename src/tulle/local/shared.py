"""One process for the sidecars of a whole run, and the seat of each in it.

The process is started with the first sidecar. When it crashes, all seats end as processes do, and
the first sidecar that is kept running starts it again.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import tulle
from tulle.local.child import Child, Launch, Lines, start
from tulle.local.output import LogFile
from tulle.local.paths import Home

ROOT = str(Path(tulle.__file__).parents[1])
BOOT = "import sys; sys.path.append({root!r}); from tulle.sidecar.launch import exec_shared; exec_shared({workers})"
NAME = "shared.sidecar"
WORKERS_MAX = 4
"""Most threads that carry traffic; the rest of a machine is for the apps."""


def command(workers: int) -> list[str]:
    """Return the command line of a shared process with *workers* threads that carry traffic."""
    return [sys.executable, "-I", "-S", "-c", BOOT.format(root=ROOT, workers=workers)]


class SharedProcess:
    """The process, while there is one."""

    def __init__(self, home: Home, run: str) -> None:
        """Prepare; the first `add` starts it."""
        self.workers = min(len(os.sched_getaffinity(0)), WORKERS_MAX)
        """The threads that carry traffic: one for each processor that we may use."""
        self._home = home
        self._run = run
        self._child: Child | None = None
        self._stdin = -1
        self._seats: dict[str, Seat] = {}
        self._log = LogFile(home.logs / f"{NAME}.log")
        self._watch: asyncio.Task[None] | None = None

    def add(self, name: str, folder: Path, on_line: Lines) -> "Seat":
        """Give the sidecar *name* a seat, with the settings and the state in *folder*.

        *on_line* gets each event of it, as from a process of its own.
        """
        if self._child is None or not self._child.running:
            self._start()
        assert self._child is not None  # noqa: S101  # it was started
        seat = self._seats[name] = Seat(self, name, self._child.pid, on_line)
        self.ask("add", name, str(folder / "settings.json"), str(folder))
        return seat

    def ask(self, *words: str) -> None:
        """Have the process do something."""
        try:
            os.write(self._stdin, "\t".join(words).encode() + b"\n")
        except BrokenPipeError:
            return  # it ended, which all seats hear of
        except BlockingIOError:
            self.kill()

    def kill(self) -> None:
        """End it as a crash would: it does not do what it is asked for, and a new one will."""
        if self._child is not None:
            self._child.signal(signal.SIGKILL)

    async def stop(self, grace_seconds: float) -> None:
        """End it; its sidecars have ended before."""
        if self._child is not None:
            await self._child.stop(grace_seconds)

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def _start(self) -> None:
        seats: dict[str, Seat] = {}
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        launch = Launch(
            name=NAME,
            command=command(self.workers),
            environment=dict(os.environ),
            directory=self._home.directory,
            run=self._run,
            stdin=reader,
        )
        try:
            self._child = start(launch, partial(self._on_line, seats))
        finally:
            os.close(reader)
        self._stdin, self._seats = writer, seats
        self._watch = asyncio.ensure_future(_await_end(self._child, writer, seats))

    def _on_line(self, seats: "dict[str, Seat]", line: str) -> None:
        try:
            event = json.loads(line)
            seat = seats[event["sidecar"]]
        except (ValueError, KeyError, TypeError):  # a traceback, or of one that has ended
            self._log.write(line)
            return
        if event["event"] == "ended":
            del seats[seat.name]
            seat.end(0)
        else:
            seat.on_line(line)


class Seat:
    """A sidecar in the shared process, as if it were a process."""

    def __init__(self, process: SharedProcess, name: str, pid: int, on_line: Lines) -> None:
        """Use `SharedProcess.add`."""
        self.name = name
        self.pid = pid
        self.on_line = on_line
        self._process = process
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._ended.done()

    async def wait(self) -> int:
        """Return 0, or the exit code of the process that ended with it."""
        return await asyncio.shield(self._ended)

    def join(self, roots: Path, token: str) -> None:
        """Let it join with *token*, "" for the certificate that it has kept, and serve."""
        if self.running:
            self._process.ask("join", self.name, str(roots), token)

    def quiet(self) -> None:
        """Let what comes in end."""
        self._process.ask("quiet", self.name)

    async def stop(self, grace_seconds: float) -> None:
        """Let it drain and end; after the grace, end the process, which does not let go of it."""
        if self.running:
            self._process.ask("drain", self.name)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wait(), grace_seconds)
        if self.running:
            self._process.kill()
        await self.wait()

    def end(self, code: int) -> None:
        """Tell that it has ended."""
        self._ended.set_result(code)


async def _await_end(child: Child, stdin: int, seats: dict[str, Seat]) -> None:
    code = await child.wait()
    os.close(stdin)
    for seat in seats.values():
        seat.end(code)
