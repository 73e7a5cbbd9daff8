"""The publisher: a change compiles and sends what it touches and someone holds, nothing else."""

import json

import pytest

from tulle.control.publisher import Publisher
from tulle.record import TrustRecord


def route(weight=90, name="cart-route"):
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "parentRefs": [{"kind": "Service", "group": "", "name": "cart"}],
            "rules": [{"backendRefs": [{"name": "cart", "port": 80, "weight": weight}]}],
        },
    }


@pytest.fixture
def reader(shop):
    """A sidecar that reads the records of cart."""
    peer = shop.connect("web-1", "web")
    for name in ("service/shop/cart", "endpoints/shop/cart", "trust/tulle.local"):
        shop.hub.subscribe(peer, name)
    shop.settle()
    return peer


def names(peer):
    return [frame[1] for frame in peer.sent if frame[0] in {"record", "absent"}]


def test_a_subscriber_gets_the_records_it_asked_for(shop, reader):
    assert names(reader) == ["service/shop/cart", "endpoints/shop/cart", "trust/tulle.local"]
    trust = json.loads(reader.sent[2][3])
    assert trust["roots_pem"] == [shop.plane.roots_pem()]


def test_a_change_sends_only_the_record_it_touches(shop, reader):
    reader.sent.clear()
    compiled = shop.plane.publisher.compiled

    shop.apply(route())

    assert names(reader) == ["service/shop/cart"]
    assert shop.plane.publisher.compiled == compiled + 1


def test_a_change_that_nobody_reads_is_not_compiled(shop, reader):
    reader.sent.clear()
    compiled = shop.plane.publisher.compiled

    changed = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "other"}, "ports": [{"name": "http", "port": 81}]},
    }
    shop.apply(changed)

    assert (names(reader), shop.plane.publisher.compiled) == ([], compiled)


def test_a_new_endpoint_sends_the_endpoints_alone(shop, reader):
    reader.sent.clear()

    shop.connect("cart-1", "cart")

    assert names(reader) == ["endpoints/shop/cart"]


def test_a_change_without_an_effect_on_the_bytes_is_not_sent(shop, reader):
    shop.apply(route())
    reader.sent.clear()

    labelled = route()
    labelled["metadata"]["labels"] = {"team": "a"}
    shop.apply(labelled)

    assert names(reader) == []


def test_a_record_that_goes_is_withdrawn_and_one_that_comes_is_sent(shop, reader):
    reader.sent.clear()
    path = "/api/v1/namespaces/shop/services/cart"
    kept = shop.api("GET", path).json()

    shop.api("DELETE", path)
    assert [frame for frame in reader.sent if frame[0] == "absent"] == [
        ("absent", "endpoints/shop/cart"),
        ("absent", "service/shop/cart"),
    ]

    reader.sent.clear()
    for field in ("uid", "resourceVersion", "generation", "creationTimestamp"):
        kept["metadata"].pop(field)
    shop.api("POST", "/api/v1/namespaces/shop/services", json=kept)
    assert sorted(names(reader)) == ["endpoints/shop/cart", "service/shop/cart"]


def test_a_name_that_nobody_holds_any_more_is_not_published(shop, reader):
    shop.hub.unsubscribe(reader, "service/shop/cart")
    shop.settle()
    compiled = shop.plane.publisher.compiled

    shop.apply(route())

    assert shop.plane.publisher.compiled == compiled
    shop.hub.subscribe(reader, "service/shop/cart")
    shop.settle()
    assert json.loads(reader.sent[-1][3])["ports"][0]["tables"]


def test_a_name_without_a_record_is_absent(shop, reader):
    shop.hub.subscribe(reader, "service/shop/none")
    shop.settle()

    assert reader.sent[-1] == ("absent", "service/shop/none")


def test_a_sidecar_that_returns_with_the_version_gets_no_bytes(shop, reader):
    version = shop.hub.records["service/shop/cart"][0]
    other = shop.connect("web-2", "web")

    shop.hub.subscribe(other, "service/shop/cart", version)

    assert other.sent == [("unchanged", "service/shop/cart")]


def test_the_cache_keeps_its_bound(shop):
    one = len(shop.plane.publisher.encoded("service/shop/cart").data)
    trust = TrustRecord("tulle.local", ())
    publisher = Publisher(shop.hub, shop.plane.mesh, trust, cache_bytes_max=one + 10)
    for name in ("service/shop/cart", "service/shop/cart", "service/shop/web", "service/shop/cart"):
        publisher.encoded(name)

    assert publisher.compiled == 3


def test_the_proxies_view_tells_what_is_held_and_what_was_refused(shop, reader):
    version = shop.hub.records["service/shop/cart"][0]
    shop.hub.say(reader, "ack", name="service/shop/cart", version=version)
    shop.settle()
    shop.apply(route())
    newer = shop.hub.records["service/shop/cart"][0]

    row = shop.api("GET", "/tulle/v1/proxies/shop/web-1").json()
    assert row["records"] == [
        {
            "name": "service/shop/cart",
            "version": newer,
            "held": version,
            "in_sync": False,
            "error": None,
        }
    ]

    shop.hub.say(reader, "nack", name="service/shop/cart", version=newer, error="bad regex")
    shop.settle()
    (record,) = shop.api("GET", "/tulle/v1/proxies/shop/web-1").json()["records"]
    assert (record["held"], record["error"], record["in_sync"]) == (version, "bad regex", False)

    shop.hub.say(reader, "ack", name="service/shop/cart", version=newer)
    shop.settle()
    (record,) = shop.api("GET", "/tulle/v1/proxies/shop/web-1").json()["records"]
    assert (record["held"], record["error"], record["in_sync"]) == (newer, None, True)


def test_the_hub_serves_a_certificate_that_is_renewed_at_half_of_its_life(shop):
    first = shop.hub.identity
    assert first is not None

    shop.advance(12 * 3600 - 1)
    assert shop.hub.identity == first
    shop.advance(1)

    assert shop.hub.identity[0] != first[0]
    assert shop.hub.identity[2] == shop.plane.roots_pem()


def test_a_record_that_no_frame_can_hold_leaves_the_last_one_in_force(shop, reader, monkeypatch):
    reader.sent.clear()
    monkeypatch.setattr("tulle.control.publisher.RECORD_BYTES_MAX", 100)
    shop.apply(route())
    assert names(reader) == []

    monkeypatch.undo()
    shop.apply(route(weight=80))

    assert names(reader) == ["service/shop/cart"]
