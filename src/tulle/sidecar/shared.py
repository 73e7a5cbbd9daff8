"""One process for the sidecars of many workloads: each its own engine, all on the same threads.

What to do comes line by line on standard input, with tabs between the words, and what happens
goes out as the events of `host.py`, each with the field `sidecar` before all others.

    add      NAME  SETTINGS  STATE_DIR  SUCCEEDS   bind what the file SETTINGS of the engine says, or
                                                   take it over from a running one; "" if there is none
    join     NAME  ROOTS  TOKEN                    join and start; "" for what is not needed
    quiet    NAME                                  drain what comes in; `inbound-drained` tells the end
    drain    NAME                                  drain the rest, too; `ended` tells that nothing is left

A sidecar that cannot start says `failed` and ends; the others go on.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # `signal` adds enum: 0.8 MiB
import _thread
import os

from tulle.sidecar.engine import Engine, EngineError, Threads
from tulle.sidecar.host import EVENT_WAIT_MS, JOIN_SECONDS, emit, fail, read, write

STDIN = 0
READ_BYTES = 64 * 1024
"""What a pipe holds."""


class Host:
    """The sidecars of this process by name."""

    def __init__(self, workers: int) -> None:
        """Start with none, on *workers* threads for their traffic and one for all else."""
        self._ending = False
        """Whether the process ends with the last of them."""
        self._threads = Threads(workers)
        self._sidecars: dict[str, Engine] = {}
        self._serving: set[str] = set()
        self._places: dict[str, tuple[str, bytes]] = {}
        """What to write where once one serves, whose predecessor is told of there."""
        self._changing = _thread.allocate_lock()

    def follow(self) -> None:
        """Do what standard input asks for, up to its end."""
        partial = b""
        while data := os.read(STDIN, READ_BYTES):
            *lines, partial = (partial + data).split(b"\n")
            for line in lines:
                self._do(*line.decode().split("\t"))

    def _do(self, word: str, name: str, *rest: str) -> None:
        with self._changing:
            try:
                if word == "add":
                    self._add(name, *rest)
                elif name in self._sidecars:
                    self._ask(word, name, *rest)
            except (EngineError, OSError) as error:
                self._lose(name, error)

    def _add(self, name: str, settings: str, state_dir: str, succeeds: str) -> None:
        engine = Engine(read(settings), self._threads)
        self._sidecars[name] = engine
        known = b'"pid":%d,"addresses":%s}' % (os.getpid(), engine.addresses())
        place = (f"{state_dir}/sidecar.json", b"{" + known)
        if succeeds:
            self._places[name] = place
        else:
            write(*place)
        tell(name, b'{"event":"listening",' + known)

    def _ask(self, word: str, name: str, roots: str = "", token: str = "") -> None:
        engine = self._sidecars[name]
        if word == "join":
            engine.enter(token or None, read(roots).decode() if roots else None, JOIN_SECONDS)
        elif word == "drain" and name not in self._serving:
            self._end(name)  # it never took a connection
        elif word == "drain":
            engine.drain()
        elif name in self._serving:
            engine.drain_inbound()

    def pass_on(self) -> None:
        """Tell what happens, and let go of whom it happened last to."""
        seen = 0
        while True:
            seen = self._threads.wait(seen, EVENT_WAIT_MS)
            with self._changing:
                for name, engine in list(self._sidecars.items()):
                    while event := engine.next_event(0):
                        self._pass_one(name, event)

    def _pass_one(self, name: str, event: bytes) -> None:
        if b'"event":"serving"' in event:
            self._serving.add(name)
            if name in self._places:
                try:
                    write(*self._places.pop(name))
                except OSError as error:
                    self._lose(name, error)
                    return
        tell(name, event)
        if b'"event":"drained"' in event or b'"what":"start"' in event:
            self._end(name)

    def _lose(self, name: str, error: Exception) -> None:
        import json  # noqa: PLC0415  # a process where nothing fails never pays for it

        tell(name, json.dumps({"event": "failed", "error": str(error)}).encode())
        self._end(name)

    def _end(self, name: str) -> None:
        self._serving.discard(name)
        self._places.pop(name, None)
        if (engine := self._sidecars.pop(name, None)) is not None:
            engine.stop()
        tell(name, b'{"event":"ended"}')
        if self._ending and not self._sidecars:
            os._exit(0)

    def drain(self) -> None:
        """Let all end, and the process with them."""
        with self._changing:
            self._ending = True
            for name in list(self._sidecars):
                self._ask("drain", name)
            if not self._sidecars:
                os._exit(0)


def tell(name: str, event: bytes) -> None:
    """Print what happened to the sidecar called *name*, which needs no escape in JSON."""
    emit(b'{"sidecar":"%s",%s' % (name.encode(), event[1:]))


def main(workers: int) -> None:
    """Run until a signal: the first lets all drain, the second ends the process at once."""
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        host = Host(workers)
    except EngineError as error:
        fail(error)
    _thread.start_new_thread(host.pass_on, ())
    _thread.start_new_thread(host.follow, ())
    signal.sigwait(ends)
    host.drain()
    signal.sigwait(ends)
    os._exit(0)
