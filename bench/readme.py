"""The numbers in README.md, from bench/results/latest.json: `python -m bench.readme`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from bench.report import RESULTS

README: Final = Path(__file__).parent.parent / "README.md"
BEGIN: Final = "<!-- numbers: python -m bench.readme -->\n"
END: Final = "<!-- end of numbers -->\n"

CONTENDERS: Final = {
    "floor": "floor",
    "tulle": "**Tulle**",
    "haproxy": "HAProxy",
    "nginx": "nginx",
    "envoy": "Envoy",
    "uvloop": "uvloop + httptools",
}

Rows = dict[tuple[str, str], dict[str, Any]]


def block(document: dict[str, Any]) -> str:
    """Return what stands between the markers for the results in *document*."""
    rows: Rows = {(row["workload"], row["contender"]): row for row in document["rows"]}
    present = [name for name in CONTENDERS if ("plain-http1-32c", name) in rows]
    lines = [
        "| | HTTP/1.1 one hop | mTLS pair | gRPC | idle memory |",
        "|---|---:|---:|---:|---:|",
        *(_contender(rows, name) for name in present),
        "",
        *_mesh(rows),
        _origin(document),
    ]
    return "\n".join(lines) + "\n"


def _contender(rows: Rows, name: str) -> str:
    cost = _cell(rows, "plain-http1-32c", name, "cpu_us_per_request", "{:.0f} µs")
    ratio = _cell(rows, "plain-http1-32c", name, "ratio_to_floor", "{:.1f}x")
    cells = [
        f"{cost}, {ratio}",
        _cell(rows, "mtls-pair-http1-32c", name, "ratio_to_floor", "{:.1f}x"),
        _cell(rows, "grpc-unary-4x8", name, "ratio_to_floor", "{:.1f}x"),
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
    machine = document["machine"]
    return (
        f"Measured {document['written'][:10]} on {machine['cores']} cores of "
        f"{machine['processor']}; [how](bench/README.md)."
    )


def filled(readme: str, document: dict[str, Any]) -> str:
    """Return *readme* with the numbers of *document* between its markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise LookupError("README.md has lost the markers of its numbers")
    return before + BEGIN + block(document) + END + after


def main() -> None:
    """Write the numbers of the last run into README.md."""
    document = json.loads(RESULTS.read_text())
    README.write_text(filled(README.read_text(encoding="utf-8"), document), encoding="utf-8")


if __name__ == "__main__":
    main()
