"""Which routes decide for whose requests to a Service port (GAMMA).

Routes in the Service's own namespace are for all callers; routes elsewhere are for callers in
their own namespace, who then do not see the former. In one such set only one kind of route
counts: GRPCRoute before HTTPRoute before TLSRoute before TCPRoute.
"""

from dataclasses import dataclass
from typing import Final

from tulle.mesh.mesh import Mesh, Route
from tulle.resources.model import ObjectName
from tulle.resources.route import ParentRef
from tulle.resources.service import Service, ServicePort

KIND_ORDER: Final = ("GRPCRoute", "HTTPRoute", "TLSRoute", "TCPRoute")


@dataclass(frozen=True, slots=True)
class RouteSet:
    """The routes that decide together, and those of other kinds that they outrank."""

    consumer_namespace: str | None
    """Whose requests: callers in this namespace, or all others if None."""
    kind: str
    """GRPCRoute, HTTPRoute, TLSRoute or TCPRoute: all of `routes` are of this kind."""
    routes: tuple[Route, ...]
    """Oldest first."""
    outranked: tuple[Route, ...]
    """Attached too, but of a kind that does not count here."""


def route_sets(mesh: Mesh, service: Service, port: ServicePort) -> tuple[RouteSet, ...]:
    """Return the sets of *service* at *port*: that for all callers first, then by namespace."""
    by_consumer: dict[str | None, list[Route]] = {}
    for route in mesh.routes_to(service.object_name):
        if not any(covers(ref, route, service.object_name, port) for ref in parents(route)):
            continue
        namespace = route.metadata.namespace
        consumer = None if namespace == service.metadata.namespace else namespace
        by_consumer.setdefault(consumer, []).append(route)
    return tuple(
        _route_set(consumer, by_consumer[consumer])
        for consumer in sorted(by_consumer, key=lambda name: (name is not None, name or ""))
    )


def _route_set(consumer: str | None, routes: list[Route]) -> RouteSet:
    kind = min((route.kind for route in routes), key=KIND_ORDER.index)
    return RouteSet(
        consumer,
        kind,
        tuple(route for route in routes if route.kind == kind),
        tuple(route for route in routes if route.kind != kind),
    )


def parents(route: Route) -> tuple[ParentRef, ...]:
    """Return the parents of *route*."""
    return route.spec.parent_refs


def covers(ref: ParentRef, route: Route, service: ObjectName, port: ServicePort) -> bool:
    """Return whether *ref* of *route* speaks of this *port* of *service*."""
    return (
        ref.service(route.metadata.namespace or "") == service
        and port.protocol == "TCP"
        and (ref.port is None or ref.port == port.port)
        and (ref.section_name is None or ref.section_name == port.name)
    )
