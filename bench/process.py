"""Processes of a benchmark: started on one core, measured from /proc, stopped by their own id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START_SECONDS_MAX = 15.0
STEAL_FIELD = 8
"""Of a core's line in /proc/stat (proc(5))."""
STOP_SECONDS_MAX = 5.0
POLL_SECONDS = 0.02


class StartError(RuntimeError):
    """A process ended, or did not listen, before it could be measured."""


@dataclass(frozen=True, slots=True)
class Process:
    """One started program, its children included in every measure."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def pids(self) -> list[int]:
        """Return the program's process id and those of all its descendants."""
        parents = dict(_parents())
        found = [self.popen.pid]
        for pid in found:
            found.extend(child for child, parent in parents.items() if parent == pid)
        return found

    def cpu_ns(self) -> int:
        """Return the CPU time used so far, in the scheduler's own nanoseconds.

        /proc/PID/stat counts in ticks of 10 ms, too coarse for rounds of two seconds.
        """
        total = 0
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
        return total

    def rss_kib(self) -> int:
        """Return the resident memory now."""
        return sum(_status_kib(pid, "VmRSS") for pid in self.pids())

    def require_alive(self) -> None:
        """Raise StartError, with what the program wrote, when it has ended."""
        if self.popen.poll() is not None:
            written = self.log.read_text(errors="replace")[-2000:]
            raise StartError(f"{self.name} ended with {self.popen.returncode}:\n{written}")

    def stop(self) -> None:
        """End the program: SIGTERM, then SIGKILL when it does not listen."""
        pids = self.pids()
        self.popen.terminate()
        try:
            self.popen.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.popen.wait()
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        if self.popen.stdin is not None:
            self.popen.stdin.close()


def _parents() -> Iterator[tuple[int, int]]:
    """Yield the id and the parent's id of every process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # The name in parentheses may hold spaces; the parent is the second field after it.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                yield int(entry.name), int(fields[1])


def _status_kib(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise LookupError(field)


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    core: int | None,
    directory: Path,
    environment: dict[str, str] | None = None,
    piped: bool = False,
) -> Process:
    """Start *command* on *core* (None: anywhere); its output goes to a log in *directory*.

    With *piped* its standard input and output are pipes instead.
    """
    log = directory / f"{name}.log"
    pinned = ["taskset", "--cpu-list", str(core)] if core is not None else []
    with log.open("wb") as output:
        popen = subprocess.Popen(
            [*pinned, *map(str, command)],
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        )
    return Process(name, popen, log)


def stolen_s() -> float:
    """Return the CPU time that the host of this virtual machine has given to others, of our cores.

    A core that another machine holds stands still for milliseconds, and its peers wait for it.
    """
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = map(str.split, Path("/proc/stat").read_text().splitlines())
    ticks = sum(int(fields[STEAL_FIELD]) for fields in lines if fields[0] in cores)
    return ticks / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Return a loopback port nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_listening(process: Process, port: int) -> None:
    """Wait until *process* takes connections on loopback *port*."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        process.require_alive()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(POLL_SECONDS)
    raise StartError(f"{process.name} does not listen on port {port}")


def read_line(process: Process) -> bytes:
    """Return the next line that a piped *process* prints.

    Raises:
        StartError: it ended without one.
    """
    output: IO[bytes] | None = process.popen.stdout
    assert output is not None, "the process was started with pipes"
    line = output.readline()
    if not line:
        process.popen.wait(STOP_SECONDS_MAX)
        process.require_alive()
    return line
