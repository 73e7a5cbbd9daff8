"""Which routes decide for whom: producers, consumers, ports and kinds."""

from collections.abc import Callable

import pytest

from tulle.mesh.attach import route_sets
from tulle.mesh.mesh import Mesh
from tulle.resources.model import ObjectName, Resource

Resources = Callable[[str], list[Resource]]

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{name: web, port: 80}, {name: alt, port: 8080}]}
---
"""


def _route(name: str, parent: str = "", kind: str = "HTTPRoute", namespace: str = "shop") -> str:
    rules = ", rules: [{backendRefs: [{name: cart, port: 80}]}]" if kind == "TCPRoute" else ""
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  {{parentRefs: [{{group: "", kind: Service, name: cart, namespace: shop{parent}}}]{rules}}}
---
"""


def _sets(mesh: Mesh, number: int) -> list[tuple[str | None, str, list[str], list[str]]]:
    service = mesh.service(ObjectName("shop", "cart"))
    assert service is not None
    port = service.port(number)
    assert port is not None
    return [
        (
            found.consumer_namespace,
            found.kind,
            [route.metadata.name for route in found.routes],
            [route.metadata.name for route in found.outranked],
        )
        for found in route_sets(mesh, service, port)
    ]


def test_a_port_without_routes_has_no_set(resources: Resources) -> None:
    assert _sets(Mesh.of(resources(SERVICE)), 80) == []


def test_routes_elsewhere_are_for_callers_there(resources: Resources) -> None:
    text = SERVICE + _route("own") + _route("b", namespace="web") + _route("a", namespace="web")
    mesh = Mesh.of(resources(text + _route("x", namespace="admin")))

    assert _sets(mesh, 80) == [
        (None, "HTTPRoute", ["own"], []),
        ("admin", "HTTPRoute", ["x"], []),
        ("web", "HTTPRoute", ["a", "b"], []),
    ]


@pytest.mark.parametrize(
    ("parent", "ports"),
    [
        ("", [80, 8080]),
        (", port: 80", [80]),
        (", port: 8080", [8080]),
        (", sectionName: alt", [8080]),
        (", sectionName: alt, port: 8080", [8080]),
        (", sectionName: alt, port: 80", []),
        (", port: 443", []),
    ],
)
def test_a_parent_speaks_of_ports(parent: str, ports: list[int], resources: Resources) -> None:
    mesh = Mesh.of(resources(SERVICE + _route("a", parent)))

    assert [number for number in (80, 8080) if _sets(mesh, number)] == ports


def test_one_kind_counts_in_each_set(resources: Resources) -> None:
    text = (
        SERVICE
        + _route("t", kind="TCPRoute")
        + _route("h")
        + _route("g", ", port: 80", kind="GRPCRoute")
        + _route("other", kind="TCPRoute", namespace="web")
    )
    mesh = Mesh.of(resources(text))

    assert _sets(mesh, 80) == [
        (None, "GRPCRoute", ["g"], ["h", "t"]),
        ("web", "TCPRoute", ["other"], []),
    ]
    assert _sets(mesh, 8080)[0] == (None, "HTTPRoute", ["h"], ["t"])
