"""Telemetry: totals survive restarts of sidecars, rates are over a window, all is bounded."""

import pytest

from tulle.control.telemetry import EARLIER_MAX, Telemetry, parse_report
from tulle.control.traffic import edges, stat

WEB = "spiffe://tulle.local/ns/shop/sa/web"
CART = "spiffe://tulle.local/ns/shop/sa/cart"


def edge(requests=1, **changes):
    fields = {
        "direction": "outbound",
        "source": "shop/web-1",
        "source_identity": WEB,
        "service": "shop/cart",
        "destination": "shop/cart-1",
        "destination_identity": CART,
        "route": "shop/cart-route",
        "protocol": "http",
        "code": "200",
        "grpc_status": "",
        "reason": "",
        "mtls": True,
        "requests": requests,
        "retries": 0,
        "bytes_in": 10 * requests,
        "bytes_out": 20 * requests,
        "latency_us": [[1000, requests]],
    }
    return fields | changes


def report(*found, epoch="a", uptime_s=1.0):
    body = {
        "epoch": epoch,
        "uptime_s": uptime_s,
        "rss_bytes": 1,
        "cpu_s": 0.1,
        "connections": 1,
        "dropped_series": 0,
        "edges": list(found),
    }
    return parse_report(body)


def make(reporters_max=10, series_max=10):
    return Telemetry(reporters_max, series_max)


def test_a_repeated_report_counts_once():
    telemetry = make()
    telemetry.take("shop/web-1", report(edge(5)), now=1.0)
    telemetry.take("shop/web-1", report(edge(5)), now=2.0)

    (row,) = edges(telemetry.series(2.0), None)

    assert row["requests"] == 5


def test_totals_add_up_over_a_restart_of_the_sidecar():
    telemetry = make()
    telemetry.take("shop/web-1", report(edge(5), epoch="a"), now=1.0)
    telemetry.take("shop/web-1", report(edge(2), epoch="b"), now=2.0)
    telemetry.take("shop/web-1", report(edge(3), epoch="b"), now=3.0)

    (row,) = edges(telemetry.series(3.0), None)

    assert (row["requests"], row["bytes_in"], row["bytes_out"]) == (8, 80, 160)


def requests(telemetry):
    """All that was counted."""
    return sum(row["requests"] for row in edges(telemetry.series(9.0), None))


def test_the_last_word_of_a_succeeded_process_counts_once():
    telemetry = make()
    telemetry.take("shop/web-1", report(edge(5), epoch="a"), now=1.0)
    telemetry.take("shop/web-1", report(edge(2), epoch="b"), now=2.0)
    for _ in range(2):
        last = report(edge(8), edge(1, code="500"), epoch="a")
        telemetry.take_last("shop/web-1", last, now=3.0)
    telemetry.take("shop/web-1", report(edge(3), epoch="b"), now=4.0)

    assert requests(telemetry) == 8 + 1 + 3


def test_a_last_word_may_come_before_the_first_of_the_successor():
    telemetry = make()
    telemetry.take("shop/web-1", report(edge(5), epoch="a"), now=1.0)
    telemetry.take_last("shop/web-1", report(edge(8), epoch="a"), now=2.0)
    telemetry.take("shop/web-1", report(edge(2), epoch="b"), now=3.0)
    telemetry.take_last("shop/web-1", report(edge(8), epoch="a"), now=4.0)

    assert requests(telemetry) == 8 + 2


def test_a_control_plane_that_forgot_a_process_counts_all_of_its_last_word():
    telemetry = make()
    telemetry.take("shop/web-1", report(edge(2), epoch="b"), now=1.0)
    for _ in range(2):
        telemetry.take_last("shop/web-1", report(edge(8), epoch="a"), now=2.0)

    assert requests(telemetry) == 8 + 2


def test_so_many_epochs_have_a_last_word_and_the_ones_before_do_not():
    telemetry = make()
    for epoch in range(EARLIER_MAX + 2):
        telemetry.take("shop/web-1", report(edge(1), epoch=epoch), now=1.0)
    counted = requests(telemetry)
    telemetry.take_last("shop/web-1", report(edge(5), epoch=0), now=2.0)
    assert requests(telemetry) == counted
    telemetry.take_last("shop/web-1", report(edge(5), epoch=1), now=2.0)
    assert requests(telemetry) == counted + 4


def test_the_rate_is_over_the_last_ten_seconds():
    telemetry = make()
    for second in range(1, 31):
        telemetry.take("shop/web-1", report(edge(100 * second), uptime_s=second), now=second)

    (row,) = edges(telemetry.series(30.0), None)
    (silent,) = edges(telemetry.series(45.0), None)

    assert row["rps"] == pytest.approx(100)
    assert silent["rps"] == 0


def test_what_was_counted_before_the_control_plane_started_is_no_rate():
    telemetry = make()
    telemetry.take("shop/web-1", report(edge(1_000_000), uptime_s=5000), now=1.0)
    telemetry.take("shop/web-1", report(edge(1_000_010), uptime_s=5001), now=2.0)

    (row,) = edges(telemetry.series(2.0), None)

    assert row["rps"] == pytest.approx(10)


@pytest.mark.parametrize(
    ("buckets", "p50", "p99"),
    [
        ([[1000, 100]], 1.0, 1.0),
        ([[1000, 98], [50_000, 2]], 1.0, 50.0),
        ([[1000, 50], [2000, 50]], 1.0, 2.0),
        ([], None, None),
    ],
)
def test_quantiles_are_the_upper_bound_of_the_bucket(buckets, p50, p99):
    telemetry = make()
    telemetry.take("shop/web-1", report(edge(100, latency_us=buckets)), now=1.0)

    (row,) = edges(telemetry.series(1.0), None)

    assert (row["p50_ms"], row["p99_ms"]) == (p50, p99)


def test_a_request_seen_by_both_sidecars_is_counted_once():
    telemetry = make()
    telemetry.take("shop/web-1", report(edge(4)), now=1.0)
    telemetry.take("shop/cart-1", report(edge(4, direction="inbound", source=None)), now=1.0)

    (row,) = edges(telemetry.series(1.0), None)

    assert row["requests"] == 4
    assert row["source"] == "shop/web-1"


def test_a_caller_without_an_identity_is_counted_where_it_arrives():
    telemetry = make()
    plain = edge(3, direction="inbound", source=None, source_identity=None, mtls=False)
    telemetry.take("shop/cart-1", report(plain), now=1.0)

    (row,) = edges(telemetry.series(1.0), None)

    assert (row["requests"], row["mtls"]) == (3, False)


@pytest.mark.parametrize(
    ("code", "grpc_status", "reason", "rate"),
    [
        ("200", "", "", 1.0),
        ("404", "", "", 1.0),
        ("503", "", "no-endpoint", 0.0),
        ("200", "0", "", 1.0),
        ("200", "5", "", 1.0),
        ("200", "14", "", 0.0),
        ("0", "", "", 1.0),
        ("0", "", "reset", 0.0),
    ],
)
def test_success_is_no_fault_of_the_server_and_no_cut_connection(code, grpc_status, reason, rate):
    telemetry = make()
    failed = edge(2, code=code, grpc_status=grpc_status, reason=reason)
    telemetry.take("shop/web-1", report(failed), now=1.0)

    (row,) = edges(telemetry.series(1.0), None)

    assert row["success_rate"] == rate


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("service", ["shop/cart", "shop/pay"]),
        ("route", ["shop/cart"]),
        ("workload", ["shop/cart-1"]),
    ],
)
def test_stat_has_a_row_for_each_group(by, names):
    telemetry = make()
    telemetry.take("shop/web-1", report(edge(2), edge(1, service="shop/pay", route=None)), now=1.0)
    telemetry.take("shop/cart-1", report(edge(2, direction="inbound")), now=1.0)

    rows = stat(telemetry.series(1.0), by, "shop")

    assert [row["name"] for row in rows] == names
    assert stat(telemetry.series(1.0), by, "other") == []


def test_edges_of_a_namespace_are_those_that_begin_or_end_there():
    telemetry = make()
    telemetry.take("ops/probe", report(edge(1, source="ops/probe")), now=1.0)

    assert len(edges(telemetry.series(1.0), "ops")) == 1
    assert len(edges(telemetry.series(1.0), "shop")) == 1
    assert edges(telemetry.series(1.0), "bank") == []


def test_series_past_the_bound_are_dropped_and_counted_once():
    telemetry = make(series_max=2)
    many = [edge(1, route=f"shop/r{number}") for number in range(3)]
    telemetry.take("shop/web-1", report(*many[:2]), now=1.0)
    assert telemetry.dropped_series == 0

    telemetry.take("shop/web-1", report(*many), now=2.0)

    (row,) = edges(telemetry.series(2.0), None)
    assert (row["requests"], telemetry.dropped_series) == (2, 1)


def test_the_longest_silent_reporter_goes_first():
    telemetry = make(reporters_max=2)
    for second, name in enumerate(["shop/a", "shop/b", "shop/a", "shop/c"]):
        telemetry.take(name, report(edge(1, source=name)), now=float(second))

    assert {row["source"] for row in edges(telemetry.series(4.0), None)} == {"shop/a", "shop/c"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"edges": [{}]},
        {"edges": 3},
        {"edges": [edge(1, latency_us=[[1]])]},
        {"edges": [edge("many")]},
    ],
)
def test_a_malformed_report_is_refused_as_a_whole(body):
    with pytest.raises(ValueError):
        parse_report(body)


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "\ud800"},
        {"service": 7},
        {"code": ["200"]},
        {"mtls": "yes"},
        {"requests": float("inf")},
    ],
    ids=str,
)
def test_a_report_that_could_not_be_shown_is_refused(changes):
    with pytest.raises(ValueError, match=r"malformed|surrogates"):
        report(edge(**changes))
