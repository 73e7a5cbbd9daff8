"""The Mesh: an immutable value, and a change makes the same mesh as starting from all."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from tulle.mesh.mesh import Mesh, WorkloadState, references
from tulle.resources.httproute import HTTPRoute
from tulle.resources.model import ObjectName, Resource, ResourceKey
from tulle.resources.parse import parse_object, parse_text
from tulle.resources.service import Service

Resources = Callable[[str], list[Resource]]

CART = ObjectName("shop", "cart")
WEB = ObjectName("shop", "web")

SHOP = """
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {a: b}}}
---
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: cart}]
  rules:
  - backendRefs:
    - {group: tulle.dev, kind: ServiceVersion, name: cart.v1, port: 80}
    - {name: web, port: 80}
---
apiVersion: tulle.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: slow, namespace: shop}
spec: {targetRefs: [{name: cart}, {name: web}]}
"""


def _shop() -> Mesh:
    return Mesh.of([parsed.resource for parsed in parse_text(SHOP)], revision=5)


def test_a_mesh_finds_by_kind_namespace_and_name() -> None:
    mesh = _shop()

    assert [service.object_name for service in mesh.all(Service)] == [CART, WEB]
    assert list(mesh.all(Service, "elsewhere")) == []
    assert mesh.service(ObjectName("elsewhere", "cart")) is None
    assert mesh.namespace("shop").metadata.labels == {"a": "b"}
    assert mesh.namespace("unwritten").metadata.labels == {}
    assert [resource.kind for resource in mesh] == [
        "Namespace",
        "Service",
        "Service",
        "HTTPRoute",
        "BackendTrafficPolicy",
    ]


def test_a_mesh_knows_who_refers_to_a_service() -> None:
    mesh = _shop()

    assert [route.metadata.name for route in mesh.routes_to(CART)] == ["split"]
    assert [route.metadata.name for route in mesh.routes_using(CART)] == ["split"]
    assert mesh.routes_to(WEB) == ()
    assert [route.metadata.name for route in mesh.routes_using(WEB)] == ["split"]
    policy = mesh.traffic_policy(WEB)
    assert policy is not None
    assert policy.metadata.name == "slow"


def test_the_older_policy_is_in_force() -> None:
    def policy(name: str, created: str | None) -> Resource:
        metadata = {"name": name, "namespace": "shop"}
        if created:
            metadata["creationTimestamp"] = created
        return parse_object(
            {
                "apiVersion": "tulle.dev/v1alpha1",
                "kind": "BackendTrafficPolicy",
                "metadata": metadata,
                "spec": {"targetRefs": [{"name": "cart"}]},
            }
        )

    mesh = Mesh.of(
        [
            policy("a-new", None),
            policy("b-late", "2026-02-01T00:00:00Z"),
            policy("d-early", "2026-01-01T00:00:00Z"),
            policy("c-early", "2026-01-01T00:00:00Z"),
        ]
    )

    names = [found.metadata.name for found in mesh.traffic_policies(CART)]
    assert names == ["c-early", "d-early", "b-late", "a-new"]


def test_a_change_leaves_the_mesh_before_it_alone() -> None:
    before = _shop()
    copy = _shop()

    after = before.with_changes(
        removed=[ResourceKey("HTTPRoute", "shop", "split")],
        states={CART: WorkloadState(ready=True)},
        revision=6,
    )

    assert before == copy
    assert (before.revision, after.revision) == (5, 6)
    assert after.routes_to(CART) == ()
    assert not any(role != "target" for role, _ in after.referrers)


def test_what_a_change_does_not_touch_is_shared() -> None:
    before = _shop()
    route = before.get(HTTPRoute, ObjectName("shop", "split"))
    assert route is not None
    labelled = route.metadata.model_copy(update={"labels": {"a": "b"}})

    after = before.with_changes([route.model_copy(update={"metadata": labelled})])

    assert after.objects["Service"] is before.objects["Service"]
    assert after.referrers is before.referrers
    assert after.states is before.states
    assert after.objects["HTTPRoute"] is not before.objects["HTTPRoute"]


def test_a_state_is_set_and_dropped() -> None:
    serving = WorkloadState(ready=True, connected=True)
    mesh = Mesh().with_changes(states={CART: serving})

    assert mesh.state(CART).serves
    assert not mesh.state(WEB).serves
    assert mesh.with_changes(states={CART: None}).states == {}


def test_only_a_ready_connected_workload_that_does_not_drain_serves() -> None:
    serving = [
        WorkloadState(ready, draining, connected)
        for ready in (False, True)
        for draining in (False, True)
        for connected in (False, True)
        if WorkloadState(ready, draining, connected).serves
    ]

    assert serving == [WorkloadState(ready=True, draining=False, connected=True)]


def _route(name: str, parents: list[str], backends: list[str]) -> Resource:
    return parse_object(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": p} for p in parents],
                "rules": [{"backendRefs": [{"name": b, "port": 80} for b in backends]}],
            },
        }
    )


_services = st.lists(st.sampled_from(["cart", "web", "pay"]), max_size=3, unique=True)
_routes = st.builds(_route, st.sampled_from(["a", "b", "c"]), _services, _services)
_steps = st.lists(_routes | st.sampled_from(["a", "b", "c"]), max_size=12)


@given(_steps)
def test_many_changes_make_the_mesh_that_all_at_once_makes(steps: list[Resource | str]) -> None:
    mesh = Mesh()
    left: dict[ResourceKey, Resource] = {}
    for step in steps:
        if isinstance(step, str):
            key = ResourceKey("HTTPRoute", "shop", step)
            left.pop(key, None)
            mesh = mesh.with_changes(removed=[key])
        else:
            left[step.key] = step
            mesh = mesh.with_changes([step])

    assert mesh.referrers == Mesh.of(left.values()).referrers
    assert list(mesh) == list(Mesh.of(left.values()))
    assert set(mesh.referrers) == {ref for route in left.values() for ref in references(route)}
