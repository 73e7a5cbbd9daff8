"""What a change comes to: Kubernetes' rules for versions, status and generation."""

from collections.abc import Callable

import pytest

from tulle.errors import AlreadyExists, Conflict, NotFound
from tulle.mesh.change import Delete, Put, decide
from tulle.mesh.store import Store
from tulle.resources.model import Resource, ResourceKey
from tulle.resources.parse import parse_object, parse_text

from .conftest import Clock

MakeService = Callable[..., Resource]
ROUTE = ResourceKey("HTTPRoute", "shop", "cart")
KEY = ResourceKey("Service", "shop", "cart")


def _route(path: str = "/", more: str = "") -> Resource:
    text = (
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, "
        f"metadata: {{name: cart, namespace: shop}}, "
        f"spec: {{rules: [{{matches: [{{path: {{value: {path}}}}}]}}]}}{more}}}"
    )
    return parse_text(text)[0].resource


STATUS = (
    ", status: {parents: [{controllerName: a.b/c, "
    "parentRef: {group: '', kind: Service, name: cart}, "
    "conditions: [{type: Accepted, status: 'True', reason: Accepted}]}]}"
)


def test_a_new_object_gets_what_the_store_adds(store: Store, clock: Clock) -> None:
    clock.now = "2026-05-05T05:05:05Z"

    store.commit([Put(_route())])

    metadata = store.get(ROUTE).metadata
    assert metadata.uid is not None
    assert (metadata.resource_version, metadata.generation) == ("1", 1)
    assert metadata.creation_timestamp == "2026-05-05T05:05:05Z"


def test_an_object_keeps_its_identity_and_counts_its_changes(store: Store, clock: Clock) -> None:
    store.commit([Put(_route())])
    first = store.get(ROUTE).metadata
    clock.now = "2026-06-06T06:06:06Z"

    store.commit([Put(_route("/a"))])

    second = store.get(ROUTE).metadata
    assert second == first.model_copy(update={"resource_version": "2", "generation": 2})


def test_an_object_that_comes_again_is_another(store: Store) -> None:
    store.commit([Put(_route())])
    first = store.get(ROUTE).metadata.uid

    store.commit([Delete(ROUTE), Put(_route())])

    assert store.get(ROUTE).metadata.uid != first


def test_identity_cannot_be_given(store: Store) -> None:
    value = _route().to_object()
    value["metadata"] |= {"uid": "mine", "generation": 40, "creationTimestamp": "1970"}

    store.commit([Put(parse_object(value))])

    metadata = store.get(ROUTE).metadata
    assert metadata.uid != "mine"
    assert (metadata.generation, metadata.creation_timestamp) == (1, "2026-01-01T00:00:00Z")


def test_another_clusters_bookkeeping_is_not_kept(store: Store) -> None:
    value = _route().to_object()
    value["metadata"] |= {"managedFields": [{"manager": "kubectl"}], "selfLink": "/x"}

    store.commit([Put(parse_object(value))])

    assert {"managedFields", "selfLink"}.isdisjoint(store.get(ROUTE).to_object()["metadata"])


def test_labels_change_no_generation(store: Store, service: MakeService) -> None:
    store.commit([Put(service())])

    (outcome,) = store.commit([Put(service(more=", labels: {a: b}"))]).outcomes

    assert outcome.action == "configured"
    assert store.get(KEY).metadata.generation == 1


def test_a_default_written_out_changes_no_generation(store: Store) -> None:
    bare, full = "{port: 80}", "{port: 80, protocol: TCP}"
    text = "{{apiVersion: v1, kind: Service, metadata: {{name: cart, namespace: shop}}, spec: {{ports: [{}]}}}}"
    store.commit([Put(parse_text(text.format(bare))[0].resource)])

    store.commit([Put(parse_text(text.format(full))[0].resource)])

    assert store.get(KEY).metadata.generation == 1
    assert store.get(KEY).to_object()["spec"]["ports"] == [{"port": 80, "protocol": "TCP"}]


def test_only_status_changes_the_status(store: Store) -> None:
    store.commit([Put(_route(more=STATUS))])
    assert store.get(ROUTE).status is None

    store.commit([Put(_route("/other", more=STATUS), "status")])
    with_status = store.get(ROUTE).to_object()
    assert with_status["status"]["parents"][0]["controllerName"] == "a.b/c"
    assert with_status["spec"] == _route().to_object()["spec"], "the spec is left alone"
    assert with_status["metadata"]["generation"] == 1
    assert with_status["metadata"]["resourceVersion"] == "2"

    store.commit([Put(_route("/a"))])
    assert store.get(ROUTE).to_object()["status"] == with_status["status"]

    store.commit([Put(_route(), "status")])
    assert "status" not in store.get(ROUTE).to_object()


@pytest.mark.parametrize("mode", ["replace", "status"])
def test_what_is_not_there_cannot_be_changed(store: Store, mode: str) -> None:
    with pytest.raises(NotFound, match="HTTPRoute shop/cart does not exist"):
        store.commit([Put(_route(), mode)])  # type: ignore[arg-type]


def test_what_is_there_cannot_be_created(store: Store) -> None:
    store.commit([Put(_route(), "create")])

    with pytest.raises(AlreadyExists, match="HTTPRoute shop/cart exists already"):
        store.commit([Put(_route(), "create")])


def test_what_is_not_there_cannot_be_deleted(store: Store) -> None:
    with pytest.raises(NotFound, match="HTTPRoute shop/cart does not exist"):
        store.commit([Delete(ROUTE)])


def test_a_version_given_must_be_the_current_one(store: Store) -> None:
    store.commit([Put(_route())])
    read = store.get(ROUTE)
    store.commit([Put(_route("/a"))])

    with pytest.raises(Conflict):
        store.commit([Put(read, "replace")])
    with pytest.raises(Conflict):
        store.commit([Delete(ROUTE, read.metadata.resource_version)])
    store.commit([Put(store.get(ROUTE), "replace")])
    store.commit([Delete(ROUTE, "2")])


def test_a_version_of_what_is_gone_is_not_found() -> None:
    with pytest.raises(NotFound):
        decide(Delete(ROUTE, "4"), None, 5, "2026-01-01T00:00:00Z")
