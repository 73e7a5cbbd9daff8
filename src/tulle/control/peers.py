"""The sidecars on the hub: who is connected, how it is, and which records it holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tulle.errors import NotPermitted
from tulle.identity.spiffe import SpiffeId
from tulle.resources.model import ObjectName

HELD_RECORDS_MAX = 10_000
"""Most records remembered of one sidecar; the engine itself holds fewer."""


@dataclass(frozen=True, slots=True)
class PortHello:
    """One inbound port of a sidecar."""

    port: int
    """Port of the app."""

    protocol: str
    listen: int
    """Port the sidecar takes mTLS on."""


@dataclass(frozen=True, slots=True)
class WorkloadHello:
    """What a sidecar says of its workload when it joins and when it connects."""

    namespace: str
    name: str
    service_account: str
    labels: dict[str, str]
    zone: str | None
    address: str
    ports: tuple[PortHello, ...]

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return str(self.object_name)

    @property
    def object_name(self) -> ObjectName:
        """Namespace and name."""
        return ObjectName(self.namespace, self.name)


def parse_workload(body: object) -> WorkloadHello:
    """Read the workload of a join or hello; its values are checked as a resource later.

    Raises:
        ValueError: a field is missing or of the wrong type.
    """
    if not isinstance(body, dict):
        raise ValueError("workload: must be an object")  # noqa: TRY004  one error for bad input
    try:
        return WorkloadHello(
            namespace=_text(body, "namespace"),
            name=_text(body, "name"),
            service_account=_text(body, "service_account"),
            labels={str(key): str(value) for key, value in dict(body["labels"]).items()},
            zone=None if body["zone"] is None else _text(body, "zone"),
            address=_text(body, "address"),
            ports=tuple(
                PortHello(int(port["port"]), _text(port, "protocol"), int(port["listen"]))
                for port in body["ports"]
            ),
        )
    except KeyError as error:
        raise ValueError(f"workload: {error} is missing") from error
    except TypeError as error:
        raise ValueError(f"workload: {error}") from error


def parse_hello(peer_id: int, identity: str, hello: object) -> Peer:
    """Read the hello of a connection.

    Raises:
        ValueError: a field is missing or of the wrong type.
    """
    if not isinstance(hello, dict):
        raise ValueError("hello: must be an object")  # noqa: TRY004  likewise
    workload = parse_workload(hello.get("workload"))
    try:
        admin = hello["admin"]
        return Peer(
            id=peer_id,
            identity=identity,
            workload=workload,
            pid=int(hello["pid"]),
            version=str(hello["version"]),
            admin=None if admin is None else str(admin),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"hello: {error}") from error


def check_owner(workload: WorkloadHello, identity: SpiffeId) -> None:
    """Refuse a sidecar that speaks for a workload of another identity.

    Raises:
        NotPermitted: namespace or service account are not those of *identity*.
    """
    if (workload.namespace, workload.service_account) != (
        identity.namespace,
        identity.service_account,
    ):
        raise NotPermitted(f"the hello of {workload.key} does not fit {identity}")


def _text(body: dict[str, Any], name: str) -> str:
    value = body[name]
    if not isinstance(value, str):
        raise ValueError(f"workload.{name}: must be a string")  # noqa: TRY004  likewise
    return value


@dataclass(slots=True)
class HeldRecord:
    """One record at one sidecar."""

    version: str | None = None
    """The version in force there; None while none is."""

    refused_version: str | None = None
    """The version it refused last, unless it has taken a newer one since."""

    error: str | None = None
    """Why it refused."""


@dataclass(slots=True)
class Peer:
    """One connection of a sidecar; the last one of a workload is kept when it ends."""

    id: int
    identity: str
    workload: WorkloadHello
    pid: int
    version: str
    admin: str | None
    ready: bool = False
    draining: bool = False
    connected: bool = True
    records: dict[str, HeldRecord] = field(default_factory=dict)

    def acknowledged(self, name: str, version: str) -> None:
        """Note that the sidecar has put *version* of a record in force."""
        self._held(name, HeldRecord(version))

    def refused(self, name: str, version: str, error: str) -> None:
        """Note that the sidecar refused *version* and goes on with what it had."""
        before = self.records.get(name, HeldRecord())
        self._held(name, HeldRecord(before.version, version, error))

    def _held(self, name: str, held: HeldRecord) -> None:
        if name in self.records or len(self.records) < HELD_RECORDS_MAX:
            self.records[name] = held


class Peers:
    """All peers, by connection and by workload; at most one is live for a workload."""

    def __init__(self) -> None:
        self._by_id: dict[int, Peer] = {}
        self._by_workload: dict[str, Peer] = {}

    def add(self, peer: Peer) -> Peer | None:
        """Add a connected peer; return the live one of the same workload that it replaces."""
        replaced = self._by_workload.get(peer.workload.key)
        self._by_id[peer.id] = peer
        self._by_workload[peer.workload.key] = peer
        if replaced is None or not replaced.connected:
            return None
        replaced.connected = False
        del self._by_id[replaced.id]
        return replaced

    def remove(self, peer_id: int) -> Peer | None:
        """Note the end of a connection; None when it was replaced or never accepted."""
        peer = self._by_id.pop(peer_id, None)
        if peer is not None:
            peer.connected = False
            peer.ready = False
        return peer

    def forget(self, workload: str) -> None:
        """Drop what is kept of a disconnected workload."""
        peer = self._by_workload.get(workload)
        if peer is not None and not peer.connected:
            del self._by_workload[workload]

    def get(self, peer_id: int) -> Peer | None:
        """The live peer with this id; None for one whose connection was not accepted."""
        return self._by_id.get(peer_id)

    def of(self, workload: str) -> Peer | None:
        """The last peer of a workload, connected or not."""
        return self._by_workload.get(workload)

    def live(self) -> Iterator[Peer]:
        """Every connected peer."""
        return iter(list(self._by_id.values()))

    def all(self) -> list[Peer]:
        """The last peer of every workload, sorted by workload."""
        return [peer for _, peer in sorted(self._by_workload.items())]
