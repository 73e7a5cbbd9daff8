"""The sidecar's process: hand the engine its settings and its token, then wait.

settings → engine (listeners bound or taken over) → sidecar.json → token → join → start → events

The engine does all of the work, on its own threads. Python has two: this one waits for signals,
the other for the engine's events, which it prints as they are, one JSON object per line. JSON is
passed on and never read here: its parser, asyncio, logging and threading would each cost more
memory than the host itself (docs/decisions).
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # `signal` adds enum: 0.8 MiB
import _thread
import os
import sys

from tulle.sidecar.engine import Engine, EngineError

TYPE_CHECKING = False  # what type checkers take for true, without the module typing
if TYPE_CHECKING:
    from typing import NoReturn

JOIN_SECONDS = 10.0
"""How long one attempt to join may take; whoever started the sidecar starts it again."""

EVENT_WAIT_MS = 60_000
"""How long to wait for an event before waiting again; no work is done in between."""

TOKEN_BYTES_MAX = 4096
STDOUT = 1

_intercept: list[str] = []
"""The command of `main`; any thread may find that the process ends."""


def main(
    settings: str,
    state_dir: str,
    roots: str,
    token_fd: int,
    intercept: tuple[str, ...],
    successor: str,
    *,
    succeeds: bool,
) -> None:
    """Run until a signal or the engine's end.

    *settings* is the file of the engine's settings, *roots* the file of certificates to trust
    before joining ("" if joining is done), *token_fd* what to read the token from, -1 for none.
    *intercept* is the command that leads traffic here with `up`, and no longer with `down`;
    empty where traffic is not intercepted.
    *successor* is the program of a process that takes over, which SIGUSR2 starts; *succeeds*
    tells that this one is such a process. SIGUSR1 ends what comes in, before the application
    is ended; SIGTERM the rest, after it.
    """
    _intercept.extend(intercept)
    # Blocked before the engine makes its threads, which inherit it: only sigwait gets them.
    ends = {signal.SIGTERM, signal.SIGINT}
    signals = ends | {signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        engine = Engine(read(settings))
    except EngineError as error:
        fail(error)
    known = b'"pid":%d,"addresses":%s}' % (os.getpid(), engine.addresses())
    place = (f"{state_dir}/sidecar.json", b"{" + known)
    if not succeeds:  # else the file tells of the predecessor, until this one serves
        write(*place)
    emit(b'{"event":"listening",' + known)
    started = _thread.allocate_lock()
    _thread.start_new_thread(_serve, (engine, roots, token_fd, started, place))
    child = 0
    while (number := signal.sigwait(signals)) not in ends:
        if number == signal.SIGUSR1 and started.locked():
            engine.drain_inbound()
        elif number == signal.SIGUSR2 and not child:
            child = _spawn(successor)
        elif number == signal.SIGCHLD and child:
            child = _reap(child)
    if started.locked():  # else there is nothing to drain: it never took a connection
        emit(b'{"event":"draining"}')
        engine.drain()
        signal.sigwait(ends)
    engine.stop()
    _exit(0)


def _serve(
    engine: Engine,
    roots: str,
    token_fd: int,
    started: _thread.LockType,
    place: tuple[str, bytes],
) -> NoReturn:
    """Join, start (which takes *started*), and print events until the engine has drained."""
    try:
        token = _read_token(token_fd)
        how = engine.join(token, read(roots).decode() if roots else None, JOIN_SECONDS)
        if _intercept:
            _lead_here()
        emit(b'{"event":"joined","how":"%s"}' % how.encode())
        engine.start()
        started.acquire()
        while True:
            event = engine.next_event(EVENT_WAIT_MS)
            if event is None:
                continue
            if b'"event":"serving"' in event:
                write(*place)
                _notify()
            emit(event)
            if b'"event":"drained"' in event:
                engine.stop()
                _exit(0)
    except (EngineError, OSError) as error:
        fail(error)


def _lead_here() -> None:
    """Lead traffic here; the command tells what went wrong itself."""
    command = [*_intercept, "up", str(os.getpid())]
    pid = os.posix_spawn(command[0], command, os.environ)
    if os.waitpid(pid, 0)[1]:
        _exit(1)


def _exit(code: int) -> NoReturn:
    """End; where traffic is led here, by becoming the program that ends that."""
    if _intercept:
        os.execv(_intercept[0], [*_intercept, "down", str(code)])  # noqa: S606
    os._exit(code)


def _spawn(successor: str) -> int:
    """Start the process that takes over; return its id."""
    command = [sys.executable, "-I", "-S", "-c", successor]
    pid = os.posix_spawn(sys.executable, command, os.environ, setsigmask=())
    emit(b'{"event":"upgrading","pid":%d}' % pid)
    return pid


def _reap(child: int) -> int:
    """Return *child* while it runs, else 0: it ended before it took over, and this one goes on."""
    pid, status = os.waitpid(child, os.WNOHANG)
    if not pid:
        return child
    code = os.waitstatus_to_exitcode(status)
    emit(b'{"event":"upgrade-failed","pid":%d,"code":%d}' % (pid, code))
    return 0


def _notify() -> None:
    """Tell systemd, if it started us and wants to know, that this process is the service now."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    import _socket  # noqa: PLC0415  # not paid for by those that systemd did not start

    if address[0] == "@":
        address = f"\0{address[1:]}"
    one = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        one.sendto(b"READY=1\nMAINPID=%d" % os.getpid(), address)
    finally:
        one.close()


def emit(event: bytes) -> None:
    """Print one event; without a reader nobody misses it."""
    try:
        os.write(STDOUT, event + b"\n")
    except BrokenPipeError:
        return


def _read_token(descriptor: int) -> str | None:
    """Read the token, once, up to the end of *descriptor*; None for an empty one."""
    if descriptor < 0:
        return None
    token = b""
    while part := os.read(descriptor, TOKEN_BYTES_MAX - len(token)):
        token += part
    os.close(descriptor)
    return token.strip().decode() or None


def read(path: str) -> bytes:
    """Return what is in the file at *path*."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def write(path: str, data: bytes) -> None:
    """Replace the file at *path*, so that a reader sees the old or the new one, never a part."""
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)  # noqa: PTH104  # pathlib is not worth its memory here


def fail(error: Exception) -> NoReturn:
    """Say why, and end."""
    import json  # noqa: PLC0415  # this process ends; a running one never pays for it

    emit(json.dumps({"event": "failed", "error": str(error)}).encode())
    _exit(1)
