"""Rows of results: kept in one JSON file, printed as a table."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.goals import judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.goals import Goal

RESULTS = Path(__file__).parent / "results" / "latest.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's result in one workload; None where it says nothing."""

    workload: str
    contender: str
    cpu_us_per_request: float | None = None
    ratio_to_floor: float | None = None
    requests_per_s: float | None = None
    cpu_s_per_gb: float | None = None
    gbit_per_s: float | None = None
    vcpu: float | None = None
    """Share of a core that was busy, for one side of a pair."""
    lock_waits_per_request: float | None = None
    rss_mib: float | None = None
    kib_per_connection: float | None = None
    ratio_to_idle: float | None = None
    """Memory now over memory before any traffic."""
    p50_ms: float | None = None
    p99_ms: float | None = None
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """How far the rounds behind a row's ratio lie apart."""

    workload: str
    contender: str
    ratios: list[float]


@dataclass(slots=True)
class Report:
    """The rows of one script's run."""

    rows: list[Row] = field(default_factory=list)
    spreads: list[Spread] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Add a row, its numbers rounded to what they can say."""
        values: dict[str, Any] = {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(row).items()
        }
        self.rows.append(Row(**values))

    def save(self, versions: dict[str, str], method: dict[str, Any]) -> None:
        """Write the rows to the results file, in place of older rows of the same workloads."""
        document = _read()
        fresh = {row.workload for row in self.rows}
        document["rows"] = [row for row in document["rows"] if row["workload"] not in fresh] + [
            asdict(row) for row in self.rows
        ]
        document["spreads"] = [
            spread for spread in document["spreads"] if spread["workload"] not in fresh
        ] + [asdict(spread) for spread in self.spreads]
        document["written"] = datetime.now(UTC).isoformat(timespec="seconds")
        document["machine"] = machine()
        document["versions"].update(versions)
        document["method"].update(method)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")

    def print(self, goals: Sequence[Goal]) -> bool:
        """Print the rows as a table, then the goals on them; return whether none is missed."""
        _print_table(self.rows)
        fresh = {row.workload for row in self.rows}
        verdicts = judge(
            [goal for goal in goals if goal.workload in fresh], [asdict(row) for row in self.rows]
        )
        for verdict in verdicts:
            print(verdict)
        return all(verdict.met is not False for verdict in verdicts)


def _read() -> dict[str, Any]:
    if not RESULTS.exists():
        return {"rows": [], "spreads": [], "versions": {}, "method": {}}
    document: dict[str, Any] = json.loads(RESULTS.read_text())
    return document


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def median(values: Sequence[float]) -> float:
    """Return the median as a float."""
    return float(statistics.median(values))


COLUMNS = {
    "cpu_us_per_request": ("CPU US", 1),
    "ratio_to_floor": ("X FLOOR", 2),
    "requests_per_s": ("REQ/S", 0),
    "cpu_s_per_gb": ("S/GB", 3),
    "gbit_per_s": ("GBIT/S", 1),
    "vcpu": ("VCPU", 4),
    "lock_waits_per_request": ("WAITS", 4),
    "rss_mib": ("RSS MIB", 1),
    "kib_per_connection": ("KIB EACH", 1),
    "ratio_to_idle": ("X IDLE", 2),
    "p50_ms": ("P50 MS", 3),
    "p99_ms": ("P99 MS", 3),
    "errors": ("ERRORS", 0),
}
"""Heading and digits of every number of a row."""


def _print_table(rows: Sequence[Row]) -> None:
    """Print *rows* with the columns in which any of them says something."""
    values = [asdict(row) for row in rows]
    shown = [name for name in COLUMNS if any(row[name] is not None for row in values)]
    lines = [["WORKLOAD", "CONTENDER", *(COLUMNS[name][0] for name in shown)]]
    for row in values:
        numbers = [_number(row[name], COLUMNS[name][1]) for name in shown]
        lines.append([row["workload"], row["contender"], *numbers])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("   ".join(cells).rstrip())


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
