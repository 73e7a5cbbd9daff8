"""What the sidecars report of their traffic, kept as totals that survive their restarts.

A sidecar reports cumulative series since its *epoch* (its start). Only the last
report of each workload counts; when a new epoch begins, the last report of the
old one is added to that workload's base. So a total never falls, and a report
that is lost or repeated changes nothing. A process that was succeeded reports once
more when it has ended: the base gets what it counted since it was added.
"""

from __future__ import annotations

import bisect
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

WINDOW_S = 10.0
"""Rates are over this time; reports come each second, so it holds about ten of them."""

EARLIER_MAX = 4
"""Epochs of a workload that may still have a last word: each is an upgrade that drains."""


class SeriesKey(NamedTuple):
    """What one series counts; the same fields as an edge of a report."""

    direction: str
    source: str | None
    source_identity: str | None
    service: str | None
    destination: str | None
    destination_identity: str | None
    route: str | None
    protocol: str
    code: str
    grpc_status: str | None
    reason: str | None
    mtls: bool


@dataclass(slots=True)
class Totals:
    """Counters of one series, or of several added up."""

    requests: int = 0
    retries: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    latency_us: Counter[int] = field(default_factory=Counter)
    """Requests by the upper bound of their bucket, microseconds."""

    def add(self, other: Totals) -> None:
        """Add *other* to this."""
        self.requests += other.requests
        self.retries += other.retries
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        for upper, count in other.latency_us.items():
            self.latency_us[upper] += count

    def since(self, before: Totals) -> Totals:
        """Return what was counted after *before*, of the same series."""
        return Totals(
            self.requests - before.requests,
            self.retries - before.retries,
            self.bytes_in - before.bytes_in,
            self.bytes_out - before.bytes_out,
            self.latency_us - before.latency_us,
        )

    def quantile_ms(self, share: float) -> float | None:
        """Upper bound of the bucket that *share* of the requests fall in; None without any."""
        counted = sum(self.latency_us.values())
        if counted == 0:
            return None
        wanted = share * counted
        seen = 0
        for upper in sorted(self.latency_us):
            seen += self.latency_us[upper]
            if seen >= wanted:
                return upper / 1000
        raise AssertionError("the buckets hold all that was counted")


@dataclass(frozen=True, slots=True)
class ProcessGauges:
    """How a sidecar's process is, from its last report."""

    uptime_s: float
    rss_bytes: int
    cpu_s: float
    connections: int
    dropped_series: int


@dataclass(frozen=True, slots=True)
class Report:
    """One report of a sidecar, parsed."""

    epoch: str
    gauges: ProcessGauges
    series: dict[SeriesKey, Totals]


def parse_report(body: dict[str, Any]) -> Report:
    """Read a sidecar's report.

    Raises:
        ValueError: a field is missing or of the wrong type; the message names it.
    """
    try:
        series: dict[SeriesKey, Totals] = {}
        for edge in body["edges"]:
            key = _key(edge)
            totals = Totals(
                int(edge["requests"]),
                int(edge["retries"]),
                int(edge["bytes_in"]),
                int(edge["bytes_out"]),
                Counter({int(upper): int(count) for upper, count in edge["latency_us"]}),
            )
            series.setdefault(key, Totals()).add(totals)
        gauges = ProcessGauges(
            float(body["uptime_s"]),
            int(body["rss_bytes"]),
            float(body["cpu_s"]),
            int(body["connections"]),
            int(body["dropped_series"]),
        )
        return Report(str(body["epoch"]), gauges, series)
    except KeyError as error:
        raise ValueError(f"the report has no {error}") from error
    except (TypeError, OverflowError) as error:
        raise ValueError(f"the report is malformed: {error}") from error


def _key(edge: dict[str, Any]) -> SeriesKey:
    """Return what the edge counts; what is not known comes as an empty text."""
    values = [edge[name] or None for name in SeriesKey._fields[:-1]]
    # UTF-8 has no lone surrogates, but JSON's escapes have: they could not be shown again.
    "".join(value or "" for value in values).encode()
    if not isinstance(edge["mtls"], bool):
        raise TypeError("mtls must be true or false")
    return SeriesKey._make([*values, edge["mtls"]])


@dataclass(slots=True)
class Reporter:
    """One workload's traffic: a base from earlier epochs and the last report."""

    base: dict[SeriesKey, Totals] = field(default_factory=dict)
    last: Report | None = None
    earlier: dict[str, dict[SeriesKey, Totals]] = field(default_factory=dict)
    """What the base has of each of the last epochs, oldest first."""
    samples: deque[tuple[float, dict[SeriesKey, int]]] = field(default_factory=deque)
    """Requests by series at each report of the window, oldest first; one may be older."""

    def totals(self) -> Iterator[tuple[SeriesKey, Totals]]:
        """Every series; one that has a base as well comes twice."""
        yield from self.base.items()
        if self.last is not None:
            yield from self.last.series.items()

    def rate(self, key: SeriesKey, now: float) -> float:
        """Requests per second of *key* over the window that ends *now*."""
        if not self.samples:
            return 0.0
        start = bisect.bisect_right(self.samples, now - WINDOW_S, key=lambda sample: sample[0])
        since, before = self.samples[max(start - 1, 0)]
        latest = self.samples[-1][1]
        span = min(WINDOW_S, max(now - since, 1.0))
        return (latest.get(key, 0) - before.get(key, 0)) / span


class Telemetry:
    """All reported traffic, bounded by reporters and by series of each."""

    def __init__(self, reporters_max: int, series_per_reporter_max: int) -> None:
        self._reporters_max = reporters_max
        self._series_max = series_per_reporter_max
        self._reporters: OrderedDict[str, Reporter] = OrderedDict()
        self.dropped_series = 0
        """Series that did not fit; what they counted is missing in every view."""

    def take(self, workload: str, report: Report, now: float) -> None:
        """Keep *report* as the last word of *workload*, a `namespace/name`."""
        reporter = self._reporters.setdefault(workload, Reporter())
        self._reporters.move_to_end(workload)
        if len(self._reporters) > self._reporters_max:
            self._reporters.popitem(last=False)
        self._fold_old_epoch(reporter, report)
        report = self._bounded(reporter, report)
        if not reporter.samples and report.gauges.uptime_s < WINDOW_S:
            reporter.samples.append((now - report.gauges.uptime_s, {}))
        reporter.last = report
        counted: Counter[SeriesKey] = Counter()
        for key, totals in reporter.totals():
            counted[key] += totals.requests
        reporter.samples.append((now, dict(counted)))
        while len(reporter.samples) > 2 and reporter.samples[1][0] <= now - WINDOW_S:
            reporter.samples.popleft()

    def take_last(self, workload: str, report: Report, now: float) -> None:
        """Count what *report*, the last word of its epoch, has more than the one before."""
        reporter = self._reporters.get(workload)
        if reporter is None or reporter.last is None or reporter.last.epoch == report.epoch:
            self.take(workload, report, now)
            return
        if report.epoch not in reporter.earlier and len(reporter.earlier) >= EARLIER_MAX:
            # It may be in the base already: better too little than twice.
            return
        self._fold(reporter, self._bounded(reporter, report))

    def gauges(self, workload: str) -> ProcessGauges | None:
        """How the sidecar's process was at its last report; None before the first."""
        reporter = self._reporters.get(workload)
        return reporter.last.gauges if reporter and reporter.last else None

    def series(self, now: float) -> Iterator[tuple[SeriesKey, Totals, float]]:
        """Every series with its totals and its requests per second."""
        for reporter in self._reporters.values():
            rated: set[SeriesKey] = set()
            for key, totals in reporter.totals():
                yield key, totals, 0.0 if key in rated else reporter.rate(key, now)
                rated.add(key)

    def _fold_old_epoch(self, reporter: Reporter, report: Report) -> None:
        last = reporter.last
        if last is None or last.epoch == report.epoch:
            return
        self._fold(reporter, last)
        reporter.last = None

    def _fold(self, reporter: Reporter, report: Report) -> None:
        """Add to the base what it does not have yet of the report's epoch."""
        known = reporter.earlier.get(report.epoch, {})
        for key, totals in report.series.items():
            more = totals.since(known[key]) if key in known else totals
            reporter.base.setdefault(key, Totals()).add(more)
        reporter.earlier[report.epoch] = {**known, **report.series}
        if len(reporter.earlier) > EARLIER_MAX:
            del reporter.earlier[next(iter(reporter.earlier))]

    def _bounded(self, reporter: Reporter, report: Report) -> Report:
        """Return *report* without the new series that would pass the bound."""
        room = self._series_max - len(reporter.base)
        fresh = [key for key in report.series if key not in reporter.base]
        excess = set(fresh[max(room, 0) :])
        if not excess:
            return report
        known = reporter.last.series if reporter.last else {}
        self.dropped_series += len(excess.difference(known))
        kept = {key: totals for key, totals in report.series.items() if key not in excess}
        return Report(report.epoch, report.gauges, kept)
