"""What a contender holds: before traffic, with idle connections, and after a burst has gone."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import generator
from bench.contender import Shape
from bench.report import Row
from bench.workloads import KIB_PER_MIB, running

if TYPE_CHECKING:
    from bench.workloads import Bench, Stage

IDLE_CONNECTIONS = 1000
BURST_SECONDS = 2.0
SETTLE_SECONDS = 10.0
"""How long after a burst memory is read."""


def memory(bench: Bench) -> None:
    """Measure resident memory before any traffic, with idle connections, and after a burst."""
    with running(bench, Shape.PLAIN) as stage:
        idle_kib = {contender.name: contender.rss_kib() for contender in stage.contenders}
        for name, kib in idle_kib.items():
            bench.report.add(Row("memory-idle", name, rss_mib=kib / KIB_PER_MIB))
        _held(bench, stage, "plain")
    with running(bench, Shape.TLS_IN) as stage:
        _held(bench, stage, "tls")
    # New processes: what a burst leaves is compared with what they began with.
    with running(bench, Shape.PLAIN) as stage:
        _burst(bench, stage)


def _held(bench: Bench, stage: Stage, kind: str) -> None:
    """Measure what connections add that were used once and are idle since."""
    for contender in stage.contenders:
        idle_kib = contender.rss_kib()
        with tempfile.TemporaryDirectory() as directory:
            holder = generator.hold(
                bench.generator_core, contender, IDLE_CONNECTIONS, Path(directory), stage.options
            )
            held_kib = contender.rss_kib()
            holder.stop()
        bench.report.add(
            Row(
                f"memory-{IDLE_CONNECTIONS}-idle-{kind}",
                contender.name,
                rss_mib=held_kib / KIB_PER_MIB,
                kib_per_connection=(held_kib - idle_kib) / IDLE_CONNECTIONS,
            )
        )


def _burst(bench: Bench, stage: Stage) -> None:
    """Measure what is left of a burst of connections that were all active at once."""
    load = generator.closed(IDLE_CONNECTIONS)
    before_kib, ended = {}, {}
    for contender in stage.contenders:
        before_kib[contender.name] = contender.rss_kib()
        load(bench.generator_core, contender, seconds=BURST_SECONDS)
        ended[contender.name] = time.monotonic()
    for contender in stage.contenders:
        time.sleep(max(ended[contender.name] + SETTLE_SECONDS - time.monotonic(), 0))
        kib = contender.rss_kib()
        bench.report.add(
            Row(
                "memory-after-burst",
                contender.name,
                rss_mib=kib / KIB_PER_MIB,
                ratio_to_idle=kib / before_kib[contender.name],
            )
        )
