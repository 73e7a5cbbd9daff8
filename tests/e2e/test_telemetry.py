"""What the mesh tells of its traffic: metrics, access log, and the commands that show it live."""

import json
import re
import shutil
import subprocess
from collections import Counter
from typing import Any

import pytest

from tests.e2e.http_client import Client, call, get
from tests.e2e.mesh import HTTP, Namespace, Workload
from tests.e2e.processes import eventually

pytestmark = pytest.mark.e2e

SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"(?:,|$)')
OK, MISSING, BROKEN, UNKNOWN = 30, 7, 5, 3
"""How many requests of each outcome are sent."""

Samples = list[tuple[str, dict[str, str], float]]


@pytest.fixture(scope="module")
def web(shop: Namespace) -> Workload:
    """A caller of `cart` that logs all; `quiet` and `careful` log nothing, and errors."""
    shop.service("cart")
    web = shop.add("web", access_log="all")
    shop.add("quiet")
    shop.add("careful", access_log="errors")
    shop.add("cart-1", HTTP, access_log="all")
    shop.settle()
    return web


@pytest.fixture(scope="module")
def sent(shop: Namespace, web: Workload) -> Workload:
    """The caller, after the requests that are counted."""
    for workload in (web, shop.workloads["quiet"], shop.workloads["careful"]):
        with Client(workload.proxy) as client:
            for _ in range(OK):
                assert client.call("POST", "http://cart/x", b"12345").status == 200
            for _ in range(MISSING):
                assert client.get("http://cart/do/status/404").status == 404
            for _ in range(BROKEN):
                assert client.get("http://cart/do/status/500").status == 500
            for _ in range(UNKNOWN):
                assert client.get("http://nobody/").status == 404
    return web


def samples(workload: Workload) -> Samples:
    """Return the metrics of a sidecar; a line that is none fails the test."""
    answer = get(workload.admin, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: Samples = []
    for line in answer.body.decode().splitlines():
        if line.startswith("#"):
            assert re.match(r"# (HELP [a-z_]+ \S.*|TYPE [a-z_]+ (counter|gauge|histogram))$", line)
            continue
        sample = SAMPLE.match(line)
        assert sample is not None, line
        labels = dict(LABEL.findall(sample[2] or ""))
        assert LABEL.sub("", sample[2] or "") == "", line
        found.append((sample[1], labels, float(sample[3])))
    return found


def by_code(found: Samples, name: str, **wanted: str) -> Counter[str]:
    """Return the sum of a metric by code, of the samples with these labels."""
    counts: Counter[str] = Counter()
    for metric, labels, value in found:
        if metric == name and wanted.items() <= labels.items():
            counts[labels["code"]] += int(value)
    return counts


def test_the_callers_metrics_are_what_was_sent(shop: Namespace, sent: Workload) -> None:
    found = samples(sent)
    cart = {"service": f"{shop.name}/cart", "direction": "outbound", "mtls": "true"}

    counted = by_code(found, "tulle_requests_total", **cart)
    assert counted == {"200": OK, "404": MISSING, "500": BROKEN}
    assert by_code(found, "tulle_requests_total", reason="unknown-service") == {"404": UNKNOWN}
    assert by_code(found, "tulle_request_duration_seconds_count", **cart) == counted
    assert by_code(found, "tulle_request_bytes_total", **cart)["200"] == OK * 5
    edges = {
        (labels["source"], labels["source_identity"], labels["destination_identity"])
        for metric, labels, _ in found
        if metric == "tulle_requests_total" and cart.items() <= labels.items()
    }
    base = f"spiffe://tulle.local/ns/{shop.name}/sa"
    assert edges == {(f"{shop.name}/web", f"{base}/web", f"{base}/cart")}


def test_the_called_sides_metrics_agree(shop: Namespace, sent: Workload) -> None:
    found = samples(shop.workloads["cart-1"])
    identity = f"spiffe://tulle.local/ns/{shop.name}/sa/web"

    counted = by_code(
        found, "tulle_requests_total", direction="inbound", source_identity=identity, mtls="true"
    )

    assert counted == {"200": OK, "404": MISSING, "500": BROKEN}


def test_buckets_grow_to_the_count(sent: Workload) -> None:
    series: dict[tuple[tuple[str, str], ...], list[float]] = {}
    counts: dict[tuple[tuple[str, str], ...], float] = {}
    for metric, labels, value in samples(sent):
        key = tuple(sorted((name, text) for name, text in labels.items() if name != "le"))
        if metric == "tulle_request_duration_seconds_bucket":
            series.setdefault(key, []).append(value)
        elif metric == "tulle_request_duration_seconds_count":
            counts[key] = value

    assert set(series) == set(counts)
    for key, values in series.items():
        assert values == sorted(values)
        assert values[-1] == counts[key]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_reads_the_metrics(shop: Namespace, sent: Workload) -> None:
    for workload in shop.workloads.values():
        text = get(workload.admin, "/metrics").body
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_the_access_log_has_what_was_asked_for(shop: Namespace, sent: Workload) -> None:
    everything = OK + MISSING + BROKEN + UNKNOWN
    careful = shop.workloads["careful"]
    eventually(lambda: len(sent.access_log()) >= everything, "all requests are logged")
    eventually(lambda: len(careful.access_log()) >= everything - OK, "all errors are logged")

    codes = Counter(entry["code"] for entry in sent.access_log())
    assert codes == {200: OK, 404: MISSING + UNKNOWN, 500: BROKEN}
    errors = Counter(entry["code"] for entry in careful.access_log())
    assert errors == {404: MISSING + UNKNOWN, 500: BROKEN}
    assert not (shop.workloads["quiet"].folder / "access.json").exists()


def test_a_line_of_the_access_log_tells_the_whole_story(shop: Namespace, sent: Workload) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    parent = f"00-{trace}-00f067aa0ba902b7-01"
    call(sent.proxy, "PUT", "http://cart/story?secret=1", b"abc", traceparent=parent)

    def told(workload: Workload) -> list[dict[str, Any]]:
        return [entry for entry in workload.access_log() if entry["trace_id"] == trace]

    cart = shop.workloads["cart-1"]
    eventually(lambda: told(sent) and told(cart), "both sides have logged it")
    base = f"spiffe://tulle.local/ns/{shop.name}/sa"
    for workload, direction in ((sent, "outbound"), (cart, "inbound")):
        (entry,) = told(workload)
        assert entry["direction"] == direction
        assert (entry["method"], entry["path"], entry["code"]) == ("PUT", "/story", 200)
        assert entry["source_identity"] == f"{base}/web"
        assert entry["destination_identity"] == f"{base}/cart"
        assert (entry["mtls"], entry["request_bytes"], entry["tries"]) == (True, 3, 1)
        assert entry["duration_ms"] > 0
        assert entry["reason"] is None


def test_edges_and_stat_agree_with_what_was_sent(shop: Namespace, sent: Workload) -> None:
    answered = OK + MISSING + BROKEN

    def edge() -> dict[str, Any] | None:
        printed = shop.mesh.tulle("edges", "-n", shop.name, "-o", "json").stdout
        rows = json.loads(printed)["items"]
        found = [row for row in rows if (row["source"], row["service"]) == names]
        return found[0] if found and found[0]["requests"] >= answered else None

    names = (f"{shop.name}/quiet", f"{shop.name}/cart")
    row = eventually(edge, "the edge is reported")
    assert row is not None
    assert row["requests"] == answered
    assert row["destination"] == f"{shop.name}/cart-1"
    assert row["mtls"] is True
    assert row["success_rate"] == pytest.approx((answered - BROKEN) / answered)

    rows = json.loads(shop.mesh.tulle("stat", "workloads", "-n", shop.name, "-o", "json").stdout)[
        "items"
    ]
    cart = next(row for row in rows if row["name"] in {f"{shop.name}/cart-1", "cart-1"})
    assert cart["requests"] >= 3 * answered


def test_tap_shows_requests_as_they_happen(shop: Namespace, sent: Workload) -> None:
    words = ("tap", "cart", "-n", shop.name, "--path", "/tapped", "--max", "3", "-o", "ndjson")
    tap = shop.mesh.start(*words)
    try:
        # It says nothing before the first request, so requests are sent until it ends.
        def is_done() -> bool:
            get(sent.proxy, "http://cart/other")
            call(sent.proxy, "POST", "http://cart/tapped/1", b"x")
            return not tap.running

        eventually(is_done, "tap has seen three requests")
    finally:
        tap.kill()

    entries = [json.loads(line) for line in tap.output.splitlines()]
    assert len(entries) == 3
    assert {(one["method"], one["path"], one["code"]) for one in entries} == {
        ("POST", "/tapped/1", 200)
    }
    assert {(one["source"], one["destination"]) for one in entries} == {
        (f"{shop.name}/web", f"{shop.name}/cart-1")
    }


def test_resolve_tells_what_would_happen(shop: Namespace, sent: Workload) -> None:
    shop.apply(
        """
        apiVersion: gateway.networking.k8s.io/v1
        kind: HTTPRoute
        metadata: {name: cart}
        spec:
          parentRefs: [{group: "", kind: Service, name: cart}]
          rules:
            - name: items
              matches: [{path: {value: /items}}]
              backendRefs: [{name: cart, port: 80}]
        """
    )
    words = ("resolve", "web", "cart", "-n", shop.name, "-o", "json")
    good = json.loads(shop.mesh.tulle(*words, "/items/1").stdout)
    bad = json.loads(shop.mesh.tulle(*words, "/else", code=1).stdout)
    sent_good = get(sent.proxy, "http://cart/items/1")
    sent_bad = get(sent.proxy, "http://cart/else")

    assert (good["outcome"], sent_good.status) == ("forward", 200)
    assert any("items" in step["decision"] for step in good["steps"])
    assert (bad["outcome"], bad["code"]) == ("error", 404)
    assert bad["reason"].startswith("no-route: ")
    assert (sent_bad.status, sent_bad.reason) == (404, "no-route")
