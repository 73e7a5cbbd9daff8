"""The numbers in README.md and docs/performance.md, from the results of the last runs.

usage: python -m bench.readme
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.goals import GOALS, indexed, judge
from bench.report import RESULTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.goals import Rows, Verdict

ROOT: Final = Path(__file__).parent.parent
README: Final = ROOT / "README.md"
PERFORMANCE: Final = ROOT / "docs" / "performance.md"
BEGIN: Final = "<!-- numbers: python -m bench.readme -->\n"
END: Final = "<!-- end of numbers -->\n"

LOAD_ALONE_MAX: Final = 3.5
"""Load average up to which the benchmark was alone on the machine: it keeps two cores busy."""

CONTENDERS: Final = {
    "floor": "floor",
    "tulle": "**Tulle**",
    "haproxy": "HAProxy",
    "nginx": "nginx",
    "envoy": "Envoy",
    "uvloop": "uvloop + httptools",
}


def block(document: dict[str, Any]) -> str:
    """Return what stands between the markers for the results in *document*."""
    rows = indexed(document["rows"])
    present = [name for name in CONTENDERS if ("plain-http1-32c", name) in rows]
    lines = [
        "| | HTTP/1.1 one hop | mTLS pair | gRPC | idle memory |",
        "|---|---:|---:|---:|---:|",
        *(_contender(rows, name) for name in present),
        "",
        *_mesh(rows),
        _origin(document),
        "[How](bench/README.md) · [goals](docs/performance.md)",
    ]
    return "\n".join(lines) + "\n"


def _contender(rows: Rows, name: str) -> str:
    cost = _cell(rows, "plain-http1-32c", name, "cpu_us_per_request", "{:.0f} µs")
    ratio = _cell(rows, "plain-http1-32c", name, "ratio_to_floor", "{:.1f}x")
    cells = [
        f"{cost}, {ratio}",
        _cell(rows, "mtls-pair-http1-32c", name, "ratio_to_floor", "{:.1f}x"),
        _cell(rows, "grpc-unary-10x32", name, "ratio_to_floor", "{:.1f}x"),
        _cell(rows, "memory-idle", name, "rss_mib", "{:.0f} MiB"),
    ]
    return f"| {CONTENDERS[name]} | {' | '.join(cells)} |"


def _cell(rows: Rows, workload: str, name: str, field: str, text: str) -> str:
    value = rows.get((workload, name), {}).get(field)
    return "-" if value is None else text.format(value)


def _mesh(rows: Rows) -> list[str]:
    """Return the sentence about a whole mesh, of the largest one that was measured."""
    sizes = [
        int(found[1])
        for workload, _ in rows
        if (found := re.fullmatch(r"mesh-(\d+)-control-plane", workload))
    ]
    if not sizes:
        return []
    size = max(sizes)
    control, sidecar, change = (
        rows[f"mesh-{size}-{what}", "tulle"]
        for what in ("control-plane", "sidecar", "change-in-force")
    )
    memory = f"control plane {control['rss_mib']:.0f} MiB, sidecar {sidecar['rss_mib']:.0f} MiB"
    return [
        f"A mesh of {size} sidecars: {memory};",
        f"a change is in force everywhere within {change['p99_ms']:.0f} ms (p99).",
    ]


def _origin(document: dict[str, Any]) -> str:
    machine, load = document["machine"], document["method"].get("load_average", 0)
    text = (
        f"Measured {document['written'][:10]} on {machine['cores']} cores of {machine['processor']}"
    )
    if load > LOAD_ALONE_MAX:
        text += f", beside other work (load average {load:g}): only ratios tell"
    return f"{text}."


UNITS: Final = {
    "cpu_us_per_request": "CPU per request",
    "ratio_to_floor": "CPU per request, times the floor",
    "cpu_s_per_gb": "CPU per byte",
    "gbit_per_s": "bytes per second",
    "vcpu": "vCPU per sidecar",
    "rss_mib": "MiB resident",
    "kib_per_connection": "KiB per connection",
    "ratio_to_idle": "resident, times idle",
    "p50_ms": "p50",
    "p99_ms": "p99",
    "lock_waits_per_request": "waits for a lock per request",
}


def goals_block(document: dict[str, Any]) -> str:
    """Return the table of goals against what was measured."""
    lines = ["| workload | number | goal | measured | |", "|---|---|---|---:|---|"]
    lines += [_goal(verdict) for verdict in judge(GOALS, document["rows"])]
    return "\n".join([*lines, "", _origin(document)]) + "\n"


def _goal(verdict: Verdict) -> str:
    goal = verdict.goal
    number = "-" if verdict.measured is None else f"{verdict.measured:.3g}"
    word = {True: "met", False: "**missed**", None: "not measured"}[verdict.met]
    return f"| `{goal.workload}` | {UNITS[goal.field]} | {goal} | {number} | {word} |"


def filled(page: str, numbers: str) -> str:
    """Return *page* with *numbers* between its markers.

    Raises:
        LookupError: it has none.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise LookupError("a page has lost the markers of its numbers")
    return before + BEGIN + numbers + END + after


PAGES: Final[dict[Path, Callable[[dict[str, Any]], str]]] = {
    README: block,
    PERFORMANCE: goals_block,
}


def main() -> None:
    """Write the numbers of the last run into the pages that show them."""
    document = json.loads(RESULTS.read_text())
    for page, block_of in PAGES.items():
        text = page.read_text(encoding="utf-8")
        page.write_text(filled(text, block_of(document)), encoding="utf-8")


if __name__ == "__main__":
    main()
