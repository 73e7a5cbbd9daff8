"""The load generator and the application, both from the Rust crate in bench/load."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import process
from bench.process import StartError, free_port, read_line

if TYPE_CHECKING:
    from bench.contender import Contender
    from bench.process import Process

BINARY = Path(__file__).parent / "build" / "load" / "release" / "tulle-bench-load"
HOST = "echo.bench"
GRACE_SECONDS = 15
"""How long a run may take beyond the time it sends: stalls end after five seconds each."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of the generator saw."""

    requests: int
    errors: int
    p50_us: int
    p99_us: int


@dataclass(frozen=True, slots=True)
class Generator:
    """The generator on its core."""

    core: int | None

    def closed(self, contender: Contender, *, connections: int, seconds: float) -> Outcome:
        """Send as fast as answers come."""
        return self._run("closed", contender, connections=connections, seconds=seconds)

    def open(self, contender: Contender, *, connections: int, seconds: float, rate: int) -> Outcome:
        """Send at a fixed rate whatever comes back; latencies run from when a request was due."""
        return self._run("open", contender, connections=connections, seconds=seconds, rate=rate)

    def grpc(
        self, contender: Contender, *, connections: int, streams: int, seconds: float
    ) -> Outcome:
        """Make unary calls as fast as answers come."""
        return self._run(
            "grpc", contender, connections=connections, seconds=seconds, streams=streams
        )

    def hold(self, contender: Contender, connections: int, directory: Path) -> Process:
        """Open connections, use each once and return the process that keeps them idle."""
        command = self._command("hold", contender, connections=connections)
        holder = process.start(
            f"hold-{contender.name}", command, core=self.core, directory=directory, piped=True
        )
        answer = json.loads(read_line(holder))
        if answer["errors"]:
            holder.stop()
            raise StartError(f"{contender.name}: {answer['errors']} of {connections} failed")
        return holder

    def _run(self, mode: str, contender: Contender, *, seconds: float, **options: int) -> Outcome:
        command = self._command(mode, contender, seconds=seconds, **options)
        if self.core is not None:
            command = ["taskset", "--cpu-list", str(self.core), *command]
        finished = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + GRACE_SECONDS, check=False
        )
        if finished.returncode != 0:
            raise StartError(f"{contender.name}: {finished.stderr.strip()}")
        fields: dict[str, Any] = json.loads(finished.stdout)
        del fields["seconds"]
        return Outcome(**fields)

    def _command(self, mode: str, contender: Contender, **options: float) -> list[str]:
        target = f"127.0.0.1:{contender.port}"
        words = [str(BINARY), mode, "--target", target, "--host", HOST]
        for name, value in options.items():
            words += [f"--{name}", str(value)]
        return words


def start_application(directory: Path, core: int | None, *, grpc: bool) -> tuple[Process, int]:
    """Start the application and return it with its port."""
    mode = "grpc-upstream" if grpc else "upstream"
    port = free_port()
    application = process.start(
        mode,
        [BINARY, mode, "--listen", f"127.0.0.1:{port}"],
        core=core,
        directory=directory,
    )
    process.wait_listening(application, port)
    return application, port
