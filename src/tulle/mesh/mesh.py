"""The Mesh: every resource and the state of every workload at one revision, related.

A Mesh never changes. `with_changes` makes the next one and copies only the tables that a change
touches; all else is shared with the mesh it came from, so two meshes a change apart can be
compared by identity.

What refers to a Service is kept in one index: a route's parents and backends, a policy's
targets. What selects by label is not: `select.py` looks through the one namespace concerned.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar, cast

from tulle.resources.aside import Aside, applied
from tulle.resources.authorizationpolicy import AuthorizationPolicy
from tulle.resources.backendtrafficpolicy import BackendTrafficPolicy
from tulle.resources.grpcroute import GRPCRoute
from tulle.resources.httproute import HTTPRoute
from tulle.resources.model import ObjectName, Resource, ResourceKey
from tulle.resources.namespace import Namespace, NamespaceMeta
from tulle.resources.peerauthentication import PeerAuthentication
from tulle.resources.registry import KINDS
from tulle.resources.route import BackendRef
from tulle.resources.service import Service
from tulle.resources.tcproute import TCPRoute
from tulle.resources.tlsroute import TLSRoute
from tulle.resources.workload import Workload

Route = HTTPRoute | GRPCRoute | TLSRoute | TCPRoute
Policy = BackendTrafficPolicy | AuthorizationPolicy | PeerAuthentication
Role = Literal["parent", "backend", "target"]
"""How a resource refers to a Service."""

ResourceT = TypeVar("ResourceT", bound=Resource)


class WorkloadState(NamedTuple):
    """What the control plane knows of a running workload; not part of any revision."""

    ready: bool = False
    draining: bool = False
    connected: bool = False

    @property
    def serves(self) -> bool:
        """Whether it may be given traffic."""
        return self.ready and self.connected and not self.draining


Names = Mapping[str, Resource]
Objects = Mapping[str, Mapping[str, Names]]
Referrers = Mapping[tuple[Role, ObjectName], frozenset[ResourceKey]]


@dataclass(frozen=True, slots=True)
class Mesh:
    """All resources at one revision; see the module's docstring."""

    revision: int = 0
    objects: Objects = field(default_factory=dict)
    """By kind, namespace ("" for cluster scope) and name."""
    states: Mapping[ObjectName, WorkloadState] = field(default_factory=dict)
    """By workload; one that is not here is not running."""
    referrers: Referrers = field(default_factory=dict)
    """Who refers to a Service, by the way they do."""
    aside: Mapping[ResourceKey, Aside] = field(default_factory=dict)
    """What is stored and refused; `objects` has what stands in for it."""

    @classmethod
    def of(
        cls,
        resources: Iterable[Resource],
        states: Mapping[ObjectName, WorkloadState] | None = None,
        revision: int = 0,
    ) -> "Mesh":
        """Return the mesh of *resources*; without *states* no workload is running."""
        return cls().with_changes(resources, states=states or {}, revision=revision)

    def with_changes(
        self,
        put: Iterable[Resource] = (),
        removed: Iterable[ResourceKey] = (),
        states: Mapping[ObjectName, WorkloadState | None] | None = None,
        revision: int | None = None,
    ) -> "Mesh":
        """Return the mesh after a change; this one stays as it is.

        Args:
            put: resources that are new, or take the place of the one with the same key.
            removed: keys to drop; one that is not there is passed over.
            states: workloads whose state changed; None drops the state.
            revision: that of the change; this mesh's own if not given.
        """
        draft = _Draft(self)
        for key in removed:
            draft.replace(key, None)
        for resource in put:
            draft.replace(resource.key, resource)
        merged = self.states
        if states:
            merged = {**self.states, **{k: v for k, v in states.items() if v is not None}}
            for name in (name for name, state in states.items() if state is None):
                merged.pop(name, None)
        return Mesh(
            revision=self.revision if revision is None else revision,
            objects=draft.objects,
            states=merged,
            referrers=draft.referrers,
            aside=draft.aside,
        )

    def holds(self, key: ResourceKey) -> bool:
        """Return whether there is a resource of this key, applied or set aside."""
        return self.find(key) is not None or key in self.aside

    def find(self, key: ResourceKey) -> Resource | None:
        """Return the resource of this key, or what stands in for it, or None."""
        return self.objects.get(key.kind, {}).get(key.namespace, {}).get(key.name)

    def get(self, model: type[ResourceT], name: ObjectName) -> ResourceT | None:
        """Return the resource of this model and name, or None."""
        found = self.find(ResourceKey(model.__name__, name.namespace, name.name))
        return cast("ResourceT | None", found)

    def all(self, model: type[ResourceT], namespace: str | None = None) -> Iterator[ResourceT]:
        """Yield resources of this model by namespace and name; None means every namespace."""
        spaces = self.objects.get(model.__name__, {})
        for space in sorted(spaces) if namespace is None else (namespace,):
            names = spaces.get(space, {})
            for name in sorted(names):
                yield cast("ResourceT", names[name])

    def __iter__(self) -> Iterator[Resource]:
        """Yield every resource, kind by kind in the order of the registry."""
        for kind in KINDS.values():
            yield from self.all(kind.model)

    def namespace(self, name: str) -> Namespace:
        """Return the Namespace; one that nobody wrote has no labels."""
        found = self.get(Namespace, ObjectName("", name))
        return found or Namespace(metadata=NamespaceMeta(name=name))

    def service(self, name: ObjectName) -> Service | None:
        """Return the Service of this name, or None."""
        return self.get(Service, name)

    def workload(self, name: ObjectName) -> Workload | None:
        """Return the Workload of this name, or None."""
        return self.get(Workload, name)

    def state(self, workload: ObjectName) -> WorkloadState:
        """Return what is known of a workload; nothing known is not running."""
        return self.states.get(workload, WorkloadState())

    def routes_to(self, service: ObjectName) -> tuple[Route, ...]:
        """Return the routes that have *service* as a parent, oldest first."""
        return cast("tuple[Route, ...]", self._referring("parent", service))

    def routes_using(self, service: ObjectName) -> tuple[Route, ...]:
        """Return the routes that have *service*, or a version of it, as a backend."""
        return cast("tuple[Route, ...]", self._referring("backend", service))

    def traffic_policies(self, service: ObjectName) -> tuple[BackendTrafficPolicy, ...]:
        """Return the policies about *service*, oldest first: the first one is in force."""
        found = self._referring("target", service)
        return tuple(policy for policy in found if isinstance(policy, BackendTrafficPolicy))

    def traffic_policy(self, service: ObjectName) -> BackendTrafficPolicy | None:
        """Return the policy that is in force for *service*, or None."""
        policies = self.traffic_policies(service)
        return policies[0] if policies else None

    def referring(self, service: ObjectName) -> frozenset[ResourceKey]:
        """Return all that refers to *service*, in whatever way."""
        roles: tuple[Role, ...] = ("parent", "backend", "target")
        return frozenset().union(
            *(self.referrers.get((role, service), frozenset()) for role in roles)
        )

    def _referring(self, role: Role, service: ObjectName) -> tuple[Resource, ...]:
        keys = self.referrers.get((role, service), frozenset())
        return tuple(sorted((cast("Resource", self.find(key)) for key in keys), key=age))


def age(resource: Resource) -> tuple[str, ObjectName]:
    """Sort key of the Gateway API's tie-break: older first, then by namespace and name.

    What has no creation timestamp yet counts as younger than all that has one.
    """
    return resource.metadata.creation_timestamp or "~", resource.object_name


def references(resource: Resource) -> frozenset[tuple[Role, ObjectName]]:
    """Return the Services that *resource* refers to by name, and how."""
    found: set[tuple[Role, ObjectName]] = set()
    namespace = resource.metadata.namespace or ""
    if isinstance(resource, Route):
        for parent in resource.spec.parent_refs:
            if (service := parent.service(namespace)) is not None:
                found.add(("parent", service))
        for backends in backend_lists(resource):
            for backend in backends:
                found.add(("backend", backend.target(namespace).service))
    elif isinstance(resource, BackendTrafficPolicy | AuthorizationPolicy):
        for target in resource.spec.target_refs:
            found.add(("target", target.service(namespace)))
    return frozenset(found)


def backend_lists(route: Route) -> list[tuple[BackendRef, ...]]:
    """Return the backends of each rule of *route*."""
    lists: list[tuple[BackendRef, ...]] = []
    for rule in route.spec.rules:
        lists.append(rule.backend_refs)  # noqa: PERF401 -- a comprehension loses the types
    return lists


class _Draft:
    """The tables of the next mesh: copied at the first change of each, shared until then."""

    def __init__(self, mesh: Mesh) -> None:
        self.objects: dict[str, Mapping[str, Names]] = dict(mesh.objects)
        self.referrers: Referrers = mesh.referrers
        self.aside: Mapping[ResourceKey, Aside] = mesh.aside
        self._own_referrers: dict[tuple[Role, ObjectName], frozenset[ResourceKey]] | None = None
        self._own: dict[tuple[str, str], dict[str, Resource]] = {}
        self._own_kinds: dict[str, dict[str, Names]] = {}

    def replace(self, key: ResourceKey, resource: Resource | None) -> None:
        """Put *resource* at *key*, or remove what is there if it is None."""
        if key in self.aside or isinstance(resource, Aside):
            others = {name: aside for name, aside in self.aside.items() if name != key}
            self.aside = others | ({key: resource} if isinstance(resource, Aside) else {})
            resource = applied(resource)
        names = self._names(key.kind, key.namespace)
        old = names.pop(key.name, None)
        if resource is not None:
            names[key.name] = resource
        elif not names:
            del self._own_kinds[key.kind][key.namespace]
            del self._own[key.kind, key.namespace]
        before = references(old) if old is not None else frozenset()
        after = references(resource) if resource is not None else frozenset()
        if before != after:
            self._refer(key, before, after)

    def _names(self, kind: str, namespace: str) -> dict[str, Resource]:
        if kind not in self._own_kinds:
            self._own_kinds[kind] = dict(self.objects.get(kind, {}))
            self.objects[kind] = self._own_kinds[kind]
        if (kind, namespace) not in self._own:
            copy = dict(self._own_kinds[kind].get(namespace, {}))
            self._own[kind, namespace] = copy
            self._own_kinds[kind][namespace] = copy
        return self._own[kind, namespace]

    def _refer(
        self,
        key: ResourceKey,
        before: frozenset[tuple[Role, ObjectName]],
        after: frozenset[tuple[Role, ObjectName]],
    ) -> None:
        if self._own_referrers is None:
            self._own_referrers = dict(self.referrers)
            self.referrers = self._own_referrers
        for reference in before - after:
            left = self._own_referrers[reference] - {key}
            if left:
                self._own_referrers[reference] = left
            else:
                del self._own_referrers[reference]
        for reference in after - before:
            self._own_referrers[reference] = self._own_referrers.get(reference, frozenset()) | {key}
