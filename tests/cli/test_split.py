"""split: which route and rule it edits, what it refuses, what it says."""

from functools import partial

import pytest

from tulle.cli.commands.split import TRIES_MAX
from tulle.cli.exits import ExitCode


@pytest.fixture
def catalog(plane):
    plane.put("Service", "catalog", {"ports": [{"port": 80}], "selector": {"app": "catalog"}})
    for version in ("v1", "v2"):
        plane.put(
            "Workload",
            f"catalog-{version}",
            {"address": "127.0.0.1"},
            labels={"app": "catalog", "version": version},
            status={"ready": True, "connected": True, "draining": False},
        )
    return plane


def put_route(plane, *rules, name="catalog", kind="HTTPRoute"):
    parent = {"group": "", "kind": "Service", "name": "catalog"}
    return plane.put(kind, name, {"parentRefs": [parent], "rules": list(rules)})


def backends(plane, name, rule=0, kind="HTTPRoute"):
    refs = plane.objects[kind, "default", name]["spec"]["rules"][rule]["backendRefs"]
    return {ref["name"]: ref["weight"] for ref in refs}


def test_without_a_route_one_is_made(tulle, catalog):
    result = tulle("split", "catalog", "v1=90", "v2=10")
    assert result.code == ExitCode.OK
    route = catalog.objects["HTTPRoute", "default", "catalog-split"]
    assert route["spec"] == {
        "parentRefs": [{"group": "", "kind": "Service", "name": "catalog", "port": 80}],
        "rules": [
            {
                "backendRefs": [
                    {
                        "group": "tulle.dev",
                        "kind": "ServiceVersion",
                        "name": f"catalog.{version}",
                        "port": 80,
                        "weight": weight,
                    }
                    for version, weight in (("v1", 90), ("v2", 10))
                ]
            }
        ],
    }
    assert result.lines[:2] == ["--- /dev/null", "+++ httproute/default/catalog-split (then)"]
    assert "httproute/default/catalog-split created (revision 4)" in result.err
    assert "see its effect with: tulle edges" in result.err


def test_the_route_it_makes_is_valid(tulle, catalog, folder):
    made = tulle("split", "catalog", "v1=1", "--dry-run", "-o", "yaml").out
    (folder / "split.yaml").write_text(made)
    assert tulle("validate", "-f", "split.yaml", "--live", "--strict").code == ExitCode.OK


def test_a_second_split_edits_the_first(tulle, catalog):
    tulle("split", "catalog", "v1=90", "v2=10")
    result = tulle("split", "catalog", "v1=50", "v2=50")
    assert "-      weight: 90" in result.lines
    assert "+      weight: 50" in result.lines
    assert backends(catalog, "catalog-split") == {"catalog.v1": 50, "catalog.v2": 50}


def test_dry_run_changes_nothing(tulle, catalog):
    revision = catalog.revision
    result = tulle("split", "catalog", "v1=90", "v2=10", "--dry-run")
    assert result.code == ExitCode.OK
    assert "+" in result.out
    assert catalog.revision == revision


def test_what_else_the_rule_says_is_kept(tulle, catalog):
    put_route(
        catalog,
        {
            "name": "all",
            "timeouts": {"request": "3s"},
            "backendRefs": [{"name": "catalog.v1", "port": 80, "filters": [{"type": "X"}]}],
        },
    )
    tulle("split", "catalog", "v1=1", "v2=1")
    rule = catalog.objects["HTTPRoute", "default", "catalog"]["spec"]["rules"][0]
    assert (rule["name"], rule["timeouts"]) == ("all", {"request": "3s"})
    assert rule["backendRefs"][0]["filters"] == [{"type": "X"}]


def test_the_catch_all_rule_is_the_one_meant(tulle, catalog):
    header = {"headers": [{"name": "x-beta", "value": "1"}]}
    put_route(
        catalog,
        {"matches": [header], "backendRefs": [{"name": "catalog.v2", "port": 80, "weight": 1}]},
        {"backendRefs": [{"name": "catalog", "port": 80, "weight": 1}]},
    )
    tulle("split", "catalog", "v1=90", "v2=10")
    assert backends(catalog, "catalog", 0) == {"catalog.v2": 1}
    assert backends(catalog, "catalog", 1) == {"catalog.v1": 90, "catalog.v2": 10}


def test_several_rules_are_asked_about(tulle, catalog):
    rule = {"backendRefs": [{"name": "catalog", "port": 80, "weight": 1}]}
    put_route(catalog, {**rule, "name": "a"}, rule)
    result = tulle("split", "catalog", "v1=1")
    assert result.code == ExitCode.USAGE
    assert "name one with --rule: a, 1" in result.err
    assert tulle("split", "catalog", "v1=7", "--rule", "1").code == ExitCode.OK
    assert backends(catalog, "catalog", 1) == {"catalog.v1": 7}


def test_several_routes_are_asked_about(tulle, catalog):
    rule = {"backendRefs": [{"name": "catalog", "port": 80, "weight": 1}]}
    put_route(catalog, rule, name="one")
    put_route(catalog, rule, name="two")
    result = tulle("split", "catalog", "v1=1")
    assert result.code == ExitCode.USAGE
    assert "name one with --route: one, two" in result.err
    assert tulle("split", "catalog", "v1=1", "--route", "two").code == ExitCode.OK
    assert backends(catalog, "two") == {"catalog.v1": 1}


def test_a_version_that_nothing_serves_is_refused(tulle, catalog):
    result = tulle("split", "catalog", "v1=90", "v3=10")
    assert result.code == ExitCode.REJECTED
    assert "no ready workload of default/catalog has the label version=v3" in result.err
    assert "versions there are: v1 (1 ready), v2 (1 ready)" in result.err
    assert "HTTPRoute" not in {kind for kind, _, _ in catalog.objects}
    assert tulle("split", "catalog", "v1=90", "v3=10", "--force").code == ExitCode.OK


def test_a_version_without_a_share_needs_no_endpoint(tulle, catalog):
    assert tulle("split", "catalog", "v1=100", "v3=0").code == ExitCode.OK


@pytest.mark.parametrize(
    ("port", "kind"),
    [
        ({"port": 80, "appProtocol": "grpc"}, "GRPCRoute"),
        ({"port": 80, "name": "tcp-db"}, "TCPRoute"),
        ({"port": 80, "appProtocol": "kubernetes.io/h2c"}, "HTTPRoute"),
    ],
    ids=["grpc", "tcp", "http2"],
)
def test_the_route_is_of_the_ports_protocol(tulle, catalog, port, kind):
    catalog.objects["Service", "default", "catalog"]["spec"]["ports"] = [port]
    tulle("split", "catalog", "v1=1", "v2=1")
    assert backends(catalog, "catalog-split", kind=kind) == {"catalog.v1": 1, "catalog.v2": 1}


def test_a_service_of_several_ports_needs_one_named(tulle, catalog):
    catalog.objects["Service", "default", "catalog"]["spec"]["ports"] = [{"port": 80}, {"port": 81}]
    assert "--port: 80, 81" in tulle("split", "catalog", "v1=1").err
    assert tulle("split", "catalog", "v1=1", "--port", "81").code == ExitCode.OK
    assert "its ports are 80, 81" in tulle("split", "catalog", "v1=1", "--port", "9").err


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (("v1",), '"v1" is not VERSION=WEIGHT'),
        (("v1=x",), '"v1=x" is not VERSION=WEIGHT'),
        (("v1=-1",), '"v1=-1" is not VERSION=WEIGHT'),
        (("v1=1000001",), "is not VERSION=WEIGHT"),
        (("v1=1", "v1=2"), 'version "v1" is given twice'),
        (("v1=0", "v2=0"), "all weights are 0"),
    ],
)
def test_shares_that_make_no_sense_are_usage_errors(tulle, catalog, shares, message):
    result = tulle("split", "catalog", *shares)
    assert result.code == ExitCode.USAGE
    assert message in result.err


def test_a_route_from_a_file_is_pointed_to(tulle, catalog):
    route = put_route(catalog, {"backendRefs": [{"name": "catalog", "port": 80, "weight": 1}]})
    route["metadata"]["annotations"] = {"tulle.dev/source": '{"file":"shop.yaml","lines":{"":31}}'}
    assert "was written in shop.yaml:31" in tulle("split", "catalog", "v1=1").err


def test_a_change_by_someone_else_is_not_overwritten(tulle, catalog):
    put_route(catalog, {"backendRefs": [{"name": "catalog", "port": 80, "weight": 1}]})
    tulle("split", "catalog", "v1=1")
    (sent,) = next(body["resources"] for _, path, body in catalog.asked if path.endswith("/apply"))
    assert sent["metadata"]["resourceVersion"] == "4"


def test_a_change_by_someone_else_in_between_is_a_conflict(tulle, catalog):
    put_route(catalog, {"backendRefs": [{"name": "catalog", "port": 80, "weight": 1}]})
    theirs = {"backendRefs": [{"name": "catalog", "port": 80, "weight": 2}]}
    catalog.meanwhile.append(lambda: put_route(catalog, theirs))
    assert tulle("split", "catalog", "v1=1").code == ExitCode.CONFLICT
    assert backends(catalog, "catalog") == {"catalog": 2}


def write_status(plane, number):
    """Write the status of the route as the control plane does, which makes a revision."""
    plane.revision += 1
    route = plane.objects["HTTPRoute", "default", "catalog"]
    route["status"] = {"parents": [{"number": number}]}
    route["metadata"] = {**route["metadata"], "resourceVersion": str(plane.revision)}


def test_a_status_written_in_between_is_no_conflict(tulle, catalog):
    put_route(catalog, {"backendRefs": [{"name": "catalog", "port": 80, "weight": 1}]})
    catalog.meanwhile += [partial(write_status, catalog, number) for number in (1, 2)]
    result = tulle("split", "catalog", "v1=1")
    assert result.code == ExitCode.OK
    assert backends(catalog, "catalog") == {"catalog.v1": 1}


def test_statuses_without_end_are_given_up_on(tulle, catalog):
    put_route(catalog, {"backendRefs": [{"name": "catalog", "port": 80, "weight": 1}]})
    catalog.meanwhile += [partial(write_status, catalog, number) for number in range(TRIES_MAX)]
    assert tulle("split", "catalog", "v1=1").code == ExitCode.CONFLICT
    assert backends(catalog, "catalog") == {"catalog": 1}
