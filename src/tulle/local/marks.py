"""Find and end every process that descends from one that the runner started.

The runner puts a mark into the environment of each process it starts. Children inherit it, also
those of a shell and those that left the process group or the session, so a process is ours when
it carries the mark, shares a session with one that does, or descends from one. The standard
library only: the guard loads this module in a bare interpreter.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

MARK = "TULLE_PROCESS"
"""The variable's name; its value is `<run id>/<process name>`."""

EXEC_LOOKS = 5
EXEC_PAUSE_SECONDS = 0.002
"""In the middle of exec a process shows an empty environment for a moment; to take that for no
mark would let it get away."""

PAUSE_SECONDS = 0.02
"""Between two looks at a group that is ending; short, since shutdown waits for it."""


def find(mark: str) -> list[int]:
    """Return the ids of all processes under *mark*: `run/name` for one, `run/` for a whole run."""
    wanted = f"{MARK}={mark}".encode()
    marked: set[int] = set()
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        pid = int(entry.name)
        try:
            after_name = (entry / "stat").read_bytes().rpartition(b")")[2]
            environment = _environment(entry)
        except OSError:  # it ended, or belongs to someone else
            continue
        state, parent, _group, session = after_name.split()[:4]
        if state == b"Z":
            continue
        parents[pid], sessions[pid] = int(parent), int(session)
        if _carries(environment, wanted):
            marked.add(pid)
    return sorted(_family(marked, parents, sessions) - {os.getpid()})


def end(mark: str, number: int) -> list[int]:
    """Send signal *number* to every process under *mark*; return their ids."""
    pids = find(mark)
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    return pids


def end_all(
    mark: str,
    grace_seconds: float,
    *,
    term: int = 15,
    kill: int = 9,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Ask every process under *mark* to end; kill what is left after *grace_seconds*."""
    deadline = clock() + grace_seconds
    if not end(mark, term):
        return
    while clock() < deadline:
        if not find(mark):
            return
        time.sleep(PAUSE_SECONDS)
    while end(mark, kill):
        time.sleep(PAUSE_SECONDS)


def _environment(process: Path) -> bytes:
    """Return the environment of a process, looking again while it may be in the middle of exec."""
    for _ in range(EXEC_LOOKS):
        environment = (process / "environ").read_bytes()
        # A thread of the kernel has no program either.
        if environment or not (process / "exe").exists():
            break
        time.sleep(EXEC_PAUSE_SECONDS)
    return environment


def _carries(environment: bytes, wanted: bytes) -> bool:
    whole = wanted[-1:] != b"/"
    return any(
        variable == wanted if whole else variable.startswith(wanted)
        for variable in environment.split(b"\0")
    )


def _family(marked: set[int], parents: dict[int, int], sessions: dict[int, int]) -> set[int]:
    """Return *marked* and all that share a session led by one of them or descend from one."""
    found = set(marked)
    led = {sessions[pid] for pid in marked if sessions[pid] in marked}
    found.update(pid for pid, session in sessions.items() if session in led)
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in found} - found
        found |= children
        grown = bool(children)
    return found
