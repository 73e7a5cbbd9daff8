"""Who is meant: the workloads behind a Service, and the policies about a workload."""

from typing import NamedTuple, TypeVar

from tulle.mesh.mesh import Mesh, age
from tulle.resources.authorizationpolicy import AuthorizationPolicy
from tulle.resources.model import LabelSelector, ObjectName
from tulle.resources.peerauthentication import PeerAuthentication
from tulle.resources.service import Service, ServicePort
from tulle.resources.workload import Workload, WorkloadPort

ROOT_NAMESPACE = "tulle-system"
"""Policies here are about the workloads of every namespace."""


PolicyT = TypeVar("PolicyT", AuthorizationPolicy, PeerAuthentication)


class Endpoint(NamedTuple):
    """A workload that may be given traffic for a Service."""

    workload: Workload
    ports: tuple[tuple[int, int], ...]
    """Service port and the sidecar's port for it, by Service port."""


def selected_workloads(mesh: Mesh, service: Service) -> tuple[Workload, ...]:
    """Return the workloads behind *service* by name, whatever their state."""
    if (selector := service.selector) is None:
        return ()
    return tuple(
        workload
        for workload in mesh.all(Workload, service.metadata.namespace)
        if selector.selects(workload.metadata.labels)
    )


def services_of(mesh: Mesh, workload: Workload) -> tuple[Service, ...]:
    """Return the Services that *workload* is behind, by name."""
    return tuple(
        service
        for service in mesh.all(Service, workload.metadata.namespace)
        if service.selector is not None and service.selector.selects(workload.metadata.labels)
    )


def endpoints(mesh: Mesh, service: ObjectName) -> tuple[Endpoint, ...]:
    """Return the workloads that may be given traffic for *service*, by name.

    A workload that serves none of the Service's ports is no endpoint.
    """
    found = mesh.service(service)
    if found is None:
        return ()
    return tuple(
        Endpoint(workload, ports)
        for workload in selected_workloads(mesh, found)
        if mesh.state(workload.object_name).serves and (ports := port_pairs(found, workload))
    )


def port_pairs(service: Service, workload: Workload) -> tuple[tuple[int, int], ...]:
    """Return each port of *service* that *workload* serves, with the sidecar's port for it."""
    pairs = (
        (port.port, inbound_port(port, workload))
        for port in service.spec.ports
        if port.protocol == "TCP"
    )
    return tuple(sorted((number, listen) for number, listen in pairs if listen is not None))


def inbound_port(port: ServicePort, workload: Workload) -> int | None:
    """Return where the workload's sidecar takes traffic for *port*; None if it does not."""
    served = served_port(port, workload)
    return None if served is None else served.listen


def served_port(port: ServicePort, workload: Workload) -> WorkloadPort | None:
    """Return the port of *workload* that *port* of a Service leads to, if there is one."""
    target = port.port if port.target_port is None else port.target_port
    for served in workload.spec.ports:
        if target in (served.port, served.name):
            return served
    return None


def authorization_policies(mesh: Mesh, workload: Workload) -> tuple[AuthorizationPolicy, ...]:
    """Return the policies about *workload*, DENY first, then by namespace and name."""
    services = {service.object_name for service in services_of(mesh, workload)}
    found: list[AuthorizationPolicy] = []
    for policy in _in_reach(mesh, AuthorizationPolicy, workload):
        spec = policy.spec
        if spec.target_refs:
            namespace = policy.metadata.namespace or ""
            applies = any(target.service(namespace) in services for target in spec.target_refs)
        else:
            applies = _applies(spec.selector, workload)
        if applies:
            found.append(policy)
    return tuple(sorted(found, key=lambda p: (p.spec.action != "DENY", p.object_name)))


def peer_authentications(mesh: Mesh, workload: Workload) -> tuple[PeerAuthentication, ...]:
    """Return the policies about *workload*; the first one is in force.

    One with a selector comes before one for the namespace, and that before one for the whole
    mesh; of two alike the older one comes first.
    """
    found = [
        policy
        for policy in _in_reach(mesh, PeerAuthentication, workload)
        if _applies(policy.spec.selector, workload)
    ]

    def rank(policy: PeerAuthentication) -> tuple[bool, bool, tuple[str, ObjectName]]:
        elsewhere = policy.metadata.namespace != workload.metadata.namespace
        whole = policy.spec.selector is None or not policy.spec.selector.match_labels
        return elsewhere, whole, age(policy)

    return tuple(sorted(found, key=rank))


def _in_reach(mesh: Mesh, model: type[PolicyT], workload: Workload) -> list[PolicyT]:
    namespaces = {workload.metadata.namespace or "", ROOT_NAMESPACE}
    return [policy for namespace in sorted(namespaces) for policy in mesh.all(model, namespace)]


def _applies(selector: LabelSelector | None, workload: Workload) -> bool:
    return selector is None or selector.selects(workload.metadata.labels)
