"""When the endpoints of a workload whose sidecar has gone away leave, as arithmetic on a clock.

A workload is *present* while its sidecar is connected and for `LEASE_S` after, so
that a sidecar that reconnects causes no change at any caller. When the control
plane itself was away, every workload that was present in the store stays so for
`RESTART_GRACE_S`: all sidecars have to reconnect, and none of it is their doing.
A workload that stays away for `DEPARTED_S` is to be deleted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

LEASE_S = 5.0
"""Longer than a lost packet and a reconnect (backoff starts at 0.1 s), shorter than patience."""

RESTART_GRACE_S = 30.0
"""Sidecars wait at most 5 s between attempts; this gives the slowest a few of them."""

DEPARTED_S = 600.0
"""Long enough to look at what died, short enough that names do not pile up."""


class Leases:
    """The workloads without a connection, and until when they may be."""

    def __init__(self, departed_max: int) -> None:
        self._departed_max = departed_max
        self._lapse_at: dict[str, float] = {}
        self._delete_at: OrderedDict[str, float] = OrderedDict()

    def restore(self, present: Iterable[str], absent: Iterable[str], now: float) -> None:
        """Take over what the store says when the process starts."""
        for workload in absent:
            self._delete_at[workload] = now + DEPARTED_S
        for workload in present:
            self._lapse_at[workload] = now + RESTART_GRACE_S

    def connected(self, workload: str) -> None:
        """The sidecar is back, or new."""
        self._lapse_at.pop(workload, None)
        self._delete_at.pop(workload, None)

    def runs(self, workload: str) -> bool:
        """Whether the workload is present without a connection."""
        return workload in self._lapse_at

    def disconnected(self, workload: str, now: float, *, draining: bool) -> None:
        """The sidecar is gone; one that was draining is not waited for."""
        self._delete_at.pop(workload, None)
        self._lapse_at[workload] = now if draining else now + LEASE_S

    def take_lapsed(self, now: float) -> list[str]:
        """Return, once, the workloads that are not present any more."""
        lapsed = [workload for workload, at in self._lapse_at.items() if at <= now]
        for workload in lapsed:
            del self._lapse_at[workload]
            self._delete_at[workload] = now + DEPARTED_S
        return lapsed

    def take_departed(self, now: float) -> list[str]:
        """Return, once, the workloads to delete: gone for long, or the longest gone of too many."""
        departed = []
        while self._delete_at:
            workload, at = next(iter(self._delete_at.items()))
            if at > now and len(self._delete_at) <= self._departed_max:
                break
            del self._delete_at[workload]
            departed.append(workload)
        return departed
