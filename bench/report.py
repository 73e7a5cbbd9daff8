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

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results" / "latest.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's result in one workload; None where it says nothing."""

    workload: str
    contender: str
    cpu_us_per_request: float | None = None
    ratio_to_floor: float | None = None
    rss_mib: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """How far the rounds behind a row's ratio lie apart."""

    workload: str
    contender: str
    ratios: list[float]


@dataclass(frozen=True, slots=True)
class Goal:
    """A number that has to hold."""

    workload: str
    field: str
    at_most: float
    contender: str = "tulle"


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
        """Print the rows as a table, then the goals; return whether every goal is met."""
        _print_table(self.rows)
        met = True
        for goal in goals:
            for row in self.rows:
                if (row.workload, row.contender) == (goal.workload, goal.contender):
                    value = getattr(row, goal.field)
                    reached = value is not None and value <= goal.at_most
                    met = met and reached
                    verdict = "met" if reached else "MISSED"
                    print(f"goal {verdict}: {goal.workload} {goal.field} {value} <= {goal.at_most}")
        return met


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


def _print_table(rows: Sequence[Row]) -> None:
    headers = (
        "WORKLOAD",
        "CONTENDER",
        "CPU US",
        "X FLOOR",
        "RSS MIB",
        "P50 MS",
        "P99 MS",
        "ERRORS",
    )
    lines = [headers]
    for row in rows:
        cells = [row.workload, row.contender]
        cells += [_number(row.cpu_us_per_request, 1), _number(row.ratio_to_floor, 2)]
        cells += [_number(row.rss_mib, 4 if (row.rss_mib or 1) < 0.1 else 1)]
        cells += [_number(row.p50_ms, 3), _number(row.p99_ms, 3), str(row.errors)]
        lines.append(tuple(cells))  # type: ignore[arg-type]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("   ".join(cells).rstrip())


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
