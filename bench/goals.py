"""What the benchmark has to show: one goal a line, against a number or against a peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONTENDER = "tulle"

Rows = dict[tuple[str, str], "Mapping[str, Any]"]


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on one of Tulle's numbers, or on its ratio to a peer's."""

    workload: str
    field: str
    bound: float
    versus: str | None = None
    """The peer whose number ours is divided by; None: the number itself."""
    at_least: bool = False
    """Whether more is better."""
    contender: str = CONTENDER

    def __str__(self) -> str:
        """Return the bound in words, as `≤ 0.95 x haproxy`."""
        bound = f"{'≥' if self.at_least else '≤'} {self.bound:.3g}"
        return f"{bound} x {self.versus}" if self.versus else bound


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what was measured for it; None: something it needs was not measured."""

    goal: Goal
    measured: float | None

    @property
    def met(self) -> bool | None:
        """Return whether the goal is met; None when that cannot be told."""
        if self.measured is None:
            return None
        if self.goal.at_least:
            return self.measured >= self.goal.bound
        return self.measured <= self.goal.bound

    def __str__(self) -> str:
        """Return the line that is printed."""
        word = {True: "met", False: "MISSED", None: "not measured"}[self.met]
        shown = "-" if self.measured is None else f"{self.measured:.3g}"
        return f"goal {word}: {self.goal.workload} {self.goal.field} {shown}, {self.goal}"


def indexed(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Return *rows* by workload and contender."""
    return {(row["workload"], row["contender"]): row for row in rows}


def judge(goals: Sequence[Goal], rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Return a verdict for every goal."""
    found = indexed(rows)
    return [Verdict(goal, _measured(goal, found)) for goal in goals]


def _measured(goal: Goal, rows: Rows) -> float | None:
    ours = _value(rows, goal, goal.contender)
    if goal.versus is None or ours is None:
        return ours
    theirs = _value(rows, goal, goal.versus)
    return ours / theirs if theirs else None


def _value(rows: Rows, goal: Goal, contender: str) -> float | None:
    value: float | None = rows.get((goal.workload, contender), {}).get(goal.field)
    return value


def _below(workload: str, field: str, **bounds: float) -> tuple[Goal, ...]:
    return tuple(Goal(workload, field, bound, peer) for peer, bound in bounds.items())


def _bytes(workload: str) -> tuple[Goal, ...]:
    # The generator's core is the limit of what goes through, so some of Gb/s is noise.
    return (
        Goal(workload, "cpu_s_per_gb", 1.0, "haproxy"),
        Goal(workload, "gbit_per_s", 0.95, "haproxy", at_least=True),
    )


COST = "cpu_us_per_request"
PAIR = "mtls-pair-http1-32c"
ADDED = "added-latency-pair-1000-rps"

GOALS: tuple[Goal, ...] = (
    Goal("plain-http1-32c", "ratio_to_floor", 1.6),
    *_below("plain-http1-32c", COST, haproxy=0.95, envoy=0.3),
    *_below(PAIR, COST, haproxy=0.8, envoy=0.25),
    Goal(PAIR, COST, 0.35, "envoy-h2"),
    *(_below("grpc-unary-1x32", COST, envoy=0.5)),
    *(_below("grpc-unary-10x32", COST, envoy=0.5)),
    *_bytes("post-64k"),
    *_bytes("get-64k"),
    *_bytes("post-1m"),
    *_bytes("get-1m"),
    *_bytes("bulk-tcp"),
    *_bytes("bulk-tcp-pair"),
    *_below("connect-plain", COST, haproxy=1.0),
    *_below("connect-tls-in-full", COST, haproxy=1.0),
    *_below("connect-tls-in-resumed", COST, haproxy=1.0),
    *_below("connect-tls-out-full", COST, haproxy=1.0),
    *_below("connect-tls-out-resumed", COST, haproxy=1.0),
    *_below(ADDED, "p50_ms", envoy=0.5, haproxy=1.0),
    *_below(ADDED, "p99_ms", envoy=0.5, haproxy=1.0),
    Goal("istio-4c-1000-rps", "vcpu", 0.05),
    Goal("istio-4c-1000-rps", "rss_mib", 20.0),
    Goal("istio-16c-1000-rps", "vcpu", 0.05),
    Goal("istio-16c-1000-rps", "rss_mib", 20.0),
    Goal("memory-idle", "rss_mib", 15.0),
    Goal("memory-1000-idle-plain", "kib_per_connection", 2.0),
    Goal("memory-1000-idle-tls", "kib_per_connection", 14.0),
    Goal("memory-after-burst", "ratio_to_idle", 1.2),
    Goal("workers-locks", "lock_waits_per_request", 0.01),
    Goal("mesh-50-control-plane", "rss_mib", 90.0),
    Goal("mesh-50-sidecar", "rss_mib", 20.0),
    Goal("mesh-50-change-in-force", "p99_ms", 250.0),
)
