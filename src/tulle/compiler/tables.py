"""The tables of a Service port: all rules that decide for one kind of client, in one order.

Every match of every rule of every route in a set is ranked by itself. Of two equally
specific ones the older route's comes first, then by namespace and name, then the first in
the route. A port that carries bytes only has no use for HTTP routes: one that is
attached to the whole Service leaves such ports alone.
"""

from collections.abc import Iterator

from tulle.compiler.matches import (
    ANY,
    Specificity,
    grpc_match,
    http_match,
    server_name_match,
)
from tulle.compiler.rules import compile_rules
from tulle.mesh.attach import RouteSet, route_sets
from tulle.mesh.mesh import Mesh, Route
from tulle.record.service import Entry, Match, Rule, Table, TableKind
from tulle.record.traffic import Traffic
from tulle.resources.grpcroute import GRPCRoute
from tulle.resources.httproute import HTTPRoute
from tulle.resources.service import Service, ServicePort
from tulle.resources.tcproute import TCPRoute
from tulle.resources.tlsroute import TLSRoute

_KINDS: dict[str, TableKind] = {
    "HTTPRoute": "http",
    "GRPCRoute": "grpc",
    "TLSRoute": "tls",
    "TCPRoute": "tcp",
}


def compile_tables(
    mesh: Mesh, service: Service, port: ServicePort, traffic: Traffic
) -> tuple[Table, ...]:
    """Return the tables of *port*: that for all clients first, then by consumer namespace."""
    carried = (_carried(routes, port) for routes in route_sets(mesh, service, port))
    return tuple(_table(mesh, routes, consumer, traffic) for consumer, routes in carried if routes)


def _carried(routes: RouteSet, port: ServicePort) -> tuple[str | None, tuple[Route, ...]]:
    chosen = routes.routes
    if port.spoken == "tcp":
        attached = (*routes.routes, *routes.outranked)
        by_name = tuple(route for route in attached if isinstance(route, TLSRoute))
        chosen = by_name or tuple(route for route in attached if isinstance(route, TCPRoute))
    return routes.consumer_namespace, chosen


def _table(mesh: Mesh, routes: tuple[Route, ...], consumer: str | None, traffic: Traffic) -> Table:
    rules: list[Rule] = []
    ranked: list[tuple[Specificity, Entry]] = []
    for route in routes:
        for index, match, specificity in _matches(route):
            ranked.append((specificity, Entry(match=match, rule=len(rules) + index)))
        rules += compile_rules(mesh, route, traffic)
    # Both sorts are stable and reverse keeps equals in order: age, name and place decide.
    ranked.sort(key=lambda each: each[0], reverse=True)
    return Table(
        consumer_namespace=consumer,
        kind=_KINDS[routes[0].kind],
        entries=tuple(entry for _, entry in ranked),
        rules=tuple(rules),
    )


def _matches(route: Route) -> Iterator[tuple[int, Match, Specificity]]:
    """Yield the matches of *route*, each with the index of its rule."""
    if isinstance(route, TCPRoute):
        yield 0, ANY, Specificity(0, 0, 0, has_method=False, headers=0, query=0)
    elif isinstance(route, TLSRoute):
        for hostname in route.spec.hostnames:
            yield 0, *server_name_match(hostname)
    elif isinstance(route, HTTPRoute):
        for index, rule in enumerate(route.spec.rules):
            for match in rule.effective_matches:
                yield index, *http_match(match)
    elif isinstance(route, GRPCRoute):
        for index, grpc_rule in enumerate(route.spec.rules):
            for grpc in grpc_rule.effective_matches:
                yield index, *grpc_match(grpc)
