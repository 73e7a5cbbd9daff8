"""User instructions and system calls per request, against the committed ones.

usage: python -m bench.check [--update] [--cases plain,grpc] [--keep FOLDER]

Times drift with the machine; these counts do not. One engine runs under callgrind and answers two
runs of different lengths over the same number of connections: the difference is what requests cost,
without start-up, connects and handshakes. System calls come from a second engine under strace with
one request in flight, where no batching depends on timing. Anything more than 3 % above
bench/results/check.json fails; `--update` writes what was measured there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench import certificates, generator, tulle
from bench.contender import Shape, Site, start_hops
from bench.process import StartError
from bench.report import RESULTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.contender import Contender, Hop
    from bench.process import Process

BASELINE: Final = RESULTS.with_name("check.json")
REGRESSION_MAX: Final = 0.03
"""Share by which a count may grow."""
IN_FLIGHT: Final = 32
INSTRUCTION_RUNS: Final = (1_000, 5_000)
SYSCALL_RUNS: Final = (500, 2_500)
WARM_REQUESTS: Final = 500
"""Sent first: pools fill, tables grow."""
TOOLS: Final = ("valgrind", "vgdb", "strace")


@dataclass(frozen=True, slots=True)
class Case:
    """One engine to count in, on one way of a request."""

    shape: Shape
    role: str
    """The hop that is counted."""


CASES: Final = {
    "plain": Case(Shape.PLAIN, "proxy"),
    "mtls-client": Case(Shape.PAIR, "client"),
    "mtls-server": Case(Shape.PAIR, "server"),
    "grpc": Case(Shape.GRPC, "proxy"),
}


@dataclass(frozen=True, slots=True)
class Counts:
    """What one request costs."""

    instructions: float
    syscalls: float
    syscalls_by_name: dict[str, float]


def main() -> int:
    """Count, compare and print; 1 when something has grown."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        print(f"{', '.join(missing)} missing; on Debian: apt-get install valgrind strace")
        return 2
    measured = {}
    for name in options.cases.split(","):
        measured[name] = _count(CASES[name], options.keep)
        print(_line(name, measured[name]), flush=True)
    baseline = _read()
    if options.update:
        _write(baseline, measured)
        return 0
    found = regressions(baseline["cases"], measured)
    for sentence in found:
        print(sentence)
    return 1 if found else 0


def regressions(baseline: Mapping[str, Mapping[str, Any]], now: Mapping[str, Counts]) -> list[str]:
    """Return a sentence per count that is more than REGRESSION_MAX above *baseline*."""
    sentences = []
    for case, counts in now.items():
        for what in ("instructions", "syscalls"):
            before, after = baseline.get(case, {}).get(what), getattr(counts, what)
            if before is None:
                sentences.append(f"{case}: {what} have no baseline; write one with --update")
            elif after > before * (1 + REGRESSION_MAX):
                sentences.append(
                    f"{case}: {what} per request grew from {before:g} to {after:g}, "
                    f"{after / before - 1:+.1%}; at most {REGRESSION_MAX:+.0%}"
                )
    return sentences


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.check")
    parser.add_argument("--update", action="store_true", help="write the counts as the baseline")
    parser.add_argument("--cases", default=",".join(CASES), help="default: all")
    parser.add_argument("--keep", type=Path, help="folder for callgrind's output")
    return parser


def _count(case: Case, keep: Path | None) -> Counts:
    instructions = _instructions(case, keep)
    calls = _syscalls(case)
    return Counts(
        instructions=round(instructions),
        syscalls=round(sum(calls.values()), 2),
        syscalls_by_name={
            name: round(count, 2)
            for name, count in sorted(calls.items(), key=lambda call: -call[1])
            if count >= 0.005
        },
    )


def _instructions(case: Case, keep: Path | None) -> float:
    """Return the user instructions of one request with IN_FLIGHT of them in flight."""
    with tempfile.TemporaryDirectory(prefix="tulle-check-") as folder:
        directory = Path(folder)
        output, vgdb = directory / "callgrind.out", f"--vgdb-prefix={directory}/vgdb"
        callgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--quiet"]
        callgrind += [f"--callgrind-out-file={output}", vgdb]
        with _running(case, callgrind, directory) as contender:
            pid = _measured(case, contender).popen.pid
            _send(case, contender, WARM_REQUESTS, IN_FLIGHT)
            _vgdb(vgdb, pid, "instrumentation on")
            sums = []
            for number, requests in enumerate((WARM_REQUESTS, *INSTRUCTION_RUNS), 1):
                _send(case, contender, requests, IN_FLIGHT)
                _vgdb(vgdb, pid, "dump")
                sums.append(instructions(Path(f"{output}.{number}").read_text()))
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(f"{output}.{len(sums)}", keep / f"callgrind.out.{case.shape}-{case.role}")
    return (sums[-1] - sums[-2]) / (INSTRUCTION_RUNS[1] - INSTRUCTION_RUNS[0])


def instructions(dump: str) -> int:
    """Return the instructions in one of callgrind's dumps.

    Raises:
        LookupError: it has no sum.
    """
    found = re.search(r"^(?:summary|totals): (\d+)", dump, flags=re.MULTILINE)
    if found is None:
        raise LookupError("callgrind wrote a dump without a sum")
    return int(found[1])


def _syscalls(case: Case) -> dict[str, float]:
    """Return the system calls of one request, by name, with one request in flight."""
    with tempfile.TemporaryDirectory(prefix="tulle-check-") as folder:
        log = Path(folder) / "strace.log"
        strace = ["strace", "--follow-forks", f"--output={log}"]
        with _running(case, strace, Path(folder)) as contender:
            _send(case, contender, WARM_REQUESTS, 1)
            seen = [syscalls(log.read_text())]
            for requests in SYSCALL_RUNS:
                _send(case, contender, requests, 1)
                seen.append(syscalls(log.read_text()))
    first, second, third = seen
    more = SYSCALL_RUNS[1] - SYSCALL_RUNS[0]
    return {
        name: (third[name] - second[name] - (second[name] - first[name])) / more for name in third
    }


def syscalls(log: str) -> Counter[str]:
    """Return how often each system call was made; one that was interrupted in the log counts once."""
    return Counter(re.findall(r"^\d+ +(\w+)\(", log, flags=re.MULTILINE))


@contextlib.contextmanager
def _running(case: Case, tool: Sequence[str], directory: Path) -> Iterator[Contender]:
    """Start the application and Tulle before it; *tool* runs the hop that is counted."""
    with contextlib.ExitStack() as stack:
        mode = "grpc-upstream" if case.shape is Shape.GRPC else "upstream"
        application, upstream = generator.start_application(directory, None, mode, {})
        stack.callback(application.stop)
        site = Site(case.shape, upstream, directory, None, certificates.issue(directory))

        def command(hop: Hop) -> Sequence[str | Path]:
            return tulle.command(hop, tool if hop.role == case.role else ())

        contender = start_hops("tulle", site, command)
        stack.callback(contender.stop)
        yield contender


def _measured(case: Case, contender: Contender) -> Process:
    """Return the process of the hop that is counted."""
    (process,) = (one for one in contender.processes if one.name.endswith(f"-{case.role}"))
    return process


def _send(case: Case, contender: Contender, requests: int, in_flight: int) -> None:
    """Send *requests*, over a connection each that is in flight or over streams of one."""
    load = generator.closed(in_flight)
    if case.shape is Shape.GRPC:
        load = generator.grpc(1, in_flight)
    outcome = load(None, contender, requests=requests)
    if outcome.errors:
        raise StartError(f"{outcome.errors} of {requests} requests failed")


def _vgdb(prefix: str, pid: int, order: str) -> None:
    """Give callgrind an order."""
    subprocess.run(
        ["vgdb", prefix, f"--pid={pid}", *order.split()], capture_output=True, check=True
    )


def _line(name: str, counts: Counts) -> str:
    by_name = ", ".join(f"{call} {count:g}" for call, count in counts.syscalls_by_name.items())
    return (
        f"{name}: {counts.instructions} instructions, {counts.syscalls:g} system calls ({by_name})"
    )


def _read() -> dict[str, Any]:
    if not BASELINE.exists():
        return {"cases": {}}
    document: dict[str, Any] = json.loads(BASELINE.read_text())
    return document


def _write(baseline: dict[str, Any], measured: Mapping[str, Counts]) -> None:
    cases = baseline["cases"] | {name: asdict(counts) for name, counts in measured.items()}
    valgrind = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True)
    document = {
        "cases": {name: cases[name] for name in CASES if name in cases},
        "versions": {"valgrind": valgrind.stdout.strip(), "python": platform.python_version()},
    }
    BASELINE.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
