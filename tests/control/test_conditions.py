"""The status of routes and policies: written when it changes, and only then."""

import pytest

from tulle.errors import StoreError

ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes"
ROUTE = f"{ROUTES}/cart"
POLICIES = "/apis/tulle.dev/v1alpha1/namespaces/shop/backendtrafficpolicies"


def route(backend="cart", port=80):
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "cart"}],
            "rules": [{"backendRefs": [{"name": backend, "port": port}]}],
        },
    }


def service(name):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80}]},
    }


def policy(name):
    return {
        "apiVersion": "tulle.dev/v1alpha1",
        "kind": "BackendTrafficPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "cart"}]},
    }


def conditions(shop, path=ROUTE):
    status = shop.api("GET", path).json().get("status", {})
    entries = status.get("parents", status.get("ancestors", []))
    return [{found["type"]: found["reason"] for found in one["conditions"]} for one in entries]


def test_a_route_tells_that_it_is_in_force(shop):
    shop.apply(route())
    shop.advance(1)

    assert conditions(shop) == [{"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs"}]
    (entry,) = shop.api("GET", ROUTE).json()["status"]["parents"]
    assert entry["controllerName"] == "tulle.dev/mesh"
    assert [found["observedGeneration"] for found in entry["conditions"]] == [1, 1]


def test_a_status_that_is_right_is_not_written_again(shop):
    shop.apply(route())
    shop.advance(1)
    before = shop.plane.store.revision

    shop.advance(1)
    shop.advance(1)

    assert shop.plane.store.revision == before


def test_a_restart_writes_nothing_that_is_right(shop):
    shop.apply(route(), policy("a"))
    shop.advance(1)
    before = shop.plane.store.revision

    shop.restart()
    shop.advance(1)

    assert shop.plane.store.revision == before


def test_a_status_follows_the_services_it_is_about(shop):
    shop.apply(route("later"))
    shop.advance(1)
    assert conditions(shop) == [{"Accepted": "Accepted", "ResolvedRefs": "BackendNotFound"}]

    shop.apply(service("later"))
    shop.advance(1)
    assert conditions(shop) == [{"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs"}]

    shop.api("DELETE", "/api/v1/namespaces/shop/services/cart")
    shop.advance(1)
    assert conditions(shop)[0]["Accepted"] == "NoMatchingParent"


def test_a_status_alone_sends_nothing_to_sidecars(shop):
    peer = shop.connect("web-1", "web")
    shop.hub.subscribe(peer, "service/shop/cart")
    shop.apply(route())
    shop.settle()
    sent = len(peer.sent)

    shop.advance(1)

    assert conditions(shop) != []
    assert len(peer.sent) == sent


def test_the_younger_of_two_policies_takes_over_from_the_older(shop):
    shop.apply(policy("a"), policy("b"))
    shop.advance(1)
    assert [conditions(shop, f"{POLICIES}/{name}") for name in "ab"] == [
        [{"Accepted": "Accepted"}],
        [{"Accepted": "Conflicted"}],
    ]

    shop.api("DELETE", f"{POLICIES}/a")
    shop.advance(1)

    assert conditions(shop, f"{POLICIES}/b") == [{"Accepted": "Accepted"}]


def test_what_another_controller_says_stays(shop):
    shop.apply(route())
    shop.advance(1)
    written = shop.api("GET", ROUTE).json()
    other = {**written["status"]["parents"][0], "controllerName": "example.com/other"}
    written["status"]["parents"].append(other)
    shop.api("PUT", f"{ROUTE}/status", json=written)

    shop.apply(route("none"))
    shop.advance(1)

    parents = shop.api("GET", ROUTE).json()["status"]["parents"]
    assert {one["controllerName"] for one in parents} == {"tulle.dev/mesh", "example.com/other"}
    assert other in parents


def test_conditions_that_find_no_room_on_the_disk_are_written_later(
    shop, monkeypatch: pytest.MonkeyPatch
):
    def full(changes):
        raise StoreError("the disk is full")

    shop.apply(route())
    with monkeypatch.context() as patch:
        patch.setattr(shop.plane.conditions, "_commit", full)
        shop.advance(1)
    assert conditions(shop) == []

    shop.advance(1)

    assert conditions(shop) == [{"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs"}]
