"""The workloads that cost CPU: all contenders in interleaved rounds, turned into rows."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench import certificates, generator, process
from bench.contender import Contender, Shape, Site, start_hops
from bench.process import StartError
from bench.report import Report, Row, Spread, median

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from bench.contender import Command
    from bench.generator import Load, Option, Outcome

KIB_PER_MIB = 1024
NS_PER_SECOND = 1e9
BYTES_PER_GB = 1e9
BITS_PER_GBIT = 1e9
WARM_SECONDS = 0.5
CONCURRENCIES = (1, 32, 128)
CONNECTIONS = 32
CONNECT_CONNECTIONS = 8
"""Where each request has its own: the first ones of a run find no session to resume."""
GRPC_CONNECTIONS = (1, 10)
GRPC_STREAMS = 32
RESUMED_SHARE_MIN = 0.8
STOLEN_MAX = 0.03
"""Share of our cores' time that the host may give to others in a turn that counts."""
REPEATS_MAX = 2
"""How often a turn that was robbed of more is measured again."""
BODIES = {"64k": (64 * 1024, 8), "1m": (1024 * 1024, 4)}
"""Bytes of a body, and connections that carry one each."""
MESSAGE_BYTES = 32 * 1024 * 1024
RATE = 1000
"""Requests a second where the rate is fixed: at most 40 % of what the slowest contender can do."""
RATE_CONNECTIONS = 16
LATENCY_SECONDS_MIN = 2.0
"""A turn that measures latency is at least this long: its p99 is one in a hundred requests."""
DIRECT_P99_MS_MAX = 2.0
"""Above it, latencies tell of other work on the machine."""
ISTIO_CONNECTIONS = (4, 16)
ISTIO_BYTES = 1024
PAIR_SIDES = 2
MINIMAL = frozenset({"uvloop"})
"""Proxies that are there to compare languages: keep-alive with short messages is all they do."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What every workload runs on."""

    commands: Mapping[Shape, Mapping[str, Command]]
    """The contenders that can take each shape."""
    generator_core: int | None
    """Where generator and application run; None when the machine has only one core."""
    core: int | None
    """Where contenders run."""
    rounds: int
    seconds: float
    report: Report


@dataclass(frozen=True, slots=True)
class Round:
    """One contender's turn in one round."""

    cpu_ns: int
    outcome: Outcome
    stolen: float = 0.0
    """Share of our cores' time that the host gave to others."""

    @property
    def cpu_us(self) -> float:
        """Return the CPU time of a request."""
        return self.cpu_ns / 1000 / max(self.outcome.requests, 1)

    @property
    def vcpu(self) -> float:
        """Return the share of a core that was busy."""
        return self.cpu_ns / NS_PER_SECOND / self.outcome.seconds


Rounds = dict[str, list[Round]]


@contextlib.contextmanager
def awake(bench: Bench, directory: Path) -> Iterator[None]:
    """Keep the cores from going to sleep, as a busy machine's are.

    A sleeping virtual core takes up to a millisecond to wake, which would hide what a proxy adds.
    The spinners run in the idle class, so everything else goes first.
    """
    spin = ["chrt", "--idle", "0", sys.executable, "-S", "-c", "while True: pass"]
    with contextlib.ExitStack() as stack:
        for core in {bench.core, bench.generator_core}:
            spinner = process.start(f"awake-{core}", spin, core=core, directory=directory)
            stack.callback(spinner.stop)
        yield


@dataclass(frozen=True, slots=True)
class Stage:
    """Contenders that run, and the options with which a generator can speak to them."""

    contenders: list[Contender]
    options: dict[str, Option]


@contextlib.contextmanager
def running(
    bench: Bench,
    shape: Shape,
    *,
    direct: bool = False,
    resume: bool = False,
    without: Collection[str] = (),
) -> Iterator[Stage]:
    """Start the application and every contender for *shape*; stop them all at the end.

    With *direct* the application itself is one of them; with *resume* TLS sessions are resumed.
    """
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tulle-bench-")))
        sides = certificates.issue(directory)
        mode = "upstream"
        if shape is Shape.GRPC:
            mode = "grpc-upstream"
        elif shape in {Shape.TCP, Shape.TCP_PAIR}:
            mode = "bulk-upstream"
        options: dict[str, Option] = {}
        if shape is Shape.TLS_OUT:
            options = {"fresh": True} | generator.identity(sides["server"], resume=resume)
        application, upstream = generator.start_application(
            directory, bench.generator_core, mode, options
        )
        stack.callback(application.stop)
        site = Site(shape, upstream, directory, bench.core, sides)
        contenders = [Contender("direct", upstream)] if direct else []
        for name, command in bench.commands[shape].items():
            if name in without:
                continue
            contender = start_hops(name, site, command)
            stack.callback(contender.stop)
            contenders.append(contender)
        speaks_tls = shape is Shape.TLS_IN
        yield Stage(
            contenders,
            generator.identity(sides["client"], resume=resume) if speaks_tls else {},
        )


def quietest(measure: Callable[[], Round]) -> Round:
    """Return a turn that the host left alone, or the one it disturbed least of all tries."""
    best = measure()
    for _ in range(REPEATS_MAX):
        if best.stolen <= STOLEN_MAX:
            break
        best = min(best, measure(), key=lambda turn: turn.stolen)
    return best


def run_rounds(bench: Bench, stage: Stage, load: Load, seconds: float) -> Rounds:
    """Give each contender a turn per round, each round in another order."""
    results: Rounds = defaultdict(list)
    contenders = stage.contenders

    def turn(contender: Contender) -> Round:
        stolen_s, cpu_ns = process.stolen_s(), contender.cpu_ns()
        outcome = load(bench.generator_core, contender, seconds=seconds, **stage.options)
        cpu_ns, stolen_s = contender.cpu_ns() - cpu_ns, process.stolen_s() - stolen_s
        cores = len({bench.generator_core, bench.core})
        return Round(cpu_ns, outcome, stolen_s / (outcome.seconds * cores))

    for contender in contenders:
        warm = load(bench.generator_core, contender, seconds=WARM_SECONDS, **stage.options)
        if warm.requests == 0:
            raise StartError(f"{contender.name} answers no request")
    for number in range(bench.rounds):
        shift = number % len(contenders)
        for contender in contenders[shift:] + contenders[:shift]:
            results[contender.name].append(quietest(partial(turn, contender)))
    return results


def ratios(rounds: Rounds, name: str) -> list[float]:
    """Return a contender's cost over the floor's in the same round, round by round."""
    if "floor" not in rounds:
        return []
    pairs = zip(rounds[name], rounds["floor"], strict=True)
    return [mine.cpu_us / floor.cpu_us for mine, floor in pairs]


def cost(
    bench: Bench,
    shape: Shape,
    workload: str,
    load: Load,
    *,
    bytes_per_request: int | None = None,
    resume: bool = False,
    without: Collection[str] = (),
) -> None:
    """Measure CPU per request at saturation, and the memory after it."""
    with running(bench, shape, resume=resume, without=without) as stage:
        rounds = run_rounds(bench, stage, load, bench.seconds)
        loaded_kib = {contender.name: contender.rss_kib() for contender in stage.contenders}
    for name, turns in rounds.items():
        spread = ratios(rounds, name)
        bench.report.spreads.append(Spread(workload, name, [round(ratio, 3) for ratio in spread]))
        row = Row(
            workload,
            name,
            cpu_us_per_request=median([one.cpu_us for one in turns]),
            ratio_to_floor=median(spread) if spread else None,
            requests_per_s=median([one.outcome.requests / one.outcome.seconds for one in turns]),
            rss_mib=loaded_kib[name] / KIB_PER_MIB,
            errors=sum(one.outcome.errors for one in turns),
        )
        if bytes_per_request is not None:
            row = _with_bytes(row, bytes_per_request)
        bench.report.add(row)
        if resume:
            _check_resumption(name, turns)


def _with_bytes(row: Row, bytes_per_request: int) -> Row:
    assert row.cpu_us_per_request is not None
    assert row.requests_per_s is not None
    return replace(
        row,
        cpu_s_per_gb=row.cpu_us_per_request / 1e6 * BYTES_PER_GB / bytes_per_request,
        gbit_per_s=row.requests_per_s * bytes_per_request * 8 / BITS_PER_GBIT,
    )


def _check_resumption(name: str, turns: list[Round]) -> None:
    """Say so when a contender did full handshakes where sessions could be resumed."""
    asked = sum(one.outcome.requests for one in turns)
    resumed = sum(one.outcome.resumed for one in turns)
    if resumed < asked * RESUMED_SHARE_MIN:
        print(f"{name} resumed {resumed} of {asked} sessions", file=sys.stderr)


def plain(bench: Bench) -> None:
    """HTTP/1.1 through one hop, alone, at the usual concurrency and above it."""
    for connections in CONCURRENCIES:
        load = generator.closed(connections)
        cost(bench, Shape.PLAIN, f"plain-http1-{connections}c", load)


def pair(bench: Bench) -> None:
    """HTTP/1.1 through two hops with mTLS between them."""
    cost(bench, Shape.PAIR, "mtls-pair-http1-32c", generator.closed(CONNECTIONS))


def grpc(bench: Bench) -> None:
    """Unary calls through one hop."""
    for connections in GRPC_CONNECTIONS:
        load = generator.grpc(connections, GRPC_STREAMS)
        cost(bench, Shape.GRPC, f"grpc-unary-{connections}x{GRPC_STREAMS}", load)


def bodies(bench: Bench) -> None:
    """Long bodies through one hop, in requests and in answers."""
    for size, (length, connections) in BODIES.items():
        for name, option in (("post", "request_bytes"), ("get", "response_bytes")):
            load = generator.closed(connections, **{option: length})
            cost(bench, Shape.BODY, f"{name}-{size}", load, bytes_per_request=length)


def tcp(bench: Bench) -> None:
    """Bytes through one hop and through a pair, one connection."""
    for shape, name in ((Shape.TCP, "bulk-tcp"), (Shape.TCP_PAIR, "bulk-tcp-pair")):
        load = generator.bulk(MESSAGE_BYTES)
        cost(bench, shape, name, load, bytes_per_request=MESSAGE_BYTES)


def connections(bench: Bench) -> None:
    """A connection for each request: one plain hop, then each side of the pair by itself."""
    fresh = generator.closed(CONNECT_CONNECTIONS, fresh=True)
    cost(bench, Shape.PLAIN, "connect-plain", fresh, without=MINIMAL)
    for name, resume in (("full", False), ("resumed", True)):
        cost(bench, Shape.TLS_IN, f"connect-tls-in-{name}", fresh, resume=resume)
        # The application ends each connection, so every request needs a new one to it.
        kept = generator.closed(CONNECT_CONNECTIONS, resume=resume)
        cost(bench, Shape.TLS_OUT, f"connect-tls-out-{name}", kept, resume=resume)


def latency(bench: Bench) -> None:
    """Measure latency at a fixed rate through the pair, and what each adds to going direct."""
    load = generator.scheduled(RATE_CONNECTIONS, RATE)
    with (
        tempfile.TemporaryDirectory() as directory,
        awake(bench, Path(directory)),
        running(bench, Shape.PAIR, direct=True) as stage,
    ):
        rounds = run_rounds(bench, stage, load, max(bench.seconds, LATENCY_SECONDS_MIN))
    direct = rounds["direct"]
    alone_ms = median([one.outcome.p99_us / 1000 for one in direct])
    if alone_ms > DIRECT_P99_MS_MAX:
        print(f"direct has a p99 of {alone_ms:.1f} ms: the machine is too busy", file=sys.stderr)
    for name, turns in rounds.items():
        p50 = [one.outcome.p50_us / 1000 for one in turns]
        p99 = [one.outcome.p99_us / 1000 for one in turns]
        at_rate = Row(
            f"latency-pair-{RATE}-rps",
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
                    workload=f"added-latency-pair-{RATE}-rps",
                    p50_ms=median(p50_added),
                    p99_ms=median(p99_added),
                )
            )


def istio(bench: Bench) -> None:
    """Istio's own workload: 1 KB at 1,000 requests a second; what one side of the pair costs."""
    for count in ISTIO_CONNECTIONS:
        load = generator.scheduled(count, RATE, response_bytes=ISTIO_BYTES)
        with running(bench, Shape.PAIR) as stage:
            rounds = run_rounds(bench, stage, load, bench.seconds)
            loaded_kib = {contender.name: contender.rss_kib() for contender in stage.contenders}
        for name, turns in rounds.items():
            bench.report.add(
                Row(
                    f"istio-{count}c-{RATE}-rps",
                    name,
                    vcpu=median([one.vcpu for one in turns]) / PAIR_SIDES,
                    rss_mib=loaded_kib[name] / KIB_PER_MIB / PAIR_SIDES,
                    errors=sum(one.outcome.errors for one in turns),
                )
            )
