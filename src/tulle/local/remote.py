"""Ask a running `tulle up` from another terminal."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tulle.errors import NotFound, TimedOut, TulleError, Unreachable
from tulle.local.paths import Home
from tulle.local.status import AppStatus

STATUS_SECONDS = 5.0
RESTART_SECONDS = 300.0
"""Replicas are restarted one after the other, each with its drain."""

POLL_SECONDS = 0.05


def status(home: Path) -> list[AppStatus]:
    """Return the state of everything that runs.

    Raises:
        Unreachable: nothing runs here.
    """
    answer = _ask(Home(home).runner_socket, {"op": "status"}, STATUS_SECONDS)
    return [AppStatus.from_json(one) for one in answer["apps"]]


def restart(home: Path, names: Sequence[str], *, sidecars: bool = False) -> list[str]:
    """Restart apps or replicas, one replica after the other; return their names.

    *sidecars*: put a new sidecar beside each instead, and let the app run.

    Raises:
        Unreachable: nothing runs here.
        NotFound: there is no app or replica of a name.
        TulleError: a new sidecar failed; the old one goes on.
    """
    request = {"op": "restart", "names": list(names), "sidecars": sidecars}
    restarted: list[str] = _ask(Home(home).runner_socket, request, RESTART_SECONDS)["restarted"]
    return restarted


def down(home: Path, timeout_s: float = 40.0) -> bool:
    """Stop everything and wait for it; return False when nothing was running.

    Raises:
        TimedOut: it has not ended in time.
    """
    paths = Home(home)
    try:
        _ask(paths.runner_socket, {"op": "down"}, STATUS_SECONDS)
    except Unreachable:
        return False
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not is_running(home):
            return True
        time.sleep(POLL_SECONDS)
    raise TimedOut(f"not all has ended after {timeout_s:.0f} s; see: tulle ps")


def _ask(path: Path, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Return the answer of the runner at *path*.

    Raises:
        Unreachable: no runner is there.
        NotFound: the runner does not know a name in the request.
        TulleError: it could not do it.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(str(path))
            client.sendall(json.dumps(request).encode() + b"\n")
            with client.makefile("rb") as file:
                line = file.readline()
        except OSError as error:
            where = path.parent.parent
            if isinstance(error, FileNotFoundError | ConnectionRefusedError):
                raise Unreachable(f"nothing runs in {where}; start it with: tulle up") from None
            raise Unreachable(f"the runner of {where} does not answer: {error}") from None
    if not line:
        raise Unreachable(f"the runner at {path} ended; start it with: tulle up")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise (NotFound if answer["not_found"] else TulleError)(answer["error"])
    return answer


def is_running(home: Path) -> bool:
    """Tell whether a runner has this home: one that starts, runs or stops."""
    try:
        descriptor = os.open(Home(home).lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
