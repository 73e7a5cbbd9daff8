"""Checks between resources: what is told in status, in warnings and in records."""

from collections.abc import Callable

import pytest

from tulle.mesh.check import backend_problem, findings, policy_status, route_status
from tulle.mesh.mesh import Mesh, backend_lists
from tulle.resources.backendtrafficpolicy import BackendTrafficPolicy
from tulle.resources.httproute import HTTPRoute
from tulle.resources.model import ObjectName, Resource

Resources = Callable[[str], list[Resource]]
NOW = "2026-01-01T00:00:00Z"
LATER = "2026-01-02T00:00:00Z"

SERVICES = """
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: data}, spec: {ports: [{port: 80}]}}
---
"""


def _route(spec: str, name: str = "r", namespace: str = "shop", kind: str = "HTTPRoute") -> str:
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}, generation: 3}}
spec: {{{spec}}}
---
"""


PARENT = "parentRefs: [{group: '', kind: Service, name: cart}]"


def _found(mesh: Mesh) -> list[tuple[str, str, str]]:
    return [(str(f.resource), f.path, f"{f.reason}: {f.message}") for f in findings(mesh)]


def test_a_mesh_where_all_fits_has_no_findings(resources: Resources) -> None:
    text = SERVICES + _route(f"{PARENT}, rules: [{{backendRefs: [{{name: cart, port: 80}}]}}]")

    assert _found(Mesh.of(resources(text))) == []


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("{name: cart, port: 80}", None),
        ("{group: tulle.dev, kind: ServiceVersion, name: cart.v1, port: 80}", None),
        ("{name: cart, namespace: shop, port: 80}", None),
        ("{name: none, port: 80}", "BackendNotFound: there is no Service shop/none"),
        (
            "{name: cart, port: 81}",
            "BackendNotFound: Service shop/cart has no TCP port 81; it has 80",
        ),
        (
            "{name: db, namespace: data, port: 80}",
            "RefNotPermitted: Service data/db is in another namespace than the route, shop",
        ),
        (
            "{name: none, namespace: data, port: 80}",
            "RefNotPermitted: Service data/none is in another namespace than the route, shop",
        ),
    ],
)
def test_a_backend_is_there_and_permitted(
    backend: str, expected: str | None, resources: Resources
) -> None:
    text = SERVICES + _route(f"{PARENT}, rules: [{{backendRefs: [{backend}]}}]")

    found = _found(Mesh.of(resources(text)))

    path = "spec.rules[0].backendRefs[0]"
    assert found == ([("HTTPRoute shop/r", path, expected)] if expected else [])


def test_a_consumer_route_may_send_to_the_service_it_is_for(resources: Resources) -> None:
    text = SERVICES + _route(
        "parentRefs: [{group: '', kind: Service, name: cart, namespace: shop}], "
        "rules: [{backendRefs: [{name: cart, namespace: shop, port: 80}]}]",
        namespace="web",
    )
    mesh = Mesh.of(resources(text))
    route = mesh.get(HTTPRoute, ObjectName("web", "r"))
    assert route is not None
    ((backend,),) = backend_lists(route)

    assert backend_problem(mesh, route, backend) is None


@pytest.mark.parametrize(
    ("spec", "path", "expected"),
    [
        ("rules: [{}]", "spec.parentRefs", "NoParent: the route is for no Service"),
        (
            "parentRefs: [{group: '', kind: Service, name: none}]",
            "spec.parentRefs[0]",
            "NoMatchingParent: there is no Service shop/none",
        ),
        (
            "parentRefs: [{group: '', kind: Service, name: cart, port: 81}]",
            "spec.parentRefs[0]",
            "NoMatchingParent: Service shop/cart has no such port; it has 80",
        ),
        (
            "parentRefs: [{name: gate}]",
            "spec.parentRefs[0]",
            "NoMatchingParent: a Gateway is not served here, only a Service is",
        ),
        (
            f"{PARENT}, hostnames: [a.example]",
            "spec.hostnames",
            (
                "HostnamesIgnored: hostnames have no meaning for a Service; "
                "match on the header Host instead"
            ),
        ),
        (
            f"{PARENT}, rules: [{{backendRefs: [{{name: cart, port: 80, weight: 0}}]}}]",
            "spec.rules[0].backendRefs",
            "NoWeight: every weight is 0, so every request is answered with 500",
        ),
    ],
)
def test_a_route_that_is_not_meant_so(
    spec: str, path: str, expected: str, resources: Resources
) -> None:
    mesh = Mesh.of(resources(SERVICES + _route(spec)))

    assert _found(mesh) == [("HTTPRoute shop/r", path, expected)]


def test_an_outranked_route_is_told_by_whom(resources: Resources) -> None:
    text = SERVICES + _route(PARENT) + _route(PARENT, "g", kind="GRPCRoute")

    assert _found(Mesh.of(resources(text))) == [
        (
            "HTTPRoute shop/r",
            "spec.parentRefs[0]",
            "Conflicted: GRPCRoute shop/g is in force for port 80 of Service shop/cart",
        )
    ]


def _policy(name: str, target: str) -> str:
    return f"""
apiVersion: tulle.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {{name: {name}, namespace: shop}}
spec: {{targetRefs: [{{name: {target}}}]}}
---
"""


def test_of_two_policies_one_is_told_to_lose(resources: Resources) -> None:
    text = SERVICES + _policy("b", "cart") + _policy("a", "cart") + _policy("c", "none")
    mesh = Mesh.of(resources(text))

    assert _found(mesh) == [
        (
            "BackendTrafficPolicy shop/b",
            "spec.targetRefs[0]",
            "Conflicted: BackendTrafficPolicy shop/a is older and in force for Service shop/cart",
        ),
        (
            "BackendTrafficPolicy shop/c",
            "spec.targetRefs[0]",
            "TargetNotFound: there is no Service shop/none",
        ),
    ]
    losing = mesh.get(BackendTrafficPolicy, ObjectName("shop", "b"))
    assert losing is not None
    (ancestor,) = policy_status(mesh, losing, NOW)
    assert [(c.type, c.status, c.reason) for c in ancestor.conditions] == [
        ("Accepted", "False", "Conflicted")
    ]


def test_a_routes_status_has_an_entry_per_service(resources: Resources) -> None:
    text = SERVICES + _route(
        "parentRefs: [{group: '', kind: Service, name: cart}, "
        "{group: '', kind: Service, name: none}, {name: gate}], "
        "rules: [{backendRefs: [{name: none, port: 80}]}]"
    )
    mesh = Mesh.of(resources(text))
    route = mesh.get(HTTPRoute, ObjectName("shop", "r"))
    assert route is not None

    status = route_status(mesh, route, NOW)

    assert [
        (entry.parent_ref.name, [(c.type, c.status, c.reason) for c in entry.conditions])
        for entry in status
    ] == [
        ("cart", [("Accepted", "True", "Accepted"), ("ResolvedRefs", "False", "BackendNotFound")]),
        (
            "none",
            [
                ("Accepted", "False", "NoMatchingParent"),
                ("ResolvedRefs", "False", "BackendNotFound"),
            ],
        ),
    ]
    assert {c.observed_generation for entry in status for c in entry.conditions} == {3}


def test_a_condition_keeps_its_time_until_it_turns(resources: Resources) -> None:
    mesh = Mesh.of(resources(SERVICES + _route(PARENT)))
    name = ObjectName("shop", "r")
    route = mesh.get(HTTPRoute, name)
    assert route is not None
    first = route_status(mesh, route, NOW)
    with_status = HTTPRoute.model_validate(
        route.to_object() | {"status": {"parents": [e.model_dump(by_alias=True) for e in first]}}
    )

    assert route_status(mesh, with_status, LATER) == first

    gone = mesh.with_changes(removed=[mesh.service(ObjectName("shop", "cart")).key])  # type: ignore[union-attr]
    turned = route_status(gone, with_status, LATER)
    assert [c.last_transition_time for c in turned[0].conditions] == [LATER, NOW]


def test_a_selector_that_selects_nothing_is_told(resources: Resources) -> None:
    text = """
{apiVersion: tulle.dev/v1alpha1, kind: Workload, metadata: {name: a, labels: {app: cart}},
 spec: {address: 127.0.0.1}}
---
{apiVersion: tulle.dev/v1alpha1, kind: PeerAuthentication, metadata: {name: p},
 spec: {selector: {matchLabels: {app: crat}}}}
"""
    assert _found(Mesh.of(resources(text))) == [
        (
            "PeerAuthentication default/p",
            "spec.selector",
            "NothingSelected: no workload of the namespace has these labels",
        )
    ]
