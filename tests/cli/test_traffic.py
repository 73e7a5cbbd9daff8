"""stat, edges, tap and resolve."""

import pytest

from tulle.cli.commands.tap import line
from tulle.cli.exits import ExitCode

MEASURED = {
    "requests": 1200,
    "success": 1199,
    "success_rate": 0.99917,
    "rps": 40.04,
    "p50_ms": 1.25,
    "p99_ms": 30.6,
    "bytes_in": 1,
    "bytes_out": 2,
    "retries": 3,
    "mtls": True,
    "protocol": "http",
}
EDGE = {
    "source": "shop/web-1",
    "source_identity": "spiffe://tulle.local/ns/shop/sa/web",
    "service": "shop/cart",
    "destination": "shop/cart-1",
    "destination_identity": "spiffe://tulle.local/ns/shop/sa/cart",
    **MEASURED,
}
ENTRY = {
    "time": "2026-01-01T10:02:11.120456Z",
    "direction": "inbound",
    "source": "shop/web-1",
    "source_identity": "spiffe://tulle.local/ns/shop/sa/web",
    "service": "shop/cart",
    "destination": "shop/cart-1",
    "destination_identity": "spiffe://tulle.local/ns/shop/sa/cart",
    "method": "POST",
    "path": "/checkout",
    "code": "503",
    "reason": "no-endpoint",
    "duration_ms": 84.2,
    "tries": 2,
    "route": None,
    "policy": None,
    "mtls": True,
    "trace_id": "abc",
}


@pytest.fixture
def named(plane):
    """A plane with the services and the workload that taps and requests are about."""
    for namespace, name in (("shop", "web"), ("shop", "cart"), ("b", "cart"), ("default", "cart")):
        plane.put("Service", name, {"ports": [{"port": 80}]}, namespace=namespace)
    plane.put("Workload", "web", {"address": "127.0.0.1"}, namespace="a")
    plane.put("Service", "web", {"ports": [{"port": 80}]})
    return plane


def test_stat_shows_a_row_per_service(tulle, plane):
    plane.rows = [{"name": "shop/cart", "route": None, **MEASURED}]
    lines = tulle("stat").lines
    assert lines[0].split() == [
        "NAME", "MTLS", "SUCCESS", "RPS", "P50", "P99", "REQUESTS", "RETRIES",
    ]  # fmt: skip
    assert lines[1].split() == [
        "shop/cart", "yes", "99.92%", "40.0", "1.2ms", "31ms", "1200", "3",
    ]  # fmt: skip


@pytest.mark.parametrize("what", ["services", "workloads", "routes"])
def test_stat_asks_for_what_is_named(tulle, plane, what):
    assert tulle("stat", what, "-n", "shop").code == ExitCode.OK
    assert plane.asked[-1][1] == f"/tulle/v1/stat?by={what[:-1]}&namespace=shop"


def test_stat_of_routes_names_them(tulle, plane):
    plane.rows = [{"name": "shop/cart", "route": "shop/cart-route", **MEASURED}]
    assert "shop/cart-route" in tulle("stat", "routes").out


def test_no_traffic_is_a_dash_and_never_zero_percent(tulle, plane):
    quiet = {**MEASURED, "success_rate": None, "p50_ms": None, "p99_ms": None, "requests": 0}
    plane.rows = [{"name": "shop/cart", "route": None, **quiet}]
    assert tulle("stat").lines[1].split()[2:6] == ["-", "40.0", "-", "-"]


@pytest.mark.parametrize("command", ["stat", "edges"])
def test_an_empty_view_says_why(tulle, plane, command):
    result = tulle(command)
    assert (result.code, result.out) == (ExitCode.OK, "")
    assert "no traffic yet" in result.err
    assert "hint: " in result.err
    assert "in namespace shop" in tulle(command, "-n", "shop").err


def test_edges_show_both_ends_and_whether_they_are_secured(tulle, plane):
    plane.edges = [EDGE]
    assert tulle("edges").lines[1].split()[:5] == [
        "shop/web-1", "shop/cart", "shop/cart-1", "http", "mTLS",
    ]  # fmt: skip
    wide = tulle("edges", "-o", "wide").lines
    assert wide[1].endswith("spiffe://tulle.local/ns/shop/sa/cart")


def test_edges_without_mtls_are_counted_on_stderr(tulle, plane):
    plane.edges = [EDGE, {**EDGE, "mtls": False}]
    result = tulle("edges")
    assert "1 of 2 edges are not mTLS" in result.err
    assert "not mTLS" not in tulle("edges", "-o", "json").err


def test_edges_as_json_are_what_the_api_says(tulle, plane):
    plane.edges = [EDGE]
    assert tulle("edges", "-o", "json").json == {
        "apiVersion": "v1",
        "kind": "List",
        "items": [EDGE],
    }


def test_tap_prints_a_line_per_request(tulle, named):
    named.entries = [ENTRY, {**ENTRY, "code": "200", "reason": None, "tries": 1}]
    result = tulle("tap", "cart", "-n", "shop")
    assert result.lines == [
        "10:02:11.120 shop/web-1 -> shop/cart-1 POST /checkout 503 84ms try=2 no-endpoint",
        "10:02:11.120 shop/web-1 -> shop/cart-1 POST /checkout 200 84ms",
    ]
    assert result.err == "waiting for requests; Ctrl-C ends\n"


def test_tap_passes_its_filters_on(tulle, named):
    tulle(
        "tap",
        "shop/cart",
        "-X",
        "post",
        "--path",
        "/a",
        "--status",
        "5xx",
        "--denied",
        "--max",
        "3",
    )
    assert named.asked[-1][1] == (
        "/tulle/v1/tap?service=shop%2Fcart&method=POST&path=%2Fa&status=5xx&denied=true&max=3"
    )


def test_tap_as_ndjson_is_an_object_per_line(tulle, named):
    named.entries = [ENTRY, ENTRY]
    result = tulle("tap", "-o", "ndjson")
    assert len(result.lines) == 2
    assert result.err == ""


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"mtls": False}, " plaintext"),
        ({"policy": "shop/deny-all"}, " shop/deny-all"),
        ({"method": None, "path": None}, "shop/cart-1 TCP 503"),
        ({"destination": None}, "-> shop/cart POST"),
        ({"source": None}, "spiffe://tulle.local/ns/shop/sa/web ->"),
        ({"source": None, "source_identity": None}, "outside ->"),
    ],
)
def test_tap_says_what_is_special(change, part):
    assert part in line({**ENTRY, **change})


def resolved(**change):
    return {
        "steps": [
            {"step": "route", "decision": "rule 0 of shop/cart", "source": "shop.yaml:2"},
            {"step": "balance", "decision": "shop/cart-1", "source": None},
        ],
        "outcome": "forward",
        "code": None,
        "reason": None,
        **change,
    }


def test_resolve_prints_the_steps_with_the_line_that_decided(tulle, named, folder):
    (folder / "shop.yaml").write_text("rules:\n  - matches: [here]\n")
    named.resolved = resolved()
    result = tulle("resolve", "web", "cart", "/items", "-n", "shop")
    assert result.code == ExitCode.OK
    assert result.lines == [
        " 1  route     rule 0 of shop/cart   (shop.yaml:2)",
        "              | - matches: [here]",
        " 2  balance   shop/cart-1",
        "=>  forward",
    ]


def test_resolve_sends_the_request_as_described(tulle, named):
    named.resolved = resolved()
    tulle("resolve", "a/web", "b/cart", "/x", "-X", "post", "-H", "K: v:w", "--port", "81")
    assert named.asked[-1][2] == {
        "from": "a/web",
        "to": "b/cart",
        "port": 81,
        "method": "POST",
        "path": "/x",
        "headers": [["k", "v:w"]],
    }


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        ("forward", ExitCode.OK),
        ("redirect", ExitCode.OK),
        ("deny", ExitCode.NO),
        ("error", ExitCode.NO),
    ],
)
def test_resolve_answers_with_its_exit_code(tulle, named, outcome, code):
    named.resolved = resolved(outcome=outcome, code=403, reason="shop/deny-all")
    result = tulle("resolve", "web", "cart")
    assert result.code == code
    assert result.lines[-1] == f"=>  {outcome} 403 (shop/deny-all)"


@pytest.mark.parametrize(
    "arguments",
    [("web", "cart", "items"), ("web", "cart", "/", "-H", "nocolon"), ("web", "/cart")],
    ids=["path", "header", "name"],
)
def test_resolve_refuses_what_is_no_request(tulle, named, arguments):
    assert tulle("resolve", *arguments).code == ExitCode.USAGE


def test_resolve_answers_an_unknown_name_with_the_nearest(tulle, named):
    result = tulle("resolve", "web", "crat")
    assert result.code == ExitCode.NOT_FOUND
    assert 'did you mean "cart"?' in result.err


def test_tap_of_an_unknown_service_does_not_wait_for_nothing(tulle, named):
    result = tulle("tap", "shop/crat")
    assert result.code == ExitCode.NOT_FOUND
    assert 'did you mean "cart"?' in result.err
