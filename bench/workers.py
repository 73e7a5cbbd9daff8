"""Four workers against one: throughput, CPU per request, and locks that threads wait for."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench import generator, tulle
from bench.contender import Shape
from bench.report import Row
from bench.workloads import cost, running

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.contender import Hop
    from bench.workloads import Bench

CONTENDER = "tulle"
WORKERS = (1, 4)
CONNECTIONS = 128
"""Enough that each of four listeners gets its share."""
REQUESTS = 20_000


def workers(bench: Bench) -> None:
    """Measure each number of workers on all cores, then count lock waits with the most of them."""
    everywhere = replace(
        bench,
        core=None,
        generator_core=None,
        commands={
            Shape.PLAIN: {
                f"{CONTENDER}-{count}": partial(tulle.command, workers=count) for count in WORKERS
            }
        },
    )
    cost(everywhere, Shape.PLAIN, "workers", generator.closed(CONNECTIONS))
    if shutil.which("strace") is None:
        print("lock waits are left out: apt-get install strace", file=sys.stderr)
        return
    _lock_waits(everywhere)


def _lock_waits(bench: Bench) -> None:
    """Count the futex calls of a request.

    A thread that finds a lock taken waits in the kernel, and the one that lets go wakes it: locks
    that requests share show as futex calls. Only those stop under this strace, so the threads run
    at full speed otherwise, and it needs no privilege to trace what it has started.
    """
    with tempfile.TemporaryDirectory(prefix="tulle-futex-") as folder:
        log = Path(folder) / "strace.log"
        strace = ["strace", "--follow-forks", "--seccomp-bpf", "--trace=futex", f"--output={log}"]

        def command(hop: Hop) -> Sequence[str | Path]:
            return tulle.command(hop, strace, workers=max(WORKERS))

        traced = replace(bench, commands={Shape.PLAIN: {CONTENDER: command}})
        load = generator.closed(CONNECTIONS)
        with running(traced, Shape.PLAIN) as stage:
            (contender,) = stage.contenders
            load(None, contender, requests=REQUESTS)
            before = _futexes(log)
            load(None, contender, requests=REQUESTS)
            waits = _futexes(log) - before
    bench.report.add(Row("workers-locks", CONTENDER, lock_waits_per_request=waits / REQUESTS))


def _futexes(log: Path) -> int:
    """Return the futex calls logged so far; one that was interrupted in the log counts once."""
    return len(re.findall(r"^\d+ +futex\(", log.read_text(), flags=re.MULTILINE))
