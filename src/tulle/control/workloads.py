"""Workloads in the store: registered by their sidecars, their status kept, removed when gone.

What sidecars say is collected and written in one commit by `flush`, at the end of
each batch of events: fifty sidecars that start at once cost a few commits. What
cannot be written, because the disk is full, waits for the next flush. A status is
written only when it differs from what the store says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from tulle.errors import Conflict, StoreError
from tulle.mesh.change import Delete, Put
from tulle.mesh.select import services_of
from tulle.resources.model import ObjectName, ResourceKey
from tulle.resources.namespace import Namespace
from tulle.resources.parse import parse_object
from tulle.resources.workload import Workload, WorkloadStatus

if TYPE_CHECKING:
    from tulle.control.clock import Clock
    from tulle.control.leases import Leases
    from tulle.control.peers import WorkloadHello
    from tulle.identity.spiffe import SpiffeId
    from tulle.mesh.mesh import Mesh

log = logging.getLogger(__name__)

Commit = Callable[[Sequence[Put | Delete]], object]
"""Writes all changes or none, and publishes what follows from them."""

ABSENT = WorkloadStatus(ready=False, draining=False, connected=False)


class Workloads:
    """The workloads that sidecars speak for."""

    def __init__(
        self, commit: Commit, mesh: Callable[[], Mesh], leases: Leases, clock: Clock
    ) -> None:
        self._commit = commit
        self._mesh = mesh
        self._leases = leases
        self._clock = clock
        self._unwritten: dict[ObjectName, Workload | None] = {}
        """By name; None is to be deleted."""

    def restore(self) -> None:
        """Give every workload that the store says is connected time to return."""
        present: list[str] = []
        absent: list[str] = []
        for workload in self._mesh().all(Workload):
            connected = workload.status is not None and workload.status.connected
            (present if connected else absent).append(str(workload.object_name))
        self._leases.restore(present, absent, self._clock.monotonic())

    def services_of(self, hello: WorkloadHello) -> frozenset[str]:
        """Names of the Services that select a workload with these labels."""
        return frozenset(
            service.metadata.name for service in services_of(self._mesh(), _resource(hello))
        )

    def register(self, hello: WorkloadHello, identity: SpiffeId) -> None:
        """A new process of the workload has joined; it is not ready yet.

        Raises:
            Conflict: a connected workload of this name has another identity.
            InvalidResources: what it says of itself is no valid Workload.
        """
        resource = _resource(hello)
        before = self._current(resource.object_name)
        _check_account(before, identity.service_account)
        if before is not None and _status(before).connected and not self._leases.runs(hello.key):
            return  # its sidecar is connected: what it serves counts until the new one connects
        self._want(resource, ABSENT)
        self._leases.disconnected(hello.key, self._clock.monotonic(), draining=False)

    def connected(self, hello: WorkloadHello) -> None:
        """A sidecar has connected; the same process goes on with the status it had.

        Raises:
            Conflict: a connected workload of this name has another service account.
            InvalidResources: what it says of itself is no valid Workload.
        """
        resource = _resource(hello)
        before = self._current(resource.object_name)
        _check_account(before, hello.service_account)
        goes_on = before is not None and before.spec == resource.spec
        status = _status(before) if before is not None and goes_on else ABSENT
        self._want(resource, status.model_copy(update={"connected": True}))
        self._leases.connected(hello.key)

    def status(self, hello: WorkloadHello, *, ready: bool, draining: bool) -> None:
        """A connected sidecar says how it is."""
        before = self._current(_name(hello.key))
        resource = before if before is not None else _resource(hello)
        status = WorkloadStatus(ready=ready, draining=draining, connected=True)
        self._want(resource, status)

    def disconnected(self, hello: WorkloadHello, *, draining: bool) -> None:
        """A sidecar's connection has ended; its lease begins to run."""
        self._leases.disconnected(hello.key, self._clock.monotonic(), draining=draining)

    def tick(self) -> list[str]:
        """Let leases end; return the workloads that are deleted for good."""
        now = self._clock.monotonic()
        for workload in self._leases.take_lapsed(now):
            current = self._current(_name(workload))
            if current is not None:
                log.info("workload %s is gone", workload)
                self._want(current, ABSENT)
        departed = self._leases.take_departed(now)
        for workload in departed:
            self._unwritten[_name(workload)] = None
        return departed

    def flush(self) -> None:
        """Write what has changed, in one commit."""
        changes = self._changes()
        if changes:
            try:
                self._commit(changes)
            except StoreError:
                log.exception("the status of workloads waits to be written")
                return
        self._unwritten.clear()

    def _changes(self) -> list[Put | Delete]:
        mesh = self._mesh()
        changes: list[Put | Delete] = []
        namespaces: set[str] = set()
        for name, wanted in self._unwritten.items():
            found = mesh.workload(name)
            if wanted is None:
                if found is not None:
                    changes.append(Delete(ResourceKey("Workload", *name)))
                continue
            if (
                name.namespace not in namespaces
                and mesh.get(Namespace, ObjectName("", name.namespace)) is None
            ):
                namespaces.add(name.namespace)
                changes.append(Put(_namespace(name.namespace)))
            if found is None or not _is_same(found, wanted):
                changes.append(Put(wanted))
            if found is None or _status(found) != _status(wanted):
                changes.append(Put(wanted, mode="status"))
        return changes

    def _current(self, name: ObjectName) -> Workload | None:
        if name in self._unwritten:
            return self._unwritten[name]
        return self._mesh().workload(name)

    def _want(self, resource: Workload, status: WorkloadStatus) -> None:
        """Remember to write this, over whatever is there by then.

        `since` moves only when the rest of the status does.
        """
        found = self._mesh().workload(resource.object_name)
        since = _status(found).since if found is not None else None
        status = status.model_copy(update={"since": since})
        if since is None or found is None or status != _status(found):
            status = status.model_copy(update={"since": timestamp(self._clock.now())})
        metadata = resource.metadata.model_copy(update={"resource_version": None})
        self._unwritten[resource.object_name] = resource.model_copy(
            update={"metadata": metadata, "status": status}
        )


def _resource(hello: WorkloadHello) -> Workload:
    spec: dict[str, object] = {
        "serviceAccount": hello.service_account,
        "address": hello.address,
        "ports": [
            {"port": port.port, "protocol": port.protocol, "listen": port.listen}
            for port in hello.ports
        ],
    }
    if hello.zone is not None:
        spec["zone"] = hello.zone
    resource = parse_object(
        {
            "apiVersion": "tulle.dev/v1alpha1",
            "kind": "Workload",
            "metadata": {
                "namespace": hello.namespace,
                "name": hello.name,
                "labels": hello.labels,
            },
            "spec": spec,
        }
    )
    assert isinstance(resource, Workload)  # noqa: S101  its kind says so
    return resource


def _namespace(name: str) -> Namespace:
    resource = parse_object({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    assert isinstance(resource, Namespace)  # noqa: S101  its kind says so
    return resource


def _check_account(before: Workload | None, service_account: str) -> None:
    """Refuse another service account the name of a connected workload.

    Raises:
        Conflict: *before* is connected with another service account.
    """
    if (
        before is not None
        and before.spec.service_account != service_account
        and _status(before).connected
    ):
        raise Conflict(
            f"workload {before.object_name} is connected with service account "
            f"'{before.spec.service_account}'"
        )


def _is_same(one: Workload, other: Workload) -> bool:
    return one.spec == other.spec and one.metadata.labels == other.metadata.labels


def _status(workload: Workload) -> WorkloadStatus:
    return workload.status if workload.status is not None else ABSENT


def _name(key: str) -> ObjectName:
    namespace, _, name = key.partition("/")
    return ObjectName(namespace, name)


def timestamp(now: datetime) -> str:
    """*now* in the form that resources hold: RFC 3339, in UTC."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")
