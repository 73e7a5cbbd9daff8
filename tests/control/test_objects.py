"""The Kubernetes-shaped API: verbs, watches, and refusals as Status objects."""

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from tests.control.fake_hub import give_way
from tulle.control.app import make_app
from tulle.control.objects import KindVerbs
from tulle.control.settings import Limits
from tulle.control.streams import Slots
from tulle.mesh.change import Delete
from tulle.resources.model import ResourceKey
from tulle.resources.registry import KINDS

SERVICES = "/api/v1/namespaces/shop/services"
ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes"


def service(name="pay", **changes):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {"tier": "back"}},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]},
    } | changes


def lines(answer):
    return [json.loads(line) for line in answer.text.splitlines()]


def test_what_is_created_can_be_read(shop):
    created = shop.api("POST", SERVICES, json=service())

    assert created.status_code == 201
    assert created.json() == shop.api("GET", f"{SERVICES}/pay").json()
    assert created.json()["metadata"]["namespace"] == "shop"


def test_creating_twice_is_refused(shop):
    answer = shop.api("POST", SERVICES, json=service("cart"))

    assert (answer.status_code, answer.json()["reason"]) == (409, "AlreadyExists")


def test_put_compares_the_resource_version(shop):
    read = shop.api("GET", f"{SERVICES}/cart").json()
    read["spec"]["ports"][0]["port"] = 81
    assert shop.api("PUT", f"{SERVICES}/cart", json=read).status_code == 200

    read["spec"]["ports"][0]["port"] = 82
    answer = shop.api("PUT", f"{SERVICES}/cart", json=read)

    assert (answer.status_code, answer.json()["reason"]) == (409, "Conflict")
    assert shop.api("GET", f"{SERVICES}/cart").json()["spec"]["ports"][0]["port"] == 81


def test_put_of_what_is_not_there_is_not_found(shop):
    assert shop.api("PUT", f"{SERVICES}/pay", json=service()).status_code == 404


@pytest.mark.parametrize(
    ("media", "encode"),
    [("application/apply-patch+yaml", json.dumps), ("application/json", json.dumps)],
)
def test_patch_applies(shop, media, encode):
    send = {"content": encode(service()), "headers": {"content-type": media}}

    assert shop.api("PATCH", f"{SERVICES}/pay", **send).status_code == 201
    assert shop.api("PATCH", f"{SERVICES}/pay", **send).status_code == 200


def test_status_is_changed_alone(shop):
    shop.join("cart-1", "cart")
    path = "/apis/tulle.dev/v1alpha1/namespaces/shop/workloads/cart-1"
    read = shop.api("GET", f"{path}/status").json()
    read["status"]["draining"] = True
    read["spec"]["address"] = "10.0.0.9"

    assert shop.api("PUT", f"{path}/status", json=read).status_code == 200

    after = shop.api("GET", path).json()
    assert (after["status"]["draining"], after["spec"]["address"]) == (True, "127.0.0.1")


def test_delete_takes_the_object_away(shop):
    assert shop.api("DELETE", f"{SERVICES}/cart").json()["status"] == "Success"
    assert shop.api("GET", f"{SERVICES}/cart").status_code == 404
    assert shop.api("DELETE", f"{SERVICES}/cart").status_code == 404


def test_deleting_a_namespace_takes_all_that_is_in_it(shop):
    assert shop.api("DELETE", "/api/v1/namespaces/shop").status_code == 200

    assert shop.api("GET", "/api/v1/services").json()["items"] == []


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("", ["cart", "pay", "web"]),
        ("tier=back", ["pay"]),
        ("tier==back", ["pay"]),
        ("tier!=back", ["cart", "web"]),
        ("tier", ["pay"]),
        ("!tier", ["cart", "web"]),
        ("tier=back,!other", ["pay"]),
        (",".join(["tier"] * 64), ["pay"]),
    ],
)
def test_lists_select_by_label(shop, selector, names):
    shop.api("POST", SERVICES, json=service())

    for path in (SERVICES, "/api/v1/services"):
        items = shop.api("GET", path, params={"labelSelector": selector}).json()["items"]
        assert [item["metadata"]["name"] for item in items] == names


@pytest.mark.parametrize(
    "selector", ["a b", "=x", "a=b=c", "a in (b)", "!a=b", ",".join(["tier"] * 65)]
)
def test_a_selector_of_another_form_is_refused(shop, selector):
    answer = shop.api("GET", SERVICES, params={"labelSelector": selector})

    assert (answer.status_code, answer.json()["reason"]) == (400, "BadRequest")


def test_a_watch_goes_on_from_a_revision(shop):
    since = shop.api("GET", SERVICES).json()["metadata"]["resourceVersion"]
    shop.api("POST", SERVICES, json=service())
    shop.api("DELETE", f"{SERVICES}/pay")
    shop.api("POST", ROUTES.replace("httproutes", "grpcroutes"), json={})

    answer = shop.api("GET", SERVICES, params={"watch": "true", "resourceVersion": since})

    seen = [(event["type"], event["object"]["metadata"]["name"]) for event in lines(answer)]
    assert seen == [("ADDED", "pay"), ("DELETED", "pay")]


def test_a_watch_without_a_revision_begins_with_what_is_there(shop):
    answer = shop.api("GET", SERVICES, params={"watch": "true"})

    assert [event["object"]["metadata"]["name"] for event in lines(answer)] == ["cart", "web"]


def test_a_watch_hears_of_changes_while_it_is_open(shop):
    """The list comes at once, the change when it is made."""

    async def scene():
        verbs = KindVerbs(shop.plane, KINDS["Service"], "v1", Slots(1, AssertionError))
        changes = verbs._changes("shop", lambda _: True, shop.plane.store.revision)
        coming = asyncio.ensure_future(anext(changes))
        await give_way()
        assert not coming.done()
        shop.plane.commit([Delete(ResourceKey("Service", "shop", "cart"))])
        event = await coming
        await changes.aclose()
        return event

    assert shop.runner.run(scene())["type"] == "DELETED"


def test_a_watch_from_the_future_is_refused(shop):
    answer = shop.api("GET", SERVICES, params={"watch": "1", "resourceVersion": "99999"})

    assert answer.status_code == 404


class TestWatchers:
    """Watches are bounded."""

    @pytest.fixture
    def limits(self):
        return replace(Limits(), watchers_max=1, watch_s_max=0.05)

    def test_a_place_is_given_back_however_a_watch_ends(self, shop):
        for _ in range(3):
            assert shop.api("GET", SERVICES, params={"watch": "true"}).status_code == 200

    def test_one_more_than_may_be_is_refused(self, shop):
        async def scene():
            transport = httpx.ASGITransport(make_app(shop.plane, None))
            async with httpx.AsyncClient(transport=transport, base_url="http://tulle") as client:
                asked = [client.get(SERVICES, params={"watch": "true"}) for _ in range(2)]
                return sorted(answer.status_code for answer in await asyncio.gather(*asked))

        assert shop.runner.run(scene()) == [200, 429]


def test_every_violation_is_told_as_a_cause(shop):
    wrong = service(spec={"ports": [{"port": 0}, {"port": 70000, "colour": 1}]})

    answer = shop.api("POST", SERVICES, json=wrong)

    assert (answer.status_code, answer.json()["reason"]) == (422, "Invalid")
    fields = {cause["field"] for cause in answer.json()["details"]["causes"]}
    assert {"spec.ports[0].port", "spec.ports[1].port", "spec.ports[1].colour"} <= fields
    assert shop.api("GET", f"{SERVICES}/pay").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "options", "code", "reason"),
    [
        ("POST", SERVICES, {"content": b"{"}, 400, "BadRequest"),
        ("POST", SERVICES, {"content": b"[]"}, 400, "BadRequest"),
        ("POST", SERVICES, {"content": b'{"a": NaN}'}, 400, "BadRequest"),
        ("POST", SERVICES, {"content": b'{"a": "\\uD800"}'}, 400, "BadRequest"),
        ("POST", SERVICES, {"content": b"[" * 100_000}, 400, "BadRequest"),
        ("POST", SERVICES, {"content": b'{"a":' + b"[" * 70 + b"]" * 70 + b"}"}, 400, "BadRequest"),
        ("POST", SERVICES, {"json": {"kind": "HTTPRoute"}}, 400, "BadRequest"),
        ("PUT", f"{SERVICES}/other", {"json": service()}, 400, "BadRequest"),
        (
            "POST",
            SERVICES,
            {"content": b"a: &a [1]\nb: *a", "headers": {"content-type": "application/yaml"}},
            400,
            "BadRequest",
        ),
        (
            "POST",
            SERVICES,
            {"content": b"[" * 200_000, "headers": {"content-type": "application/yaml"}},
            400,
            "BadRequest",
        ),
        (
            "POST",
            SERVICES,
            {"content": b"x", "headers": {"content-type": "text/html"}},
            415,
            "UnsupportedMediaType",
        ),
        ("POST", SERVICES, {"content": b"x" * (4 * 1024 * 1024 + 1)}, 413, "RequestEntityTooLarge"),
        ("GET", "/api/v1/nothing", {}, 404, "NotFound"),
        ("PATCH", SERVICES, {}, 405, "MethodNotAllowed"),
        ("GET", SERVICES, {"params": {"watch": "maybe"}}, 400, "BadRequest"),
        ("GET", SERVICES, {"params": {"watch": "1", "resourceVersion": "-1"}}, 400, "BadRequest"),
        ("GET", SERVICES, {"params": {"watch": "1", "resourceVersion": "9" * 18}}, 404, "NotFound"),
        (
            "GET",
            SERVICES,
            {"params": {"watch": "1", "resourceVersion": "9" * 19}},
            400,
            "BadRequest",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals_are_status_objects(shop, method, path, options, code, reason):
    answer = shop.api(method, path, **options)

    assert (answer.status_code, answer.json()["reason"]) == (code, reason), answer.text[:300]
    assert answer.json()["kind"] == "Status"


class TestToken:
    """On TCP every path asks for the token; the Unix socket asks for nothing."""

    @pytest.fixture
    def guarded(self, shop):
        shop.token = "right"
        yield shop
        shop.token = None

    @pytest.mark.parametrize("path", ["/livez", "/openapi.json", SERVICES, "/tulle/v1/tokens"])
    @pytest.mark.parametrize(
        "headers",
        [{}, {"authorization": "Bearer wrong"}, {"authorization": "right"}, {"authorization": ""}],
        ids=["none", "wrong", "no scheme", "empty"],
    )
    def test_without_it_nothing_is_told(self, guarded, path, headers):
        answer = guarded.api("GET", path, headers=headers)

        assert (answer.status_code, answer.json()["reason"]) == (401, "Unauthorized")

    def test_with_it_all_is(self, guarded):
        answer = guarded.api("GET", SERVICES, headers={"authorization": "Bearer right"})

        assert answer.status_code == 200
