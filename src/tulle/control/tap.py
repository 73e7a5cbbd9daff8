"""Live requests: one filter goes to every sidecar, their entries come back in one stream.

A request between two sidecars is seen by both. The destination's entry is the
one that is passed on, for it knows the policy that decided; the caller's only
when the request reached no sidecar, so each request is shown once.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tulle.control.bounds import TooMany

if TYPE_CHECKING:
    from tulle.control.hub import Hub


SIDECAR_ENTRIES_MAX = 100_000
"""What each sidecar may send: all that the engine allows, for most of it is not passed on."""

NOT_ARRIVED = frozenset({"connect-failed", "tls-failed", "unsent"})
"""The engine's reasons for failures before the destination's sidecar saw a request."""


@dataclass(frozen=True, slots=True)
class TapFilter:
    """Which requests to show; None and False ask for nothing."""

    service: str | None
    """`namespace/name` of the service they are for."""

    method: str | None
    path: str | None
    """Prefix of the path."""

    status: str | None
    """A status such as `404`, or a class such as `5xx`."""

    denied: bool
    """Only what an authorization policy refused."""

    max: int
    """How many, then the tap ends."""


class Tap:
    """One open tap: its entries wait here for the reader."""

    def __init__(self, tap_id: int, tap_filter: TapFilter, backlog_max: int) -> None:
        self.id = tap_id
        self.filter = tap_filter
        self.dropped = 0
        """Entries that came while the reader was too slow."""
        self._left = tap_filter.max
        self._entries: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(backlog_max)

    def offer(self, entry: dict[str, Any], *, serves: bool) -> None:
        """Take an entry of a sidecar, unless the other side of the request tells of it.

        *serves* says whether the sidecar's workload belongs to the service of the
        filter: an inbound request does not know by which service it was called.
        """
        if self._left == 0 or not is_shown(entry):
            return
        if entry["direction"] == "inbound":
            if not serves:
                return
            entry = {**entry, "service": entry["service"] or self.filter.service}
        if self._entries.full():
            self.dropped += 1
            return
        self._left -= 1
        self._entries.put_nowait(entry)

    async def next(self) -> dict[str, Any] | None:
        """Wait for the next entry; None when all that were asked for have come."""
        if self._left == 0 and self._entries.empty():
            return None
        return await self._entries.get()


def is_shown(entry: dict[str, Any]) -> bool:
    """Whether this side's entry stands for the request."""
    if entry["direction"] == "inbound":
        return True
    return bool(entry["reason"]) and (not entry["destination"] or entry["reason"] in NOT_ARRIVED)


class Taps:
    """All open taps; every connected sidecar has each of them."""

    def __init__(self, hub: Hub, taps_max: int, backlog_max: int) -> None:
        self._hub = hub
        self._taps_max = taps_max
        self._backlog_max = backlog_max
        self._ids = itertools.count(1)
        self._open: dict[int, Tap] = {}

    def open(self, tap_filter: TapFilter, peers: Iterable[int]) -> Tap:
        """Begin a tap on *peers*, all that are connected.

        Raises:
            TooMany: as many taps as may be are open.
        """
        if len(self._open) >= self._taps_max:
            raise TooMany(f"{self._taps_max} taps are open; close one first")
        tap = Tap(next(self._ids), tap_filter, self._backlog_max)
        self._open[tap.id] = tap
        for peer in peers:
            self._begin(tap, peer)
        return tap

    def connected(self, peer: int) -> None:
        """Begin every open tap on a sidecar that has just connected."""
        for tap in self._open.values():
            self._begin(tap, peer)

    def filter(self, tap_id: int) -> TapFilter | None:
        """The filter of an open tap; None when it has ended."""
        tap = self._open.get(tap_id)
        return tap.filter if tap is not None else None

    def entry(self, tap_id: int, entry: dict[str, Any], *, serves: bool) -> None:
        """Take an entry of a sidecar; one for a tap that has ended is dropped."""
        tap = self._open.get(tap_id)
        if tap is not None:
            tap.offer(entry, serves=serves)

    def close(self, tap: Tap, peers: Iterable[int]) -> None:
        """End a tap on *peers*."""
        del self._open[tap.id]
        body = json.dumps({"id": tap.id}).encode()
        for peer in peers:
            self._hub.send(peer, "untap", body)

    def _begin(self, tap: Tap, peer: int) -> None:
        asked = {**asdict(tap.filter), "max": SIDECAR_ENTRIES_MAX}
        body = json.dumps({"id": tap.id, "filter": asked}).encode()
        self._hub.send(peer, "tap", body)
