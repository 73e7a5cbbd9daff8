"""A change compiles what it touches, and nothing that it does not."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tulle.compiler.compile import compile_record, compile_trust, record_names
from tulle.compiler.index import touched
from tulle.mesh.mesh import Mesh, WorkloadState
from tulle.record import Record
from tulle.resources.model import ObjectName, Resource, ResourceKey
from tulle.resources.parse import parse_object
from tulle.resources.workload import Workload

TRUST = compile_trust("tulle.local", ["root"])
GATEWAY = "gateway.networking.k8s.io/v1"
TULLE = "tulle.dev/v1alpha1"
SERVES = WorkloadState(ready=True, connected=True)


def make(api: str, kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> Resource:
    namespace, _, short = name.rpartition("/")
    where = {"namespace": namespace} if namespace else {}
    return parse_object(
        {
            "apiVersion": api,
            "kind": kind,
            "metadata": {"name": short, **where, **metadata},
            "spec": spec,
        }
    )


def service(name: str, app: str | None = None, ports: Sequence[int] = (80,)) -> Resource:
    spec: dict[str, Any] = {"ports": [{"name": f"p{number}", "port": number} for number in ports]}
    if app:
        spec["selector"] = {"app": app}
    return make("v1", "Service", name, spec)


def workload(name: str, app: str) -> Resource:
    ports = [{"port": 80, "listen": 40000}, {"port": 90, "listen": 40001}]
    spec = {"address": "127.0.0.1", "ports": ports}
    return make(TULLE, "Workload", name, spec, labels={"app": app})


def route(kind: str, name: str, parents: Sequence[str], backends: Sequence[str]) -> Resource:
    def ref(target: str) -> dict[str, Any]:
        namespace, _, short = target.rpartition("/")
        return {"group": "", "kind": "Service", "name": short, "namespace": namespace}

    rule = {"backendRefs": [ref(backend) | {"port": 80} for backend in backends]}
    return make(GATEWAY, kind, name, {"parentRefs": [ref(p) for p in parents], "rules": [rule]})


def selecting(app: str | None) -> dict[str, Any]:
    return {} if app is None else {"selector": {"matchLabels": {"app": app}}}


def target(name: str) -> dict[str, Any]:
    return {"targetRefs": [{"group": "", "kind": "Service", "name": name}]}


def compile_all(mesh: Mesh) -> dict[str, Record | None]:
    return {name: compile_record(mesh, TRUST, name) for name in record_names(mesh, TRUST)}


# Few names, so that things refer to each other often.
NAMESPACES = st.sampled_from(["shop", "lab", "tulle-system"])
NAMES = st.sampled_from(["a", "b"])
APPS = st.sampled_from(["a", "b"])
FULL = st.tuples(NAMESPACES, NAMES).map("/".join)
FULL_LISTS = st.lists(FULL, min_size=1, max_size=2, unique=True)
MODES = st.sampled_from(["STRICT", "PERMISSIVE", "DISABLE"])
RESOURCES = st.one_of(
    st.builds(
        service,
        FULL,
        st.none() | APPS,
        st.sampled_from([(80,), (90,), (80, 90), (90, 80)]),
    ),
    st.builds(workload, FULL, APPS),
    st.builds(route, st.sampled_from(["HTTPRoute", "GRPCRoute"]), FULL, FULL_LISTS, FULL_LISTS),
    st.builds(route, st.just("TCPRoute"), FULL, FULL_LISTS, FULL_LISTS),
    st.builds(
        lambda name, to, kind: make(
            TULLE, "BackendTrafficPolicy", name, target(to) | {"loadBalancer": {"type": kind}}
        ),
        FULL,
        NAMES,
        st.sampled_from(["RoundRobin", "LeastRequest"]),
    ),
    st.builds(
        lambda name, app, mode: make(
            TULLE, "PeerAuthentication", name, selecting(app) | {"mtls": {"mode": mode}}
        ),
        FULL,
        st.none() | APPS,
        MODES,
    ),
    st.builds(
        lambda name, about, action: make(
            TULLE, "AuthorizationPolicy", name, about | {"action": action}
        ),
        FULL,
        st.one_of((st.none() | APPS).map(selecting), NAMES.map(target)),
        st.sampled_from(["ALLOW", "DENY"]),
    ),
    st.builds(
        lambda name, value: make(
            "v1", "Namespace", name, {}, labels={"tulle.dev/default-authorization": value}
        ),
        NAMESPACES,
        st.sampled_from(["allow", "deny"]),
    ),
)
STATES = st.dictionaries(
    st.builds(ObjectName, NAMESPACES, NAMES),
    st.builds(WorkloadState, st.booleans(), st.booleans(), st.booleans()),
)


def by_key(resources: Sequence[Resource]) -> dict[ResourceKey, Resource]:
    return {resource.key: resource for resource in resources}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(RESOURCES, max_size=14).map(by_key),
    st.lists(RESOURCES, max_size=4).map(by_key),
    STATES,
    STATES,
    st.data(),
)
def test_compiling_what_is_touched_is_compiling_all(
    first: dict[ResourceKey, Resource],
    put: dict[ResourceKey, Resource],
    states: dict[ObjectName, WorkloadState],
    new_states: dict[ObjectName, WorkloadState],
    data: st.DataObject,
) -> None:
    before = Mesh.of(first.values(), states)
    removable = sorted(first.keys() - put.keys())
    removed = data.draw(st.lists(st.sampled_from(removable), unique=True)) if removable else []
    after = before.with_changes(put.values(), removed, states=new_states)
    held = compile_all(before)

    changed = {*put, *removed, *(ResourceKey("Workload", *name) for name in new_states)}
    names = touched(before, after, [(before.find(key), after.find(key)) for key in changed])
    for name in names:
        held[name] = compile_record(after, TRUST, name)

    assert {name: record for name, record in held.items() if record} == compile_all(after)


SHOP: list[Resource] = [
    service("shop/web", "web"),
    service("shop/cart", "cart"),
    service("shop/cart-all", "cart"),
    service("shop/search", "search"),
    service("lab/cart", "cart"),
    workload("shop/web-1", "web"),
    workload("shop/cart-1", "cart"),
    workload("shop/search-1", "search"),
    workload("lab/cart-1", "cart"),
    route("HTTPRoute", "shop/web", ["shop/web"], ["shop/cart"]),
    route("HTTPRoute", "lab/web", ["lab/web"], ["lab/cart"]),
    make(TULLE, "AuthorizationPolicy", "shop/cart", target("cart")),
]
MESH = Mesh.of(SHOP, {each.object_name: SERVES for each in SHOP if isinstance(each, Workload)})

PRECISE: list[tuple[str, Resource, set[str]]] = [
    (
        "route",
        route("HTTPRoute", "shop/new", ["shop/search"], ["shop/cart"]),
        {"service/shop/search"},
    ),
    (
        "route with another parent",
        route("HTTPRoute", "shop/web", ["shop/search"], ["shop/cart"]),
        {"service/shop/web", "service/shop/search"},
    ),
    (
        "consumer route",
        route("HTTPRoute", "lab/consumer", ["shop/web"], ["shop/web"]),
        {"service/shop/web"},
    ),
    (
        "traffic policy",
        make(TULLE, "BackendTrafficPolicy", "shop/p", target("cart")),
        {"service/shop/cart"},
    ),
    (
        "new port of a backend",
        service("shop/cart", "cart", (80, 90)),
        {
            "service/shop/cart",
            "endpoints/shop/cart",
            "workload/shop/cart-1",
            "service/shop/web",
        },
    ),
    (
        "other port of a service nobody sends to",
        service("shop/cart-all", "cart", (90,)),
        {"service/shop/cart-all", "endpoints/shop/cart-all"},
    ),
    (
        "other port of a backend",
        service("lab/cart", "cart", (90,)),
        {"service/lab/cart", "endpoints/lab/cart", "service/lab/web"},
    ),
    (
        "service that no policy targets",
        service("shop/search", "web"),
        {"service/shop/search", "endpoints/shop/search"},
    ),
    (
        "workload that moves to another service",
        workload("shop/search-1", "web"),
        {"workload/shop/search-1", "endpoints/shop/search", "endpoints/shop/web"},
    ),
    (
        "authorization by selector",
        make(TULLE, "AuthorizationPolicy", "shop/s", selecting("search")),
        {"workload/shop/search-1"},
    ),
    (
        "authorization by service",
        make(TULLE, "AuthorizationPolicy", "shop/cart", target("web")),
        {"workload/shop/cart-1", "workload/shop/web-1"},
    ),
    (
        "peer authentication of a namespace",
        make(TULLE, "PeerAuthentication", "lab/all", {}),
        {"workload/lab/cart-1", "endpoints/lab/cart"},
    ),
    (
        "default of a namespace",
        make("v1", "Namespace", "lab", {}, labels={"tulle.dev/default-authorization": "deny"}),
        {"workload/lab/cart-1"},
    ),
]


@pytest.mark.parametrize(
    ("put", "names"), [row[1:] for row in PRECISE], ids=[row[0] for row in PRECISE]
)
def test_a_change_touches_exactly(put: Resource, names: set[str]) -> None:
    after = MESH.with_changes([put])

    assert touched(MESH, after, [(MESH.find(put.key), put)]) == names


def test_a_workload_that_becomes_ready_touches_only_endpoints() -> None:
    name = ObjectName("shop", "cart-1")
    after = MESH.with_changes(states={name: WorkloadState()})
    found = MESH.workload(name)

    assert touched(MESH, after, [(found, found)]) == {
        "endpoints/shop/cart",
        "endpoints/shop/cart-all",
    }


def test_no_change_touches_nothing() -> None:
    assert touched(MESH, MESH, []) == frozenset()
