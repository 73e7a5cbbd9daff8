"""proxy list, status and config."""

import pytest

from tulle.cli.exits import ExitCode

RECORD = {
    "name": "service/shop/cart",
    "version": "b2",
    "held": "b2",
    "in_sync": True,
    "error": None,
}
PROXY = {
    "workload": "shop/web-1",
    "identity": "spiffe://tulle.local/ns/shop/sa/web",
    "connected": True,
    "ready": True,
    "draining": False,
    "pid": 4711,
    "admin": "127.0.0.1:15000",
    "version": "0.1.0",
    "rss_bytes": 15 * 2**20,
    "cpu_s": 1.26,
    "records": [RECORD],
}
REFUSED = {**RECORD, "held": "a1", "in_sync": False, "error": "unknown cluster"}


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "SYNCED"),
        ({"records": [{**RECORD, "in_sync": False}]}, "STALE"),
        ({"records": [RECORD, REFUSED]}, "REJECTED"),
        ({"connected": False, "records": [REFUSED]}, "DISCONNECTED"),
    ],
)
def test_list_shows_the_state_of_what_each_holds(tulle, plane, change, state):
    plane.proxies = [{**PROXY, **change}]
    lines = tulle("proxy", "list").lines
    assert lines[1].split()[:2] == ["shop/web-1", state]
    assert "15.0MiB" in lines[1]


def test_list_is_of_a_namespace_when_one_is_named(tulle, plane):
    plane.proxies = [PROXY, {**PROXY, "workload": "other/x-1"}]
    assert tulle("proxy", "list", "-o", "name").lines == ["shop/web-1", "other/x-1"]
    assert tulle("proxy", "list", "-n", "shop", "-o", "name").lines == ["shop/web-1"]


def test_a_sidecar_that_never_connected_shows_dashes(tulle, plane):
    unknown = dict.fromkeys(("identity", "pid", "admin", "version", "rss_bytes", "cpu_s"))
    plane.proxies = [{**PROXY, **unknown, "connected": False, "ready": False, "records": []}]
    assert tulle("proxy", "list").lines[1].split() == [
        "shop/web-1", "DISCONNECTED", "not-ready", "0", "-", "-", "-", "-",
    ]  # fmt: skip


def test_status_names_each_record_and_why_it_was_refused(tulle, plane):
    plane.proxies = [{**PROXY, "records": [RECORD, REFUSED]}]
    result = tulle("proxy", "status", "web-1", "-n", "shop")
    assert result.code == ExitCode.NO
    assert result.lines[-1].split() == [
        "service/shop/cart", "REJECTED", "a1", "b2", "unknown", "cluster",
    ]  # fmt: skip


def test_status_of_all_shows_what_is_not_in_sync(tulle, plane):
    plane.proxies = [PROXY, {**PROXY, "workload": "shop/api-1", "records": [REFUSED]}]
    result = tulle("proxy", "status")
    assert result.code == ExitCode.NO
    assert [line.split()[0] for line in result.lines] == ["NAME", "shop/api-1"]
    assert result.err == "2 of 2 sidecars connected, 1 records not in sync\n"


def test_status_is_fine_when_all_is_in_sync(tulle, plane):
    plane.proxies = [PROXY]
    result = tulle("proxy", "status")
    assert (result.code, result.out) == (ExitCode.OK, "")


def test_config_prints_the_records_it_holds(tulle, plane):
    plane.proxies = [{**PROXY, "records": [RECORD, {**RECORD, "name": "trust/tulle.local"}]}]
    plane.records = {
        "service/shop/cart": {"kind": "service", "name": "cart"},
        "trust/tulle.local": {"kind": "trust"},
    }
    everything = tulle("proxy", "config", "shop/web-1", "-o", "json").json
    assert everything == plane.records
    services = tulle("proxy", "config", "shop/web-1", "services", "-o", "json").json
    assert list(services) == ["service/shop/cart"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("web-1", 'did you mean "shop/web-1"?'),
        ("shop/wbe-1", 'did you mean "shop/web-1"?'),
        ("zzz", "list them with: tulle proxy list"),
    ],
)
def test_an_unknown_workload_is_answered_with_the_nearest(tulle, plane, name, hint):
    plane.proxies = [PROXY]
    result = tulle("proxy", "status", name)
    assert result.code == ExitCode.NOT_FOUND
    assert result.err.splitlines()[-1] == f"hint: {hint}"
