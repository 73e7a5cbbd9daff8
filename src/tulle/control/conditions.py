"""The conditions of routes and policies, written when they come out otherwise than they stand.

A change of a route, of a policy or of a Service they are about makes them stale; `flush` computes
the stale ones, some at a time, and writes those that differ as changes of the status alone. Such
a change makes nothing stale, so it ends there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, get_args

from tulle.errors import StoreError
from tulle.mesh.change import Put
from tulle.mesh.check import policy_conditions, policy_status, route_status
from tulle.mesh.mesh import Policy, Route, references
from tulle.resources.peerauthentication import PeerAuthentication
from tulle.resources.policy import PolicyStatus
from tulle.resources.route import CONTROLLER_NAME, RouteStatus
from tulle.resources.service import Service

if TYPE_CHECKING:
    from tulle.mesh.change import Delete
    from tulle.mesh.mesh import Mesh
    from tulle.resources.model import ObjectName, Resource, ResourceKey

AT_ONCE_MAX = 200
"""Computed by one `flush`: a few hundredths of a second of the event loop."""

Owner = Route | Policy
OWNERS = get_args(Owner)

log = logging.getLogger(__name__)


class Conditions:
    """Which conditions are stale."""

    def __init__(
        self, commit: Callable[[Sequence[Put | Delete]], object], mesh: Callable[[], Mesh]
    ) -> None:
        """Begin with all of the mesh: it may have been written by another version."""
        self._commit = commit
        self._mesh = mesh
        every = chain.from_iterable(mesh().all(kind) for kind in OWNERS)
        self._stale = {resource.key: None for resource in every}

    def changed(
        self, after: Mesh, changes: Iterable[tuple[Resource | None, Resource | None]]
    ) -> None:
        """Note what follows from *changes*, each an object as it was and as it is in *after*."""
        services: set[ObjectName] = set()
        for old, new in changes:
            if (
                old is not None
                and new is not None
                and old.metadata.generation == new.metadata.generation
            ):
                continue
            for resource in (old, new):
                if isinstance(resource, Service):
                    services.add(resource.object_name)
                elif isinstance(resource, Owner):
                    self._stale[resource.key] = None
                    services.update(service for _, service in references(resource))
        for service in services:
            self._stale |= dict.fromkeys(after.referring(service))

    def flush(self, now: str) -> None:
        """Write some of what is stale and differs; *now* is RFC 3339."""
        keys = list(islice(self._stale, AT_ONCE_MAX))
        if not keys:
            return
        try:
            if changes := list(_changes(self._mesh(), keys, now)):
                self._commit(changes)
        except StoreError:
            log.exception("conditions wait to be written")
            return
        for key in keys:
            del self._stale[key]


def _changes(mesh: Mesh, keys: Iterable[ResourceKey], now: str) -> Iterator[Put]:
    for key in keys:
        resource = mesh.find(key)
        if isinstance(resource, Owner):
            before = resource.status
            after = _status(mesh, resource, now)
            if after != (before or type(after)()):
                yield Put(resource.model_copy(update={"status": after}), mode="status")


def _status(mesh: Mesh, resource: Owner, now: str) -> RouteStatus | PolicyStatus:
    """Return the status with our entries renewed, after those of other controllers."""
    if isinstance(resource, Policy):
        policy = resource.status or PolicyStatus()
        ancestors = tuple(one for one in policy.ancestors if one.controller_name != CONTROLLER_NAME)
        if not isinstance(resource, PeerAuthentication):
            ancestors += policy_status(mesh, resource, now)
        conditions = policy_conditions(mesh, resource, now)
        return policy.model_copy(update={"ancestors": ancestors, "conditions": conditions})
    route = resource.status or RouteStatus()
    foreign = tuple(one for one in route.parents if one.controller_name != CONTROLLER_NAME)
    return RouteStatus(parents=foreign + route_status(mesh, resource, now))
