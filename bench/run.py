"""Run every contender through every workload and write bench/results/latest.json.

usage: python -m bench.run [--rounds N] [--seconds S] [--contenders a,b] [--workloads plain,pair]
                           [--dry]

All contenders of a workload run side by side and take turns; the numbers that count are ratios to
the floor forwarder in the same round, because the machine's speed drifts more than they do.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import envoy, haproxy, memory, nginx, process, tulle, workers, workloads
from bench.contender import Shape
from bench.goals import GOALS
from bench.process import StartError
from bench.report import Report
from bench.workloads import Bench
from tulle.sidecar.launch import TUNABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.contender import Command, Hop

HERE = Path(__file__).parent
PACKAGES = {"haproxy": "haproxy", "nginx": "nginx-light"}
"""Contenders that are programs of the system, and the Debian package each comes in."""

WORKLOADS: dict[str, Callable[[Bench], None]] = {
    "plain": workloads.plain,
    "pair": workloads.pair,
    "grpc": workloads.grpc,
    "bodies": workloads.bodies,
    "tcp": workloads.tcp,
    "connections": workloads.connections,
    "latency": workloads.latency,
    "istio": workloads.istio,
    "memory": memory.memory,
    "workers": workers.workers,
}


def floor(hop: Hop) -> Sequence[str | Path]:
    """Return the command of one floor forwarder."""
    return [HERE / "build" / "floor", str(hop.listen), str(hop.forward_to)]


def uvloop_proxy(hop: Hop) -> Sequence[str | Path]:
    """Return the command of one uvloop proxy."""
    script = HERE / "uvloop_proxy.py"
    return [sys.executable, script, str(hop.listen), str(hop.forward_to)]


ALL: dict[str, Command] = {
    "floor": floor,
    "tulle": tulle.command,
    "envoy": envoy.command,
    "envoy-h2": partial(envoy.command, h2=True),
    "haproxy": haproxy.command,
    "haproxy-h2": partial(haproxy.command, h2=True),
    "nginx": nginx.command,
    "uvloop": uvloop_proxy,
}
PLAIN_ONLY = frozenset({"uvloop"})
PAIR_ONLY = frozenset({"envoy-h2", "haproxy-h2"})
BEYOND = {
    Shape.PAIR: PLAIN_ONLY,
    Shape.GRPC: PLAIN_ONLY | PAIR_ONLY,
    Shape.TCP: PLAIN_ONLY | PAIR_ONLY | {"nginx"},
    Shape.TCP_PAIR: PLAIN_ONLY | PAIR_ONLY | {"nginx"},
    Shape.TLS_IN: PLAIN_ONLY | PAIR_ONLY | {"floor"},
    Shape.TLS_OUT: PLAIN_ONLY | PAIR_ONLY | {"floor"},
    Shape.PLAIN: PAIR_ONLY,
    Shape.BODY: PLAIN_ONLY | PAIR_ONLY,
}
"""Who does not take part in a shape: it is beyond the program, or would be the same twice."""


def main() -> int:
    """Run what the command line asks for; 1 when a goal was missed."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped
    _raise_file_limit()
    # For all alike: else an accident of alignment decides who is quick at long bodies.
    os.environ["GLIBC_TUNABLES"] = TUNABLES
    chosen = _installed(options.contenders.split(","))
    cores = sorted(os.sched_getaffinity(0))
    bench = Bench(
        commands={
            shape: {name: ALL[name] for name in chosen if name not in beyond}
            for shape, beyond in BEYOND.items()
        },
        generator_core=cores[0] if len(cores) > 1 else None,
        core=cores[-1] if len(cores) > 1 else None,
        rounds=options.rounds,
        seconds=options.seconds,
        report=Report(),
    )
    versions, begin, whole = _versions(chosen), (time.monotonic(), process.stolen_s()), True
    for name in options.workloads.split(","):
        print(f"{name}: {options.rounds} rounds of {options.seconds:g} s", file=sys.stderr)
        try:
            WORKLOADS[name](bench)
        except StartError as error:
            print(f"{name} is not measured: {error}", file=sys.stderr)
            whole = False
        if not options.dry:
            bench.report.save(versions, _method(bench, *begin))
    return 0 if bench.report.print(GOALS) and whole else 1


def _method(bench: Bench, begin_s: float, stolen_s: float) -> dict[str, Any]:
    """Return how the numbers were measured since *begin_s*, when *stolen_s* had been taken."""
    seconds, cores = time.monotonic() - begin_s, len(os.sched_getaffinity(0))
    return {
        "rounds": bench.rounds,
        "seconds_per_turn": bench.seconds,
        "pinning": "contender on one core; generator and application on another"
        if bench.core is not None
        else "none: one core",
        "seconds_in_all": round(seconds, 1),
        "stolen_share": round((process.stolen_s() - stolen_s) / (seconds * cores), 4),
        "load_average": round(os.getloadavg()[1], 1),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.run")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument("--contenders", default=",".join(ALL), help="default: all")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="default: all")
    parser.add_argument("--dry", action="store_true", help="print, but keep the results file")
    return parser


def _installed(names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        program = name.removesuffix("-h2")
        if program in PACKAGES and shutil.which(program) is None:
            print(f"{name} is left out: apt-get install {PACKAGES[program]}", file=sys.stderr)
        else:
            found.append(name)
    return found


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets us, for a thousand idle connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _versions(names: Sequence[str]) -> dict[str, str]:
    commands: dict[str, list[str | Path]] = {
        "envoy": [envoy.binary(), "--version"],
        "haproxy": ["haproxy", "-v"],
        "nginx": ["nginx", "-v"],
    }
    versions = {}
    for name in names:
        if name in commands:
            told = subprocess.run(
                commands[name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
            )
            line = told.stdout.decode().strip().splitlines()[0]
            # Envoy begins with the path of its program.
            versions[name] = line.rpartition("  version: ")[2]
    return versions


if __name__ == "__main__":
    sys.exit(main())
