"""Which records a change touches, found from what the changed objects refer to.

Each function names the records that read an object of its kind. They are asked about the
object before and after the change, each time in the mesh it belonged to: what an object
used to select is touched as well as what it selects now.
"""

from collections.abc import Iterable, Iterator

from tulle.mesh.mesh import Mesh, Route
from tulle.mesh.select import ROOT_NAMESPACE, selected_workloads, services_of
from tulle.resources.authorizationpolicy import AuthorizationPolicy
from tulle.resources.backendtrafficpolicy import BackendTrafficPolicy
from tulle.resources.grpcroute import GRPCRoute
from tulle.resources.httproute import HTTPRoute
from tulle.resources.model import ObjectName, Resource
from tulle.resources.namespace import Namespace
from tulle.resources.peerauthentication import PeerAuthentication
from tulle.resources.service import Service
from tulle.resources.tcproute import TCPRoute
from tulle.resources.tlsroute import TLSRoute
from tulle.resources.workload import Workload

Change = tuple[Resource | None, Resource | None]
"""An object before and after; None where it did not exist."""


def touched(before: Mesh, after: Mesh, changes: Iterable[Change]) -> frozenset[str]:
    """Return the names of all records that may differ between *before* and *after*.

    Args:
        before: the mesh that was compiled last.
        after: the mesh that is to be compiled.
        changes: all objects that differ between them, as they were and as they are. A
            Workload whose state differs is among them, even if it is the same object.
    """
    names: set[str] = set()
    for old, new in changes:
        if isinstance(old, Workload) and isinstance(new, Workload) and _same_but_state(old, new):
            names.update(_endpoints_with(after, new))
            continue
        for mesh, resource in ((before, old), (after, new)):
            if resource is not None:
                names.update(_readers(mesh, resource))
        if (backend := _backend_changed(old, new)) is not None:
            for mesh in (before, after):
                names.update(_services_sending_to(mesh, backend))
    return frozenset(names)


def _readers(mesh: Mesh, resource: Resource) -> Iterator[str]:
    """Yield the records that read *resource* in *mesh*."""
    match resource:
        case Service():
            yield from _readers_of_service(mesh, resource)
        case Workload():
            yield _workload(resource)
            yield from _endpoints_with(mesh, resource)
        case HTTPRoute() | GRPCRoute() | TLSRoute() | TCPRoute():
            yield from _parents(resource)
        case BackendTrafficPolicy():
            namespace = resource.metadata.namespace or ""
            for target in resource.spec.target_refs:
                yield f"service/{target.service(namespace)}"
        case AuthorizationPolicy():
            yield from map(_workload, _guarded(mesh, resource))
        case PeerAuthentication():
            for workload in _in_reach(mesh, resource):
                yield _workload(workload)
                yield from _endpoints_with(mesh, workload)
        case Namespace():
            yield from map(_workload, mesh.all(Workload, resource.metadata.name))


def _readers_of_service(mesh: Mesh, service: Service) -> Iterator[str]:
    yield f"service/{service.object_name}"
    yield f"endpoints/{service.object_name}"
    policies = mesh.all(AuthorizationPolicy, service.metadata.namespace)
    if any(ref.name == service.metadata.name for p in policies for ref in p.spec.target_refs):
        yield from map(_workload, selected_workloads(mesh, service))


def _services_sending_to(mesh: Mesh, backend: ObjectName) -> Iterator[str]:
    for route in mesh.routes_using(backend):
        yield from _parents(route)


def _parents(route: Route) -> Iterator[str]:
    for ref in route.spec.parent_refs:
        if (service := ref.service(route.metadata.namespace or "")) is not None:
            yield f"service/{service}"


def _guarded(mesh: Mesh, policy: AuthorizationPolicy) -> Iterator[Workload]:
    """Yield the workloads that an authorization policy is about."""
    if not policy.spec.target_refs:
        yield from _in_reach(mesh, policy)
        return
    for target in policy.spec.target_refs:
        service = mesh.service(target.service(policy.metadata.namespace or ""))
        if service is not None:
            yield from selected_workloads(mesh, service)


def _in_reach(mesh: Mesh, policy: AuthorizationPolicy | PeerAuthentication) -> Iterator[Workload]:
    """Yield the workloads that a policy's selector selects, everywhere for a mesh-wide one."""
    namespace = policy.metadata.namespace
    selector = policy.spec.selector
    for workload in mesh.all(Workload, None if namespace == ROOT_NAMESPACE else namespace):
        if selector is None or selector.selects(workload.metadata.labels):
            yield workload


def _endpoints_with(mesh: Mesh, workload: Workload) -> Iterator[str]:
    for service in services_of(mesh, workload):
        yield f"endpoints/{service.object_name}"


def _workload(workload: Workload) -> str:
    return f"workload/{workload.object_name}"


def _same_but_state(old: Workload, new: Workload) -> bool:
    return old.spec == new.spec and old.metadata.labels == new.metadata.labels


def _backend_changed(old: Resource | None, new: Resource | None) -> ObjectName | None:
    """Return the Service that routes can send to otherwise than before, if this is one."""
    service = new or old
    if not isinstance(service, Service) or _ports(old) == _ports(new):
        return None
    return service.object_name


def _ports(service: Resource | None) -> list[int] | None:
    """Return what a route can send to, as its error would list it; None without a Service."""
    if not isinstance(service, Service):
        return None
    return [port.port for port in service.spec.ports if port.protocol == "TCP"]
