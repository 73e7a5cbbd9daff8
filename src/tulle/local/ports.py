"""Choose ports that stay: the same ones at the next start, and free again after a crash.

They lie below the range that the kernel takes outgoing connections from (32768 on Linux), so
that no connection can sit on the port of an app that is just being restarted.
"""

import contextlib
import socket
import zlib
from pathlib import Path

from tulle.errors import StartError

FIRST, LAST = 20_000, 31_999
LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""


class Ports:
    """Hands out free ports of this machine, each once."""

    def __init__(self, seed: str) -> None:
        """Start from *seed*, so that two projects seldom meet."""
        self._seed = seed
        self._taken: set[int] = set()

    def take(self, purpose: str) -> int:
        """Return a port for *purpose*: the same one as before, if nobody else has it.

        Raises:
            StartError: all are in use.
        """
        span = LAST - FIRST + 1
        start = zlib.crc32(f"{self._seed} {purpose}".encode()) % span
        for step in range(span):
            port = FIRST + (start + step) % span
            if port not in self._taken and is_free(port):
                self._taken.add(port)
                return port
        raise StartError(f"all ports from {FIRST} to {LAST} are in use; stop something")

    def give_back(self, port: int) -> None:
        """Forget *port*: its user is gone, or somebody else was faster."""
        self._taken.discard(port)


def is_free(port: int) -> bool:
    """Tell whether a server could listen on *port* of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def holder_of(port: int) -> str | None:
    """Return `process 4711 (python3)` for who listens on *port*; None if it cannot be seen."""
    inodes = _listening(port)
    if not inodes:
        return None
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        if not inodes.isdisjoint(_sockets(entry)):
            return f"process {entry.name} ({(entry / 'comm').read_text().strip()})"
    return None


def _sockets(process: Path) -> set[str]:
    """Return the inodes of the sockets of *process*, none for one of another user."""
    found = set()
    try:
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                kind, _, inode = str(descriptor.readlink()).partition(":")
                if kind == "socket":
                    found.add(inode.strip("[]"))
    except OSError:  # it ended, or belongs to someone else
        return set()
    return found


def _listening(port: int) -> set[str]:
    found = set()
    for table in ("tcp", "tcp6"):
        file = Path("/proc/net") / table
        if not file.exists():
            continue
        for row in file.read_text().splitlines()[1:]:
            columns = row.split()
            if columns[3] == LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                found.add(columns[9])
    return found
