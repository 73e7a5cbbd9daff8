"""The load generator and the application, both from the Rust crate in bench/load."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import process
from bench.process import StartError, free_port, read_line

if TYPE_CHECKING:
    from bench.certificates import Side
    from bench.contender import Contender
    from bench.process import Process

BINARY = Path(__file__).parent / "build" / "load" / "release" / "tulle-bench-load"
HOST = "echo.bench"
RUN_SECONDS_MAX = 300
"""Longest run: the generator's own bound when it sends a number of requests."""

GRACE_SECONDS = 15
"""How long a run may take beyond the time it sends: most stalls end after five seconds each."""

Option = float | str | bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of the generator saw."""

    requests: int
    errors: int
    resumed: int
    """Requests whose connection resumed a TLS session."""
    seconds: float
    p50_us: int
    p99_us: int


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load: a command of the generator and its options."""

    command: str
    options: dict[str, Option]

    def __call__(self, core: int | None, contender: Contender, **more: Option) -> Outcome:
        """Run it from *core* against *contender*, with its length and whatever else in *more*."""
        command = _words(self.command, contender, self.options | more)
        if core is not None:
            command = ["taskset", "--cpu-list", str(core), *command]
        longest = float(more.get("seconds", RUN_SECONDS_MAX)) + GRACE_SECONDS
        try:
            finished = subprocess.run(
                command, capture_output=True, text=True, timeout=longest, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise StartError(f"{contender.name} is stuck for {longest:g} s") from error
        if finished.returncode != 0:
            raise StartError(f"{contender.name}: {finished.stderr.strip()}")
        return Outcome(**json.loads(finished.stdout))


def closed(connections: int, **options: Option) -> Load:
    """Send as fast as answers come."""
    return Load("closed", {"connections": connections, **options})


def scheduled(connections: int, rate: int, **options: Option) -> Load:
    """Send at a fixed rate whatever comes back; latencies run from when a request was due."""
    return Load("open", {"connections": connections, "rate": rate, **options})


def grpc(connections: int, streams: int) -> Load:
    """Make unary calls as fast as answers come."""
    return Load("grpc", {"connections": connections, "streams": streams})


def bulk(message_bytes: int) -> Load:
    """Send bytes over one connection as fast as they are taken."""
    return Load("bulk", {"connections": 1, "request-bytes": message_bytes})


def identity(side: Side, *, resume: bool) -> dict[str, Option]:
    """Return the options with which either end speaks mutual TLS."""
    return {"chain": str(side.chain), "key": str(side.key), "resume": resume}


def hold(
    core: int | None,
    contender: Contender,
    connections: int,
    directory: Path,
    options: dict[str, Option],
) -> Process:
    """Open connections, use each once and return the process that keeps them idle."""
    command = _words("hold", contender, {"connections": connections, **options})
    name = f"hold-{contender.name}"
    holder = process.start(name, command, core=core, directory=directory, piped=True)
    answer = json.loads(read_line(holder))
    if answer["errors"]:
        holder.stop()
        raise StartError(f"{contender.name}: {answer['errors']} of {connections} failed")
    return holder


def _words(command: str, contender: Contender, options: dict[str, Option]) -> list[str]:
    target = f"127.0.0.1:{contender.port}"
    return [str(BINARY), command, "--target", target, "--host", HOST, *_pairs(options)]


def _pairs(options: dict[str, Option]) -> list[str]:
    words = []
    for name, value in options.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        words += [f"--{name.replace('_', '-')}", text]
    return words


def start_application(
    directory: Path, core: int | None, mode: str, options: dict[str, Option]
) -> tuple[Process, int]:
    """Start an application of the crate and return it with its port."""
    port = free_port()
    application = process.start(
        mode,
        [BINARY, mode, "--listen", f"127.0.0.1:{port}", *_pairs(options)],
        core=core,
        directory=directory,
    )
    process.wait_listening(application, port)
    return application, port
