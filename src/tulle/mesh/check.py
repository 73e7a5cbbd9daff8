"""Checks between resources: what refers to something that is not there or not allowed.

None of these refuses a change: objects may be applied in any order. What is found goes to the
status of routes and policies, to warnings of `tulle validate` and `tulle check`, and, for a
backend, into the record: its share of the requests is answered with an error.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from tulle.mesh.attach import covers, route_sets
from tulle.mesh.mesh import Mesh, Policy, Route, backend_lists
from tulle.resources.authorizationpolicy import AuthorizationPolicy
from tulle.resources.backendtrafficpolicy import BackendTrafficPolicy
from tulle.resources.grpcroute import GRPCRoute
from tulle.resources.httproute import HTTPRoute
from tulle.resources.model import Condition, LabelSelector, ResourceKey
from tulle.resources.peerauthentication import PeerAuthentication
from tulle.resources.policy import AncestorRef, AncestorStatus, TargetRef
from tulle.resources.route import CONTROLLER_NAME, BackendRef, ParentRef, RouteParentStatus
from tulle.resources.service import Service
from tulle.resources.tcproute import TCPRoute
from tulle.resources.tlsroute import TLSRoute
from tulle.resources.workload import Workload


class Problem(NamedTuple):
    """Why a reference does not hold."""

    reason: str
    """The Gateway API's word: BackendNotFound, RefNotPermitted, NoMatchingParent, …"""
    message: str


class Finding(NamedTuple):
    """Something between resources that is probably not meant."""

    resource: ResourceKey
    path: str
    reason: str
    message: str


def backend_problem(mesh: Mesh, route: Route, backend: BackendRef) -> Problem | None:
    """Return why requests cannot go to *backend*, or None if they can.

    A backend in another namespace needs a grant of that namespace, save that a route may
    always send to the Service it is for. There is no kind for grants yet.
    """
    namespace = route.metadata.namespace or ""
    target = backend.target(namespace)
    own_parents = {ref.service(namespace) for ref in route.spec.parent_refs}
    if target.service.namespace != namespace and target.service not in own_parents:
        return Problem(
            "RefNotPermitted",
            f"Service {target.service} is in another namespace than the route, {namespace}",
        )
    service = mesh.service(target.service)
    if service is None:
        return Problem("BackendNotFound", f"there is no Service {target.service}")
    if service.port(target.port) is None:
        return Problem(
            "BackendNotFound",
            f"Service {target.service} has no TCP port {target.port}; it has {_ports(service)}",
        )
    return None


def parent_problem(mesh: Mesh, route: Route, ref: ParentRef) -> Problem | None:
    """Return why *route* does not decide for the parent *ref*, or None if it does."""
    name = ref.service(route.metadata.namespace or "")
    if name is None:
        return Problem("NoMatchingParent", f"a {ref.kind} is not served here, only a Service is")
    service = mesh.service(name)
    if service is None:
        return Problem("NoMatchingParent", f"there is no Service {name}")
    ports = [port for port in service.spec.ports if covers(ref, route, name, port)]
    if not ports:
        return Problem(
            "NoMatchingParent", f"Service {name} has no such port; it has {_ports(service)}"
        )
    outranking = [
        (port.port, found)
        for port in ports
        for found in route_sets(mesh, service, port)
        if route in found.outranked
    ]
    if len(outranking) == len(ports):
        port, winner = outranking[0]
        first = winner.routes[0]
        return Problem("Conflicted", f"{first.key} is in force for port {port} of Service {name}")
    return None


def _ports(service: Service) -> str:
    numbers = [str(port.port) for port in service.spec.ports if port.protocol == "TCP"]
    return ", ".join(numbers) or "none"


def route_status(mesh: Mesh, route: Route, now: str) -> tuple[RouteParentStatus, ...]:
    """Return our entries of the status of *route*; *now* is RFC 3339.

    A condition that was there with the same status keeps its transition time.
    """
    refused = _refused(mesh, route.key)
    unresolved = next((problem for _, problem in _backend_problems(mesh, route)), None)
    before = route.status.parents if route.status else ()
    entries = []
    for ref in route.spec.parent_refs:
        if ref.service(route.metadata.namespace or "") is None:
            continue
        old = next(
            (
                entry.conditions
                for entry in before
                if entry.controller_name == CONTROLLER_NAME and entry.parent_ref == ref
            ),
            (),
        )
        conditions = (
            _condition("Accepted", refused or parent_problem(mesh, route, ref), route, old, now),
            _condition("ResolvedRefs", unresolved, route, old, now),
        )
        entries.append(
            RouteParentStatus(
                parent_ref=ref, controller_name=CONTROLLER_NAME, conditions=conditions
            )
        )
    return tuple(entries)


def policy_status(
    mesh: Mesh, policy: BackendTrafficPolicy | AuthorizationPolicy, now: str
) -> tuple[AncestorStatus, ...]:
    """Return our entries of the status of *policy*, one per target; *now* is RFC 3339."""
    namespace = policy.metadata.namespace
    before = policy.status.ancestors if policy.status else ()
    entries = []
    for target in policy.spec.target_refs:
        ancestor = AncestorRef(group="", kind="Service", namespace=namespace, name=target.name)
        old = next(
            (
                entry.conditions
                for entry in before
                if entry.controller_name == CONTROLLER_NAME and entry.ancestor_ref == ancestor
            ),
            (),
        )
        problem = _refused(mesh, policy.key) or target_problem(mesh, policy, target)
        condition = _condition("Accepted", problem, policy, old, now)
        entries.append(
            AncestorStatus(
                ancestor_ref=ancestor, controller_name=CONTROLLER_NAME, conditions=(condition,)
            )
        )
    return tuple(entries)


def policy_conditions(
    mesh: Mesh,
    policy: Policy,
    now: str,
) -> tuple[Condition, ...]:
    """Return the conditions of *policy* itself: one that is set aside says so, others nothing."""
    before = policy.status.conditions if policy.status else ()
    problem = _refused(mesh, policy.key)
    own = (_condition("Accepted", problem, policy, before, now),) if problem else ()
    return tuple(each for each in before if each.type != "Accepted") + own


def _refused(mesh: Mesh, key: ResourceKey) -> Problem | None:
    """Return why the resource of *key* is set aside, or None if it is not."""
    aside = mesh.aside.get(key)
    if aside is None:
        return None
    reason = "UnsupportedValue" if key.kind.endswith("Route") else "Invalid"
    return Problem(reason, aside.problem)


def target_problem(
    mesh: Mesh, policy: BackendTrafficPolicy | AuthorizationPolicy, target: TargetRef
) -> Problem | None:
    """Return why *policy* does not act on *target*, or None if it does."""
    name = target.service(policy.metadata.namespace or "")
    if mesh.service(name) is None:
        return Problem("TargetNotFound", f"there is no Service {name}")
    if isinstance(policy, BackendTrafficPolicy):
        winner = mesh.traffic_policies(name)[0]
        if winner.key != policy.key:
            return Problem("Conflicted", f"{winner.key} is older and in force for Service {name}")
    return None


def _condition(
    type_: str,
    problem: Problem | None,
    owner: Route | Policy,
    before: Sequence[Condition],
    now: str,
) -> Condition:
    status = "False" if problem else "True"
    old = next((condition for condition in before if condition.type == type_), None)
    kept = old.last_transition_time if old and old.status == status else None
    return Condition(
        type=type_,
        status=status,
        reason=problem.reason if problem else type_,
        message=problem.message if problem else "",
        observed_generation=owner.metadata.generation,
        last_transition_time=kept or now,
    )


def findings(mesh: Mesh) -> Iterator[Finding]:
    """Yield everything between the resources of *mesh* that is probably not meant."""
    routes = (mesh.all(HTTPRoute), mesh.all(GRPCRoute), mesh.all(TLSRoute), mesh.all(TCPRoute))
    for route in chain[Route](*routes):
        yield from _route_warnings(mesh, route)
    targeting = (mesh.all(BackendTrafficPolicy), mesh.all(AuthorizationPolicy))
    for policy in chain[BackendTrafficPolicy | AuthorizationPolicy](*targeting):
        for index, target in enumerate(policy.spec.target_refs):
            if problem := target_problem(mesh, policy, target):
                yield Finding(policy.key, f"spec.targetRefs[{index}]", *problem)
    for service in mesh.all(Service):
        yield from _service_warnings(service)
    selecting = (mesh.all(AuthorizationPolicy), mesh.all(PeerAuthentication))
    for selector_policy in chain[AuthorizationPolicy | PeerAuthentication](*selecting):
        yield from _selector_warnings(mesh, selector_policy)


def _route_warnings(mesh: Mesh, route: Route) -> Iterator[Finding]:
    for index, ref in enumerate(route.spec.parent_refs):
        if problem := parent_problem(mesh, route, ref):
            yield Finding(route.key, f"spec.parentRefs[{index}]", *problem)
    if not route.spec.parent_refs:
        yield Finding(route.key, "spec.parentRefs", "NoParent", "the route is for no Service")
    for path, problem in _backend_problems(mesh, route):
        yield Finding(route.key, path, *problem)
    if isinstance(route, HTTPRoute | GRPCRoute) and route.spec.hostnames:
        yield Finding(
            route.key,
            "spec.hostnames",
            "HostnamesIgnored",
            "hostnames have no meaning for a Service; match on the header Host instead",
        )
    for index, backends in enumerate(backend_lists(route)):
        if backends and not any(backend.weight for backend in backends):
            yield Finding(
                route.key,
                f"spec.rules[{index}].backendRefs",
                "NoWeight",
                "every weight is 0, so every request is answered with 500",
            )


def _backend_problems(mesh: Mesh, route: Route) -> Iterator[tuple[str, Problem]]:
    for rule_index, backends in enumerate(backend_lists(route)):
        for index, backend in enumerate(backends):
            if problem := backend_problem(mesh, route, backend):
                yield f"spec.rules[{rule_index}].backendRefs[{index}]", problem


def _service_warnings(service: Service) -> Iterator[Finding]:
    for index, port in enumerate(service.spec.ports):
        if port.protocol != "TCP":
            yield Finding(
                service.key,
                f"spec.ports[{index}].protocol",
                "UnsupportedProtocol",
                f"{port.protocol} is not carried by the mesh",
            )
    if service.spec.type == "ExternalName":
        yield Finding(
            service.key, "spec.type", "UnsupportedType", "ExternalName is not carried by the mesh"
        )


def _selector_warnings(
    mesh: Mesh, policy: AuthorizationPolicy | PeerAuthentication
) -> Iterator[Finding]:
    selector: LabelSelector | None = policy.spec.selector
    if selector is None or not selector.match_labels:
        return
    workloads = list(mesh.all(Workload, policy.metadata.namespace))
    if workloads and not any(selector.selects(w.metadata.labels) for w in workloads):
        yield Finding(
            policy.key,
            "spec.selector",
            "NothingSelected",
            "no workload of the namespace has these labels",
        )
