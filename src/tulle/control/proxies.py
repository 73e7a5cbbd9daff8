"""The view of all sidecars: how each is, and whether what it holds is what it should hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tulle.control.peers import HeldRecord, Peer
from tulle.resources.model import ObjectName
from tulle.resources.workload import Workload

if TYPE_CHECKING:
    from tulle.control.plane import ControlPlane
    from tulle.control.publisher import Publisher


def proxy_rows(plane: ControlPlane, only: str | None = None) -> list[dict[str, Any]]:
    """One row for each workload, by name; *only* keeps the one of this `namespace/name`."""
    names = {str(workload.object_name) for workload in plane.mesh.all(Workload)}
    names.update(peer.workload.key for peer in plane.peers.live())
    return [_row(plane, name) for name in sorted(names) if only is None or name == only]


def _row(plane: ControlPlane, name: str) -> dict[str, Any]:
    peer = plane.peers.of(name)
    gauges = plane.telemetry.gauges(name)
    row: dict[str, Any] = {
        "workload": name,
        "rss_bytes": gauges.rss_bytes if gauges else None,
        "cpu_s": gauges.cpu_s if gauges else None,
    }
    if peer is None:
        return {**row, **_not_seen(plane, name)}
    return {
        **row,
        "identity": peer.identity,
        "connected": peer.connected,
        "ready": peer.ready,
        "draining": peer.draining,
        "pid": peer.pid,
        "admin": peer.admin,
        "version": peer.version,
        "records": [
            _record(plane.publisher, peer, record, held)
            for record, held in sorted(peer.records.items())
            if not peer.connected or plane.publisher.published_version(record) is not None
        ],
    }


def _not_seen(plane: ControlPlane, name: str) -> dict[str, Any]:
    """The columns of a workload that has not connected since this process started."""
    namespace, _, own = name.partition("/")
    state = plane.mesh.state(ObjectName(namespace, own))
    return {
        "identity": None,
        "connected": False,
        "ready": state.ready,
        "draining": state.draining,
        "pid": None,
        "admin": None,
        "version": None,
        "records": [],
    }


def _record(publisher: Publisher, peer: Peer, name: str, held: HeldRecord) -> dict[str, Any]:
    wanted = publisher.published_version(name)
    return {
        "name": name,
        "version": wanted,
        "held": held.version,
        "in_sync": peer.connected and held.version == wanted,
        "error": held.error if held.refused_version == wanted else None,
    }
