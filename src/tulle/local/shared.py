"""One process for the sidecars of a whole run, and the seat of each in it.

The process is started with the first sidecar. When it crashes, all seats end as processes do, and
the first sidecar that is kept running starts it again. A sidecar that is upgraded in place moves to
a newer process, started with the first that does; the old one ends when the last has left it.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import tulle
from tulle.errors import StartError
from tulle.local.child import Launch, Lines, start
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
    """The process; beside it, while sidecars move to a new one, those that they leave."""

    def __init__(self, home: Home, run: str) -> None:
        """Prepare; the first `add` starts it."""
        self.workers = min(len(os.sched_getaffinity(0)), WORKERS_MAX)
        """The threads that carry traffic: one for each processor that we may use."""
        self._home = home
        self._run = run
        self._hosts: list[Host] = []
        """Those that run, the newest last."""
        self._log = LogFile(home.logs / f"{NAME}.log")

    def add(
        self, name: str, folder: Path, on_line: Lines, *, succeeds: "Seat | None" = None
    ) -> "Seat":
        """Give the sidecar *name* a seat, with the settings and the state in *folder*.

        *on_line* gets each event of it, as from a process of its own. *succeeds* is the seat of
        the running one whose place it takes; it is never in the same process.
        """
        self._hosts = [host for host in self._hosts if host.child.running]
        newest = self._hosts[-1] if self._hosts else None
        if newest is None or (succeeds is not None and succeeds.host is newest):
            self._hosts.append(Host(self._launch, self._log))
            if newest is not None:
                newest.retire()
        return self._hosts[-1].add(name, folder, on_line, succeeds=succeeds is not None)

    async def stop(self, grace_seconds: float) -> None:
        """End it; its sidecars have ended before."""
        await asyncio.gather(*(host.child.stop(grace_seconds) for host in self._hosts))

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def _launch(self, stdin: int) -> Launch:
        return Launch(
            name=NAME,
            command=command(self.workers),
            environment=dict(os.environ),
            directory=self._home.directory,
            run=self._run,
            stdin=stdin,
        )


class Host:
    """One process, and who has a seat in it."""

    def __init__(self, launch: Callable[[int], Launch], log: LogFile) -> None:
        """Start it; *launch* gets its standard input, *log* what it says that is of no sidecar."""
        self._log = log
        self._seats: dict[str, Seat] = {}
        self._is_retired = False
        reader, self._stdin = os.pipe()
        os.set_blocking(self._stdin, False)
        try:
            self.child = start(launch(reader), self._on_line)
        except StartError:
            os.close(self._stdin)
            raise
        finally:
            os.close(reader)
        self._watch = asyncio.ensure_future(self._await_end())

    def add(self, name: str, folder: Path, on_line: Lines, *, succeeds: bool) -> "Seat":
        """As `SharedProcess.add`."""
        seat = self._seats[name] = Seat(self, name, on_line)
        self.ask("add", name, str(folder / "settings.json"), str(folder), "1" if succeeds else "")
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
        self.child.signal(signal.SIGKILL)

    def retire(self) -> None:
        """End it with its last sidecar: there is a newer one."""
        self._is_retired = True
        self._end_if_left()

    def _end_if_left(self) -> None:
        if self._is_retired and not self._seats:
            self.child.signal(signal.SIGTERM)

    def _on_line(self, line: str) -> None:
        try:
            event = json.loads(line)
            seat = self._seats[event["sidecar"]]
        except (ValueError, KeyError, TypeError):  # a traceback, or of one that has ended
            self._log.write(line)
            return
        if event["event"] == "ended":
            del self._seats[seat.name]
            seat.end(0)
            self._end_if_left()
        else:
            seat.on_line(line)

    async def _await_end(self) -> None:
        code = await self.child.wait()
        os.close(self._stdin)
        for seat in self._seats.values():
            seat.end(code)


class Seat:
    """A sidecar in the shared process, as if it were a process."""

    def __init__(self, host: Host, name: str, on_line: Lines) -> None:
        """Use `SharedProcess.add`."""
        self.host = host
        self.name = name
        self.pid = host.child.pid
        self.on_line = on_line
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
            self.host.ask("join", self.name, str(roots), token)

    def quiet(self) -> None:
        """Let what comes in end."""
        self.host.ask("quiet", self.name)

    async def stop(self, grace_seconds: float) -> None:
        """Let it drain and end; after the grace, end the process, which does not let go of it."""
        if self.running:
            self.host.ask("drain", self.name)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wait(), grace_seconds)
        if self.running:
            self.host.kill()
        await self.wait()

    def end(self, code: int) -> None:
        """Tell that it has ended."""
        self._ended.set_result(code)
