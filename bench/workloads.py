"""The workloads: each runs all contenders in interleaved rounds and turns them into rows."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import certificates, generator, process
from bench.contender import Contender, Shape, Site, start_hops
from bench.process import StartError
from bench.report import Report, Row, Spread, median

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bench.contender import Command
    from bench.generator import Generator, Outcome

KIB_PER_MIB = 1024
WARM_SECONDS = 0.5
CONNECTIONS = 32
GRPC_CONNECTIONS = 4
GRPC_STREAMS = 8
IDLE_CONNECTIONS = 1000
RATE = 4000
"""Requests a second for latency: at most 40 % of what the slowest contender can do."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What every workload runs on."""

    commands: Mapping[Shape, Mapping[str, Command]]
    """The contenders that can take each shape."""
    generator: Generator
    core: int | None
    rounds: int
    seconds: float
    report: Report


@dataclass(frozen=True, slots=True)
class Round:
    """One contender's turn in one round."""

    cpu_us: float
    outcome: Outcome


@contextlib.contextmanager
def awake(bench: Bench, directory: Path) -> Iterator[None]:
    """Keep the cores from going to sleep, as a busy machine's are.

    A sleeping virtual core takes up to a millisecond to wake, which would hide what a proxy adds.
    The spinners run in the idle class, so everything else goes first.
    """
    spin = ["chrt", "--idle", "0", sys.executable, "-S", "-c", "while True: pass"]
    with contextlib.ExitStack() as stack:
        for core in {bench.core, bench.generator.core}:
            spinner = process.start(f"awake-{core}", spin, core=core, directory=directory)
            stack.callback(spinner.stop)
        yield


@contextlib.contextmanager
def running(bench: Bench, shape: Shape, *, direct: bool) -> Iterator[list[Contender]]:
    """Start the application and every contender for *shape*; stop them all at the end."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tulle-bench-")))
        application, upstream = generator.start_application(
            directory, bench.generator.core, grpc=shape is Shape.GRPC
        )
        stack.callback(application.stop)
        site = Site(shape, upstream, directory, bench.core, certificates.issue(directory))
        contenders = [Contender("direct", upstream)] if direct else []
        for name, command in bench.commands[shape].items():
            contender = start_hops(name, site, command)
            stack.callback(contender.stop)
            contenders.append(contender)
        yield contenders


def run_rounds(
    bench: Bench, contenders: list[Contender], turn: Callable[[Contender, float], Outcome]
) -> dict[str, list[Round]]:
    """Give each contender a turn per round, each round in another order."""
    results: dict[str, list[Round]] = defaultdict(list)
    for contender in contenders:
        if turn(contender, WARM_SECONDS).requests == 0:
            raise StartError(f"{contender.name} answers no request")
    for number in range(bench.rounds):
        shift = number % len(contenders)
        for contender in contenders[shift:] + contenders[:shift]:
            before = contender.cpu_ns()
            outcome = turn(contender, bench.seconds)
            used = contender.cpu_ns() - before
            results[contender.name].append(Round(used / 1000 / max(outcome.requests, 1), outcome))
    return results


def ratios(rounds: dict[str, list[Round]], name: str) -> list[float]:
    """Return a contender's cost over the floor's in the same round, round by round."""
    if "floor" not in rounds:
        return []
    pairs = zip(rounds[name], rounds["floor"], strict=True)
    return [mine.cpu_us / floor.cpu_us for mine, floor in pairs]


def cost(bench: Bench, shape: Shape, workload: str) -> None:
    """Measure CPU per request at saturation, and the memory after it."""

    def turn(contender: Contender, seconds: float) -> Outcome:
        if shape is Shape.GRPC:
            return bench.generator.grpc(
                contender, connections=GRPC_CONNECTIONS, streams=GRPC_STREAMS, seconds=seconds
            )
        return bench.generator.closed(contender, connections=CONNECTIONS, seconds=seconds)

    with running(bench, shape, direct=False) as contenders:
        rounds = run_rounds(bench, contenders, turn)
        loaded_kib = {contender.name: contender.rss_kib() for contender in contenders}
    for name, turns in rounds.items():
        spread = ratios(rounds, name)
        bench.report.spreads.append(Spread(workload, name, [round(ratio, 3) for ratio in spread]))
        bench.report.add(
            Row(
                workload,
                name,
                cpu_us_per_request=median([one.cpu_us for one in turns]),
                ratio_to_floor=median(spread) if spread else None,
                rss_mib=loaded_kib[name] / KIB_PER_MIB,
                errors=sum(one.outcome.errors for one in turns),
            )
        )


def latency(bench: Bench) -> None:
    """Measure latency at a fixed rate, and what each contender adds to going direct."""

    def turn(contender: Contender, seconds: float) -> Outcome:
        return bench.generator.open(contender, connections=CONNECTIONS, seconds=seconds, rate=RATE)

    with (
        tempfile.TemporaryDirectory() as directory,
        awake(bench, Path(directory)),
        running(bench, Shape.PLAIN, direct=True) as contenders,
    ):
        rounds = run_rounds(bench, contenders, turn)
    direct = rounds["direct"]
    for name, turns in rounds.items():
        p50 = [one.outcome.p50_us / 1000 for one in turns]
        p99 = [one.outcome.p99_us / 1000 for one in turns]
        at_rate = Row(
            f"latency-{RATE}-rps",
            name,
            p50_ms=median(p50),
            p99_ms=median(p99),
            errors=sum(one.outcome.errors for one in turns),
        )
        bench.report.add(at_rate)
        if name != "direct":
            p50_added = [a - b.outcome.p50_us / 1000 for a, b in zip(p50, direct, strict=True)]
            p99_added = [a - b.outcome.p99_us / 1000 for a, b in zip(p99, direct, strict=True)]
            bench.report.add(
                replace(
                    at_rate,
                    workload=f"added-latency-{RATE}-rps",
                    p50_ms=median(p50_added),
                    p99_ms=median(p99_added),
                )
            )


def memory(bench: Bench) -> None:
    """Measure resident memory before any traffic, and with idle connections."""
    with running(bench, Shape.PLAIN, direct=False) as contenders:
        for contender in contenders:
            idle_kib = contender.rss_kib()
            with tempfile.TemporaryDirectory() as directory:
                holder = bench.generator.hold(contender, IDLE_CONNECTIONS, Path(directory))
                held_kib = contender.rss_kib()
                holder.stop()
            per_connection_kib = (held_kib - idle_kib) / IDLE_CONNECTIONS
            for workload, kib in (
                ("memory-idle", float(idle_kib)),
                (f"memory-{IDLE_CONNECTIONS}-idle-connections", float(held_kib)),
                ("memory-per-idle-connection", per_connection_kib),
            ):
                bench.report.add(Row(workload, contender.name, rss_mib=kib / KIB_PER_MIB))
