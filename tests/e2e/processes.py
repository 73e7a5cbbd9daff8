"""Real processes of a test: started in groups of their own, ended with the test, waited for."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

Found = TypeVar("Found")

WAIT_SECONDS = 20.0
LOOK_SECONDS = 0.01
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


def eventually(look: Callable[[], Found], what: str, seconds: float = WAIT_SECONDS) -> Found:
    """Return the first true value of *look*; fail the test if none comes in *seconds*."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(LOOK_SECONDS)
    pytest.fail(f"still not so after {seconds:.0f} s: {what}")


def reserve_port() -> socket.socket:
    """Return a socket that keeps a port of the system's choice for a process that listens later.

    It is bound and never listens, so another socket with SO_REUSEADDR may bind the port, too.
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    return keeper


class Process:
    """One program; its output goes to a file that a failed test can show."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start *command* with *environment* added to ours."""
        self.log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                preexec_fn=_end_with_parent,  # noqa: PLW1509  # no other thread runs Python here
                process_group=0,
            )
        self.pid = self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    @property
    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def freeze(self) -> None:
        """Stop it where it is, and wait until each of its threads has stopped."""
        self.signal(signal.SIGSTOP)
        eventually(lambda: set(self._thread_states()) == {"T"}, "each thread has stopped")

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        self.signal(signal.SIGCONT)

    def _thread_states(self) -> list[str]:
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        try:
            return [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks]
        except (FileNotFoundError, ProcessLookupError):  # a thread ended while we looked
            return []

    def kill(self) -> None:
        """End it as a crash would, and wait until it is gone."""
        self._popen.kill()
        self._popen.wait(WAIT_SECONDS)

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        """Return its exit code once it has ended."""
        return self._popen.wait(seconds)

    def resident_bytes(self) -> int:
        """Return its resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def open_files(self) -> int:
        """Return how many descriptors it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def cpu_ticks(self) -> int:
        """Return the CPU time it has used, in ticks of the kernel."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])


def _end_with_parent() -> None:
    """Let the kernel end this process when the tests are killed."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
