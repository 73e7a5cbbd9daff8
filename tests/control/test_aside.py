"""Stored resources that the rules refuse now: the plane starts, shows them and applies none."""

import json
import sqlite3
from contextlib import closing

import pytest

from tulle.errors import StoreError

ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes"
POLICIES = "/apis/tulle.dev/v1alpha1/namespaces/shop/authorizationpolicies"
WORKLOADS = "/apis/tulle.dev/v1alpha1/namespaces/shop/workloads"
BAD = {
    "type": "URLRewrite",
    "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/a b"}},
}


def route(*filters):
    rule = {"filters": list(filters), "backendRefs": [{"name": "cart", "port": 80}]}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "cart"}],
            "rules": [rule],
        },
    }


def policy(method="GET"):
    return {
        "apiVersion": "tulle.dev/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "guard", "namespace": "shop"},
        "spec": {"rules": [{"to": [{"operation": {"methods": [method]}}]}]},
    }


def rewrite(mesh, kind, change):
    """Change a stored object behind the plane's back, and start the plane anew."""
    with closing(sqlite3.connect(mesh.settings.data_dir / "mesh.db")) as connection, connection:
        row = connection.execute("SELECT object FROM resources WHERE kind = ?", (kind,)).fetchone()
        text = change(json.loads(row[0]))
        connection.execute("UPDATE resources SET object = ? WHERE kind = ?", (text, kind))
    mesh.restart()


def spoil(mesh, kind, resource):
    rewrite(mesh, kind, lambda found: json.dumps(found | {"spec": resource["spec"]}))


@pytest.fixture
def old(shop):
    """A shop whose route and policy an earlier version has accepted."""
    shop.apply(route(), policy())
    shop.advance(1)
    spoil(shop, "HTTPRoute", route(BAD))
    spoil(shop, "AuthorizationPolicy", policy("get"))
    return shop


def conditions(status):
    return {found["type"]: (found["status"], found["reason"]) for found in status["conditions"]}


def test_the_log_names_all_that_is_set_aside(shop, caplog):
    shop.apply(route(), policy())
    spoil(shop, "HTTPRoute", route(BAD, BAD))
    caplog.clear()
    spoil(shop, "AuthorizationPolicy", policy("get"))

    told = [record.message for record in caplog.records if "set aside" in record.message]

    field = "filters[{}].urlRewrite.path.replaceFullPath"
    assert len(told) == 3
    assert all(line.startswith(f"{shop.settings.data_dir / 'mesh.db'}: set aside") for line in told)
    for index in (0, 1):
        assert f"HTTPRoute shop/cart: spec.rules[0].{field.format(index)}" in "".join(told)
    assert "AuthorizationPolicy shop/guard: spec.rules[0].to[0]" in "".join(told)


def test_it_is_shown_as_it_is_written_and_not_accepted(old):
    old.advance(1)

    shown = old.api("GET", f"{ROUTES}/cart").json()
    (listed,) = old.api("GET", ROUTES).json()["items"]
    guard = old.api("GET", f"{POLICIES}/guard").json()

    assert shown == listed
    assert shown["spec"] == route(BAD)["spec"]
    (parent,) = shown["status"]["parents"]
    assert conditions(parent)["Accepted"] == ("False", "UnsupportedValue")
    assert "spec.rules[0].filters[0]" in parent["conditions"][0]["message"]
    assert conditions(guard["status"])["Accepted"] == ("False", "Invalid")


def test_its_status_is_written_once_and_read_back(old):
    old.advance(1)
    before = old.plane.store.revision

    old.advance(60)
    old.restart()
    old.advance(1)

    assert old.plane.store.revision == before


def test_sidecars_are_given_what_closes(old):
    old.connect("cart-1", "cart")

    service = old.api("GET", "/tulle/v1/records/service/shop/cart").json()
    workload = old.api("GET", "/tulle/v1/records/workload/shop/cart-1").json()

    ((table,),) = [port["tables"] for port in service["ports"]]
    assert [rule["backends"] for rule in table["rules"]] == [[]]
    assert len(table["entries"]) == 1
    (guard,) = workload["authorization"]["policies"]
    assert (guard["action"], guard["rules"]) == ("allow", [])


def test_a_replacement_is_in_force_and_accepted(old):
    old.connect("cart-1", "cart")
    old.advance(1)

    old.apply(route(), policy())
    old.advance(1)

    service = old.api("GET", "/tulle/v1/records/service/shop/cart").json()
    workload = old.api("GET", "/tulle/v1/records/workload/shop/cart-1").json()
    shown = old.api("GET", f"{ROUTES}/cart").json()
    guard = old.api("GET", f"{POLICIES}/guard").json()
    assert [len(r["backends"]) for r in service["ports"][0]["tables"][0]["rules"]] == [1]
    assert len(workload["authorization"]["policies"][0]["rules"]) == 1
    assert conditions(shown["status"]["parents"][0])["Accepted"] == ("True", "Accepted")
    assert guard["status"].get("conditions", []) == []
    assert old.plane.mesh.aside == {}


@pytest.mark.parametrize("batch", [True, False])
def test_it_can_be_deleted(old, batch):
    if batch:
        answer = old.api("POST", "/tulle/v1/delete", json={"resources": [route(), policy()]})
        assert answer.status_code == 400, "a specification does not belong there"
        named = [
            {key: one[key] for key in ("apiVersion", "kind", "metadata")}
            for one in (route(), policy())
        ]
        answer = old.api("POST", "/tulle/v1/delete", json={"resources": named})
        assert [one["action"] for one in answer.json()["results"]] == ["deleted", "deleted"]
    else:
        assert old.api("DELETE", f"{ROUTES}/cart").status_code == 200
        assert old.api("DELETE", f"{POLICIES}/guard").status_code == 200

    service = old.api("GET", "/tulle/v1/records/service/shop/cart").json()
    assert service["ports"][0]["tables"] == []
    assert old.plane.mesh.aside == {}
    assert old.api("GET", f"{ROUTES}/cart").status_code == 404


def test_a_workload_is_registered_anew_by_its_sidecar(shop):
    shop.connect("cart-1", "cart")
    rewrite(
        shop,
        "Workload",
        lambda found: json.dumps(found | {"spec": {**found["spec"], "address": "nowhere"}}),
    )
    assert shop.api("GET", "/tulle/v1/records/workload/shop/cart-1").status_code == 404
    assert shop.api("GET", f"{WORKLOADS}/cart-1").json()["spec"]["address"] == "nowhere"

    shop.connect("cart-1", "cart")

    assert shop.api("GET", "/tulle/v1/records/workload/shop/cart-1").status_code == 200
    assert shop.endpoints("shop/cart") == ["shop/cart-1"]


def test_what_cannot_be_read_keeps_the_plane_from_starting(old):
    with pytest.raises(StoreError) as refused:
        rewrite(old, "HTTPRoute", lambda _: "{")

    assert "HTTPRoute shop/cart is damaged: Expecting" in str(refused.value)
