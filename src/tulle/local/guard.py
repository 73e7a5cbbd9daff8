"""The process that outlives a runner which was killed, and ends what the runner left behind.

It stands in a session of its own and reads a pipe that only the runner writes to. A byte on it
means that the runner has stopped everything itself; the end of the pipe without one means that
the runner is dead, however it died. Started as `python -I -S` with this package's source on the
path, it holds nothing but this loop.
"""

import os
import signal

from tulle.local import marks

GRACE_SECONDS = 3.0
"""What orphans get between SIGTERM and SIGKILL; nobody waits for them any more."""


def main(pipe: int, mark: str) -> None:
    """Wait for the runner's end; end every process under *mark* unless told that all is done."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not os.read(pipe, 1):
        marks.end_all(mark, GRACE_SECONDS)
