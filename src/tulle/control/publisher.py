"""From a change of the mesh to the hub: only touched records, only those subscribed to.

The compiler's inverted index names the records a change touches. Of these, the
ones that sidecars hold are compiled and encoded once; the hub writes the same
bytes to every subscriber. A record whose bytes came out equal is not sent.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tulle.compiler.compile import compile_record
from tulle.compiler.index import touched
from tulle.record import encode, version

if TYPE_CHECKING:
    from tulle.control.hub import Hub
    from tulle.mesh.mesh import Mesh
    from tulle.record import TrustRecord
    from tulle.resources.model import Resource


RECORD_BYTES_MAX = 4 * 1024 * 1024 - 4096
"""A frame of the record stream has 4 MiB at most, name and version included."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A record as it is sent."""

    version: str
    data: bytes


Change = tuple["Resource | None", "Resource | None"]
"""An object as it was and as it is; None where it did not exist."""


class Publisher:
    """Keeps what the hub holds equal to what the mesh compiles to."""

    def __init__(self, hub: Hub, mesh: Mesh, trust: TrustRecord, cache_bytes_max: int) -> None:
        self._hub = hub
        self._mesh = mesh
        self._trust = trust
        self._cache_bytes_max = cache_bytes_max
        self._cache_bytes = 0
        self._cache: OrderedDict[str, Encoded] = OrderedDict()
        self._published: dict[str, str | None] = {}
        self.compiled = 0
        """Records compiled since the start; a change must raise it by few."""

    @property
    def mesh(self) -> Mesh:
        """The mesh that is published."""
        return self._mesh

    def subscribed(self, name: str) -> None:
        """Give the hub the record it does not hold."""
        self._publish(name, self.encoded(name))

    def unsubscribed(self, name: str) -> None:
        """Nobody reads *name* any more, and the hub has dropped it."""
        self._published.pop(name, None)

    def change(self, after: Mesh, changes: Iterable[Change]) -> None:
        """Make *after* the published mesh; *changes* are all that differ from the last one."""
        names = touched(self._mesh, after, changes)
        self._mesh = after
        for name in names:
            self._drop(name)
        for name in sorted(names & self._published.keys()):
            record = self.encoded(name)
            if (record.version if record else None) != self._published[name]:
                self._publish(name, record)

    def encoded(self, name: str) -> Encoded | None:
        """The record of this name at the published mesh; None when there is no such thing."""
        cached = self._cache.get(name)
        if cached is not None:
            self._cache.move_to_end(name)
            return cached
        self.compiled += 1
        record = compile_record(self._mesh, self._trust, name)
        if record is None:
            return None
        data = encode(record)
        fresh = Encoded(version(data), data)
        self._keep(name, fresh)
        return fresh

    def published_version(self, name: str) -> str | None:
        """The version that subscribers should hold; None when there is no record."""
        return self._published.get(name)

    def _publish(self, name: str, record: Encoded | None) -> None:
        if record is None:
            self._published[name] = None
            self._hub.withdraw(name)
        elif len(record.data) > RECORD_BYTES_MAX:
            # An error here would keep the other records of the same change from their readers.
            self._published.setdefault(name, None)
            log.error(
                "%s is too large: %d bytes, at most %d; sidecars go on with what they have",
                *(name, len(record.data), RECORD_BYTES_MAX),
            )
        else:
            self._published[name] = record.version
            self._hub.publish(name, record.version, record.data)

    def _keep(self, name: str, record: Encoded) -> None:
        if len(record.data) > self._cache_bytes_max:
            return
        self._cache[name] = record
        self._cache_bytes += len(record.data)
        while self._cache_bytes > self._cache_bytes_max:
            _, oldest = self._cache.popitem(last=False)
            self._cache_bytes -= len(oldest.data)

    def _drop(self, name: str) -> None:
        dropped = self._cache.pop(name, None)
        if dropped is not None:
            self._cache_bytes -= len(dropped.data)
