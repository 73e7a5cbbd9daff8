"""Run every contender through every workload and write bench/results/latest.json.

usage: python -m bench.run [--rounds N] [--seconds S] [--contenders a,b] [--workloads plain,pair]

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
from pathlib import Path
from typing import TYPE_CHECKING

from bench import envoy, haproxy, nginx, tulle, workloads
from bench.contender import Shape
from bench.generator import Generator
from bench.report import Goal, Report
from bench.workloads import Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.contender import Command, Hop

HERE = Path(__file__).parent
GOALS = (
    Goal("plain-http1-32c", "ratio_to_floor", 2.6),
    Goal("memory-idle", "rss_mib", 20.0),
    Goal("memory-per-idle-connection", "rss_mib", 15 / 1024),
)
PACKAGES = {"haproxy": "haproxy", "nginx": "nginx-light"}
"""Contenders that are programs of the system, and the Debian package each comes in."""

WORKLOADS: dict[str, Callable[[Bench], None]] = {
    "plain": lambda bench: workloads.cost(bench, Shape.PLAIN, "plain-http1-32c"),
    "pair": lambda bench: workloads.cost(bench, Shape.PAIR, "mtls-pair-http1-32c"),
    "grpc": lambda bench: workloads.cost(bench, Shape.GRPC, "grpc-unary-4x8"),
    "latency": workloads.latency,
    "memory": workloads.memory,
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
    "haproxy": haproxy.command,
    "nginx": nginx.command,
    "uvloop": uvloop_proxy,
}


def main() -> int:
    """Run what the command line asks for; 1 when a goal was missed."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped
    _raise_file_limit()
    chosen = _installed(options.contenders.split(","))
    plain = {name: ALL[name] for name in chosen}
    without_uvloop = {name: command for name, command in plain.items() if name != "uvloop"}
    cores = sorted(os.sched_getaffinity(0))
    bench = Bench(
        commands={Shape.PLAIN: plain, Shape.PAIR: without_uvloop, Shape.GRPC: without_uvloop},
        generator=Generator(cores[0] if len(cores) > 1 else None),
        core=cores[-1] if len(cores) > 1 else None,
        rounds=options.rounds,
        seconds=options.seconds,
        report=Report(),
    )
    begin = time.monotonic()
    for name in options.workloads.split(","):
        print(f"{name}: {options.rounds} rounds of {options.seconds:g} s", file=sys.stderr)
        WORKLOADS[name](bench)
    method = {
        "rounds": options.rounds,
        "seconds_per_turn": options.seconds,
        "pinning": "contender on one core; generator and application on another"
        if bench.core is not None
        else "none: one core",
        "seconds_in_all": round(time.monotonic() - begin, 1),
    }
    bench.report.save(_versions(chosen), method)
    return 0 if bench.report.print(GOALS) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.run")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn")
    parser.add_argument("--contenders", default=",".join(ALL), help="default: all")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="default: all")
    return parser


def _installed(names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        if name in PACKAGES and shutil.which(name) is None:
            print(f"{name} is left out: apt-get install {PACKAGES[name]}", file=sys.stderr)
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
