"""Views of the reported traffic: edges between workloads, and rows by service and the like.

Every request between two sidecars is reported twice, by the caller's (outbound)
and by the destination's (inbound). The views count it once: at the caller, who
also saw retries and what never arrived; at the destination only where the
caller has no identity, and so no sidecar that could have counted it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tulle.control.telemetry import SeriesKey, Totals

Measured = Iterable[tuple[SeriesKey, Totals, float]]
"""Series with totals and requests per second, as `Telemetry.series` yields them."""


@dataclass(slots=True)
class Sum:
    """Totals of many series and what share of them went well."""

    totals: Totals = field(default_factory=Totals)
    success: int = 0
    rps: float = 0.0
    mtls: bool = True
    protocols: set[str] = field(default_factory=set)

    def add(self, key: SeriesKey, totals: Totals, rps: float) -> None:
        """Add one series."""
        self.totals.add(totals)
        self.rps += rps
        self.mtls = self.mtls and key.mtls
        self.protocols.add(key.protocol)
        if is_success(key):
            self.success += totals.requests

    def row(self) -> dict[str, Any]:
        """The measured columns that every view has."""
        requests = self.totals.requests
        return {
            "requests": requests,
            "success": self.success,
            "success_rate": self.success / requests if requests else None,
            "rps": round(self.rps, 3),
            "p50_ms": self.totals.quantile_ms(0.5),
            "p99_ms": self.totals.quantile_ms(0.99),
            "bytes_in": self.totals.bytes_in,
            "bytes_out": self.totals.bytes_out,
            "retries": self.totals.retries,
            "mtls": self.mtls,
            "protocol": "/".join(sorted(self.protocols)),
        }


SERVER_FAULTS = frozenset({"2", "4", "12", "13", "14", "15"})
"""The gRPC statuses that a gateway would answer with 5xx (grpc `http-grpc-status-mapping.md`)."""


def is_success(key: SeriesKey) -> bool:
    """Whether requests of this series went well.

    Those answered with a 5xx or its like in gRPC did not, nor did a TCP connection that was cut.
    """
    if key.code == "0":
        return not key.reason
    return not key.code.startswith("5") and key.grpc_status not in SERVER_FAULTS


def is_counted(key: SeriesKey) -> bool:
    """Whether this side of a request is the one that views count."""
    return key.direction == "outbound" or not key.source_identity


def edges(series: Measured, namespace: str | None) -> list[dict[str, Any]]:
    """Who talks to whom: one row for each caller, service and destination.

    *namespace* keeps the edges that begin or end there; None keeps all.
    """
    counted = ((key, totals, rps) for key, totals, rps in series if is_counted(key))
    sums = _sum(
        counted,
        lambda key: (
            key.source,
            key.source_identity,
            key.service,
            key.destination,
            key.destination_identity,
            key.protocol,
        ),
    )
    names = ("source", "source_identity", "service", "destination", "destination_identity")
    rows = [{**dict(zip(names, group[:5], strict=True)), **total.row()} for group, total in sums]
    return [
        row
        for row in rows
        if namespace is None
        or namespace in {_namespace(row[end]) for end in ("source", "service", "destination")}
    ]


def stat(series: Measured, by: str, namespace: str | None) -> list[dict[str, Any]]:
    """Traffic received, one row for each service, workload or route.

    A workload's row is what its own sidecar took in; the other two are what
    callers saw, so failures that reached no workload are in them.
    """
    if by == "workload":
        received = (entry for entry in series if entry[0].direction == "inbound")
        sums = _sum(received, lambda key: (key.destination, None))
    elif by == "route":
        counted = (entry for entry in series if is_counted(entry[0]) and entry[0].route)
        sums = _sum(counted, lambda key: (key.service, key.route))
    else:
        counted = (entry for entry in series if is_counted(entry[0]))
        sums = _sum(counted, lambda key: (key.service, None))
    rows = []
    for (name, route), total in sums:
        if name is None or (namespace is not None and _namespace(name) != namespace):
            continue
        rows.append({"name": name, "route": route, **total.row()})
    return rows


def _sum(
    series: Measured, group: Callable[[SeriesKey], tuple[str | None, ...]]
) -> list[tuple[tuple[str | None, ...], Sum]]:
    sums: defaultdict[tuple[str | None, ...], Sum] = defaultdict(Sum)
    for key, totals, rps in series:
        sums[group(key)].add(key, totals, rps)
    return sorted(sums.items(), key=lambda entry: [part or "" for part in entry[0]])


def _namespace(name: str | None) -> str | None:
    return name.partition("/")[0] if name else None
