"""The calls under /tulle/v1: batches, traffic, taps, questions, records and tokens."""

import asyncio
import json

import httpx
import pytest

from tests.control.fake_hub import give_way, workload
from tests.control.test_publisher import route
from tests.control.test_telemetry import CART, WEB, edge
from tulle.control.app import make_app


def service(name, port=80):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": port}]},
    }


def batch(mesh, call, *resources, **more):
    return mesh.api("POST", f"/tulle/v1/{call}", json={"resources": list(resources), **more})


def actions(answer, field="results"):
    return [(found["name"], found["action"]) for found in answer.json()[field]]


class TestBatches:
    """A batch is made whole or not at all."""

    def test_apply_tells_what_it_did_with_each(self, shop):
        assert actions(batch(shop, "apply", service("pay"))) == [("pay", "created")]

        answer = batch(shop, "apply", service("pay"), service("pay2"), service("web", 81))

        assert actions(answer) == [("pay", "unchanged"), ("pay2", "created"), ("web", "configured")]
        assert answer.json()["revision"] == shop.plane.store.revision

    def test_one_wrong_resource_refuses_all_with_every_violation(self, shop):
        before = shop.plane.store.revision

        answer = batch(shop, "apply", service("pay"), service("a", 0), service("b", 70000))

        assert answer.status_code == 422
        found = [(v["resource"], v["path"]) for v in answer.json()["violations"]]
        assert found == [
            ("Service shop/a", "spec.ports[0].port"),
            ("Service shop/b", "spec.ports[0].port"),
        ]
        assert shop.plane.store.revision == before

    def test_a_dry_run_changes_nothing(self, shop):
        before = shop.plane.store.revision

        answer = batch(shop, "apply", service("pay"), dry_run=True)

        assert actions(answer) == [("pay", "created")]
        assert shop.plane.store.revision == before
        assert shop.plane.mesh.revision == before

    def test_diff_shows_before_and_after_of_what_would_change(self, shop):
        answer = batch(shop, "diff", service("pay"), service("web", 81))

        assert actions(answer, "changes") == [("pay", "created"), ("web", "configured")]
        created, changed = answer.json()["changes"]
        assert created["before"] is None
        ports = [changed[side]["spec"]["ports"][0]["port"] for side in ("before", "after")]
        assert ports == [80, 81]

    def test_delete_leaves_out_what_is_not_there(self, shop):
        metadata = [{"name": "cart", "namespace": "shop"}, {"name": "none", "namespace": "shop"}]
        references = [{"apiVersion": "v1", "kind": "Service", "metadata": m} for m in metadata]

        assert actions(batch(shop, "delete", *references)) == [("cart", "deleted")]

    def test_a_namespace_is_deleted_with_all_that_is_in_it(self, shop):
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}

        deleted = actions(batch(shop, "delete", namespace))

        assert deleted == [("shop", "deleted"), ("cart", "deleted"), ("web", "deleted")]
        assert shop.api("GET", "/api/v1/services").json()["items"] == []

    @pytest.mark.parametrize(
        ("call", "body", "code"),
        [
            ("apply", {}, 400),
            ("apply", {"resources": [], "colour": 1}, 400),
            ("apply", {"resources": "all"}, 400),
            ("apply", {"resources": [3]}, 400),
            ("apply", {"resources": [{}]}, 422),
            ("apply", {"resources": [{}] * 5001}, 413),
            (
                "delete",
                {"resources": [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}]},
                400,
            ),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_a_batch_of_another_form_is_refused(self, shop, call, body, code):
        assert shop.api("POST", f"/tulle/v1/{call}", json=body).status_code == code


def report(*edges):
    return {
        "epoch": "a",
        "uptime_s": 5.0,
        "rss_bytes": 12_000_000,
        "cpu_s": 0.5,
        "connections": 1,
        "dropped_series": 0,
        "edges": list(edges),
    }


def test_reports_become_edges_rows_and_gauges(shop):
    web = shop.connect("web-1", "web")
    shop.hub.say(web, "report", report=report(edge(50)))
    shop.settle()

    (row,) = shop.api("GET", "/tulle/v1/edges", params={"namespace": "shop"}).json()["edges"]
    assert row == {
        "source": "shop/web-1",
        "source_identity": WEB,
        "service": "shop/cart",
        "destination": "shop/cart-1",
        "destination_identity": CART,
        "protocol": "http",
        "mtls": True,
        "requests": 50,
        "success": 50,
        "success_rate": 1.0,
        "rps": 10.0,
        "p50_ms": 1.0,
        "p99_ms": 1.0,
        "bytes_in": 500,
        "bytes_out": 1000,
        "retries": 0,
    }
    (row,) = shop.api("GET", "/tulle/v1/stat", params={"by": "route"}).json()["rows"]
    assert (row["name"], row["route"]) == ("shop/cart", "shop/cart-route")
    proxy = shop.api("GET", "/tulle/v1/proxies/shop/web-1").json()
    assert (proxy["rss_bytes"], proxy["cpu_s"], proxy["pid"]) == (12_000_000, 0.5, 4242)


def test_a_last_report_is_counted_and_answered(shop):
    web = shop.connect("web-1", "web")
    shop.hub.say(web, "report", report=report(edge(50)) | {"epoch": "b"})
    body = {"workload": workload("web-1", "web"), "report": report(edge(3))}
    told = [shop.hub.ask("last_report", identity=WEB, body=body) for _ in range(2)]
    shop.settle()

    assert [shop.hub.replies[one] for one in told] == [(200, {}), (200, {})]
    (row,) = shop.api("GET", "/tulle/v1/edges").json()["edges"]
    assert row["requests"] == 53


@pytest.mark.parametrize(
    ("identity", "body"),
    [
        (CART, {"workload": workload("web-1", "web"), "report": report()}),
        (CART, {"workload": workload("web-1", "cart"), "report": report()}),
        (WEB, {"workload": workload("web-1", "web"), "report": {"edges": "none"}}),
        (WEB, {"workload": workload("web-1", "web")}),
        (WEB, {"report": report()}),
    ],
    ids=["of another", "name of another", "malformed", "none", "of nobody"],
)
def test_a_last_report_that_is_not_of_its_sender_or_malformed_is_refused(shop, identity, body):
    shop.connect("web-1", "web")
    told = shop.hub.ask("last_report", identity=identity, body=body)
    shop.settle()

    assert shop.hub.replies[told][0] == 400
    assert shop.api("GET", "/tulle/v1/edges").json()["edges"] == []


def test_a_malformed_report_costs_nothing_but_itself(shop):
    web = shop.connect("web-1", "web")
    shop.hub.say(web, "report", report={"edges": "none"})
    shop.hub.say(web, "report", report=report(edge(1)))
    shop.settle()

    assert len(shop.api("GET", "/tulle/v1/edges").json()["edges"]) == 1


def entry(direction="inbound", **changes):
    return {
        "time": "2026-11-23T10:00:00Z",
        "direction": direction,
        "source": "shop/web-1",
        "source_identity": WEB,
        "service": "shop/cart",
        "destination": "shop/cart-1",
        "destination_identity": CART,
        "method": "GET",
        "path": "/x",
        "code": "200",
        "reason": None,
        "duration_ms": 1.5,
        "tries": 1,
        "route": None,
        "policy": None,
        "mtls": True,
        "trace_id": None,
    } | changes


def play(mesh, path, scene, **options):
    """Ask for *path* while *scene* plays the sidecars; returns the answer."""

    async def both():
        transport = httpx.ASGITransport(make_app(mesh.plane, None))
        async with httpx.AsyncClient(transport=transport, base_url="http://tulle") as client:
            method = "POST" if "json" in options else "GET"
            asked = asyncio.create_task(client.request(method, path, **options))
            while not asked.done():
                await give_way()
                scene()
                mesh.settle()
            return asked.result()

    return mesh.runner.run(both())


class TestTap:
    """Each request is shown once, from the side that knows most of it."""

    def tap(self, mesh, entries, **query):
        web, cart = mesh.connect("web-1", "web"), mesh.connect("cart-1", "cart")
        told = []

        def scene():
            for peer in (web, cart):
                taps = [frame[1] for frame in peer.sent if frame[0] == "tap"]
                if taps and peer not in told:
                    told.append(peer)
                    side = "outbound" if peer is web else "inbound"
                    for found in entries:
                        if found["direction"] == side:
                            mesh.hub.say(peer, "tap", id=taps[0]["id"], entry=found)

        answer = play(mesh, "/tulle/v1/tap", scene, params=query)
        assert answer.status_code == 200, answer.text
        for peer in (web, cart):
            assert [frame[0] for frame in peer.sent if "tap" in frame[0]] == ["tap", "untap"]
            self.filter = next(frame[1]["filter"] for frame in peer.sent if frame[0] == "tap")
        return [json.loads(line) for line in answer.text.splitlines()]

    def test_a_request_that_arrived_is_told_by_its_destination(self, shop):
        shown = self.tap(shop, [entry("outbound"), entry("inbound")])

        assert [found["direction"] for found in shown] == ["inbound"]

    def test_a_request_that_reached_nobody_is_told_by_the_caller(self, shop):
        lost = entry("outbound", destination=None, code="503", reason="no-endpoint")

        assert self.tap(shop, [lost]) == [lost]

    def test_it_ends_after_as_many_as_were_asked_for(self, shop):
        assert len(self.tap(shop, [entry()] * 5, max=3)) == 3

    def test_sidecars_get_the_filter(self, shop):
        self.tap(shop, [], service="shop/cart", path="/api", status="5xx", denied="true", max=7)

        assert self.filter == {
            "service": "shop/cart",
            "method": None,
            "path": "/api",
            "status": "5xx",
            "denied": True,
            "max": 100_000,
        }

    def test_a_caller_does_not_tell_of_what_itself_takes_in(self, shop):
        assert self.tap(shop, [entry("inbound", service=None)], service="shop/web") == []
        (shown,) = self.tap(shop, [entry("inbound", service=None)], service="shop/cart")
        assert shown["service"] == "shop/cart"

    @pytest.mark.parametrize(
        "query", [{"max": 0}, {"max": 100_001}, {"status": "6xx"}, {"path": "x"}, {"colour": "red"}]
    )
    def test_a_filter_of_another_form_is_refused(self, shop, query):
        assert shop.api("GET", "/tulle/v1/tap", params=query).status_code == 400


ASK = {"from": "shop/web", "to": "shop/cart", "path": "/x", "headers": [["a", "b"]]}


class Answers:
    """What a sidecar answers to one question after the other."""

    def __init__(self, outbound):
        self._outbound = outbound

    def get(self, direction):
        assert direction == "outbound"
        return next(self._outbound)


class TestResolve:
    """The caller's sidecar is asked, then the destination's."""

    def resolve(self, mesh, answers, **changes):
        asked = []

        def scene():
            for peer in list(mesh.hub.peers.values()):
                for kind, body in [frame for frame in peer.sent if frame[0] == "resolve"]:
                    peer.sent.remove((kind, body))
                    asked.append(body["request"])
                    result = answers.get(body["request"]["direction"])
                    if result is not None:
                        mesh.hub.say(peer, "resolved", id=body["id"], result=result)

        answer = play(mesh, "/tulle/v1/resolve", scene, json=ASK | changes)
        return answer, asked

    def result(self, step, outcome, **changes):
        steps = [{"step": step, "decision": outcome, "source": None}]
        return {"steps": steps, "outcome": outcome, "code": None, "reason": None} | changes

    def test_a_forwarded_request_is_asked_about_at_its_destination(self, shop):
        shop.connect("web-1", "web")
        shop.connect("cart-1", "cart")
        denied = self.result("authorize", "deny", code=403, reason="no policy allows it")

        answer, asked = self.resolve(
            shop, {"outbound": self.result("route", "forward"), "inbound": denied}
        )

        assert [step["step"] for step in answer.json()["steps"]] == ["route", "authorize"]
        assert (answer.json()["outcome"], answer.json()["code"]) == ("deny", 403)
        assert [request["direction"] for request in asked] == ["outbound", "inbound"]
        assert [request["principal"] for request in asked] == [None, WEB.removeprefix("spiffe://")]
        assert asked[0]["headers"] == [["a", "b"]]
        assert [request["port"] for request in asked] == [80, 8080]

    @pytest.mark.parametrize("outcome", ["redirect", "error"])
    def test_what_is_not_forwarded_ends_at_the_caller(self, shop, outcome):
        shop.connect("web-1", "web")
        shop.connect("cart-1", "cart")

        answer, asked = self.resolve(shop, {"outbound": self.result("route", outcome)})

        assert (answer.json()["outcome"], len(asked)) == (outcome, 1)

    def test_a_sidecar_that_has_to_learn_of_the_service_is_asked_again(self, shop):
        shop.connect("web-1", "web")
        unknown = {"steps": [], "outcome": "error", "code": 404, "reason": "unknown-service"}
        no_endpoint = self.result("route", "error", code=503)
        outbound = iter([unknown, no_endpoint, self.result("route", "redirect")])

        answer, asked = self.resolve(shop, Answers(outbound))

        assert (answer.json()["outcome"], len(asked)) == ("redirect", 3)

    def test_a_service_that_does_not_exist_is_named_at_once(self, shop):
        shop.connect("web-1", "web")

        answer, asked = self.resolve(shop, {}, to="shop/none")

        assert (answer.status_code, asked) == (404, [])
        assert "shop/none" in answer.json()["message"]

    def test_a_caller_that_is_not_connected_is_named(self, shop):
        answer, _ = self.resolve(shop, {})

        assert (answer.status_code, "shop/web" in answer.json()["message"]) == (404, True)

    def test_a_sidecar_that_does_not_answer_is_named_in_time(self, shop):
        shop.connect("web-1", "web")

        answer, _ = self.resolve(shop, {}, **{"from": "shop/web-1"})

        assert answer.status_code == 504
        assert "shop/web-1 did not answer in 0.2 s" in answer.json()["message"]


def test_records_are_shown_as_sidecars_get_them(shop):
    shop.apply(route())

    answer = shop.api("GET", "/tulle/v1/records/service/shop/cart")

    assert answer.content == shop.plane.publisher.encoded("service/shop/cart").data
    assert shop.api("GET", "/tulle/v1/records/service/shop/none").status_code == 404
    trust = shop.api("GET", "/tulle/v1/records/trust/tulle.local").json()
    assert trust["roots_pem"] == [shop.api("GET", "/tulle/v1/ca/bundle").text]


def test_tokens_are_made_listed_and_revoked(shop):
    body = {"namespace": "shop", "service_account": "cart", "uses": 2, "ttl_s": 60}
    made = shop.api("POST", "/tulle/v1/tokens", json=body)
    assert made.status_code == 201

    (listed,) = shop.api("GET", "/tulle/v1/tokens").json()["tokens"]
    assert (listed["id"], listed["uses_left"]) == (made.json()["id"], 2)
    assert made.json()["token"] not in json.dumps(listed)

    path = f"/tulle/v1/tokens/{listed['id']}"
    assert shop.api("DELETE", path).status_code == 200
    assert shop.api("DELETE", path).status_code == 404
    assert shop.join("cart-1", "cart", token=made.json()["token"])[0] == 403


def test_expired_tokens_leave_the_store(shop):
    shop.api("POST", "/tulle/v1/tokens", json={"namespace": "shop", "ttl_s": 60})
    shop.advance(61)

    assert shop.plane.store.documents("token").all() == ()


def test_readiness_ends_when_the_process_does(shop):
    assert shop.api("GET", "/readyz").status_code == 200
    shop.plane.closing.set()

    assert shop.api("GET", "/readyz").status_code == 503
    assert shop.api("GET", "/livez").status_code == 200
