"""get, describe and delete."""

import pytest

from tulle.cli.exits import ExitCode


@pytest.fixture
def shop(plane):
    plane.put("Namespace", "shop")
    plane.put(
        "Service",
        "cart",
        {"ports": [{"port": 80, "name": "http"}], "selector": {"app": "cart"}},
        namespace="shop",
        labels={"team": "a"},
    )
    plane.put("Service", "web", {"ports": [{"port": 80}]}, namespace="shop", labels={"team": "b"})
    for number, ready in ((1, True), (2, False)):
        plane.put(
            "Workload",
            f"cart-{number}",
            {"address": "127.0.0.1", "ports": [{"port": 9000, "listen": 9100}]},
            namespace="shop",
            labels={"app": "cart"},
            status={"ready": ready, "connected": True, "draining": False},
        )
    plane.put(
        "HTTPRoute",
        "cart",
        {
            "parentRefs": [{"group": "", "kind": "Service", "name": "cart"}],
            "rules": [
                {
                    "backendRefs": [
                        {"name": "cart.v1", "port": 80, "weight": 90},
                        {"name": "cart.v2", "port": 80, "weight": 10},
                    ]
                }
            ],
        },
        namespace="shop",
    )
    plane.put(
        "AuthorizationPolicy",
        "only-web",
        {"action": "ALLOW", "selector": {"matchLabels": {"app": "cart"}}, "rules": [{}]},
        namespace="shop",
    )
    return plane


def test_services_show_endpoints_and_routes(tulle, shop):
    result = tulle("get", "services", "-n", "shop")
    assert [line.split()[:4] for line in result.lines] == [
        ["NAME", "PORTS", "ENDPOINTS", "ROUTES"],
        ["cart", "80/http", "1/2", "1"],
        ["web", "80/http", "0/0", "0"],
    ]
    assert result.err == ""


def test_wide_adds_columns_behind(tulle, shop):
    short = tulle("get", "svc", "-n", "shop").lines[0].split()
    wide = tulle("get", "svc", "-n", "shop", "-o", "wide").lines[0].split()
    assert set(short) < set(wide)
    assert wide[: len(short) - 1] == short[:-1]


def test_all_namespaces_has_a_column_for_them(tulle, shop):
    lines = tulle("get", "routes", "-A").lines
    assert lines[0].split()[0] == "NAMESPACE"
    assert lines[1].split()[:2] == ["shop", "cart"]
    assert "cart.v1=90,cart.v2=10" in lines[1]


def test_several_kinds_have_a_table_each(tulle, shop):
    lines = tulle("get", "services,workloads", "-n", "shop").lines
    assert "# services" in lines
    assert "# workloads" in lines


def test_a_selector_narrows(tulle, shop):
    result = tulle("get", "services", "-n", "shop", "-l", "team=a", "-o", "name")
    assert result.lines == ["service/shop/cart"]


def test_json_of_several_is_a_list_and_of_one_is_the_object(tulle, shop):
    several = tulle("get", "services", "-n", "shop", "-o", "json").json
    assert (several["kind"], [i["metadata"]["name"] for i in several["items"]]) == (
        "List",
        ["cart", "web"],
    )
    one = tulle("get", "service", "cart", "-n", "shop", "-o", "json").json
    assert (one["kind"], one["metadata"]["name"]) == ("Service", "cart")


@pytest.mark.parametrize(
    "words",
    [("service", "cart", "-n", "shop"), ("service", "shop/cart"), ("service/shop/cart",)],
    ids=" ".join,
)
def test_an_object_can_be_named_in_three_ways(tulle, shop, words):
    assert tulle("get", *words, "-o", "name").lines == ["service/shop/cart"]


def test_yaml_is_yaml(tulle, shop):
    assert tulle("get", "service/shop/cart", "-o", "yaml").lines[:2] == [
        "apiVersion: v1",
        "kind: Service",
    ]


def test_an_empty_namespace_says_where_there_is_something(tulle, shop):
    result = tulle("get", "services")
    assert result.code == ExitCode.OK
    assert result.out == ""
    assert result.err.splitlines() == [
        "no services in namespace default",
        "hint: there are some in shop; try -n shop, or -A",
    ]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("service", "shop/crat"), 'did you mean "cart"?'),
        (("service", "cart"), "there is one in namespace shop: -n shop"),
        (("service", "shop/zzz"), "list what there is with: tulle get services -A"),
    ],
    ids=["typo", "other namespace", "nothing like it"],
)
@pytest.mark.parametrize("command", [("get",), ("describe",), ("delete", "--yes")], ids=" ".join)
def test_what_is_not_there_is_answered_with_what_is(tulle, shop, command, words, hint):
    result = tulle(*command, *words)
    assert result.code == ExitCode.NOT_FOUND
    assert result.err.splitlines()[-1] == f"hint: {hint}"


def test_an_unknown_kind_is_a_usage_error(tulle, shop):
    result = tulle("get", "servces")
    assert result.code == ExitCode.USAGE
    assert 'unknown kind "servces"' in result.err


def event(kind: str, name: str, revision: int) -> dict[str, object]:
    metadata = {"name": name, "namespace": "shop", "resourceVersion": str(revision)}
    return {"type": kind, "object": {"metadata": metadata, "spec": {"ports": []}}}


def test_watch_prints_what_there_is_and_then_each_change(tulle, shop):
    shop.watches = [[event("ADDED", "new", 50), event("DELETED", "new", 51)]]
    result = tulle("get", "services", "-n", "shop", "-w")
    assert [line.split()[0] for line in result.lines] == ["NAME", "cart", "web", "new", "new"]
    assert result.lines[-1].endswith("deleted")
    assert result.code == ExitCode.CONFLICT
    assert "the revision is gone" in result.err


def test_a_watch_that_the_server_ends_goes_on_from_the_last_revision(tulle, shop):
    shop.watches = [[event("ADDED", "a", 50)], [event("ADDED", "b", 60)]]
    result = tulle("get", "services", "-n", "shop", "-w", "-o", "name")
    assert result.lines[-2:] == ["service/shop/a", "service/shop/b"]
    watched = [target for _, target, _ in shop.asked if "watch=true" in target]
    assert [f"resourceVersion={n}" in t for n, t in zip((7, 50, 60), watched, strict=True)] == [
        True,
        True,
        True,
    ]


def test_watch_as_json_is_a_line_each(tulle, shop):
    lines = tulle("get", "services", "-n", "shop", "-w", "-o", "json").lines
    assert len(lines) == 2
    assert all(line.startswith("{") for line in lines)


def test_a_watch_that_fails_says_why(tulle, shop):
    shop.watches = [[{"type": "ERROR", "object": {"message": "revision 1 is gone"}}]]
    result = tulle("get", "services", "-n", "shop", "-w")
    assert result.code == ExitCode.CONFLICT
    assert "revision 1 is gone" in result.err


def test_describe_service_shows_what_it_is_connected_to(tulle, shop):
    shop.edges = [edge("shop/web-1", "shop/cart", "shop/cart-1")]
    out = tulle("describe", "service", "shop/cart").out
    for part in ("endpoints", "cart-1", "not-ready", "routes", "policies", "callers", "shop/web-1"):
        assert part in out
    assert "authorizationpolicy/shop/only-web" in out
    assert "selector:" in out


def test_describe_policy_lists_the_workloads_it_matches(tulle, shop):
    out = tulle("describe", "authorizationpolicy", "shop/only-web").out
    matches = out.partition("matches")[2].partition("spec")[0]
    assert "cart-1" in matches
    assert "cart-2" in matches


def test_describe_shows_where_it_was_written(tulle, shop):
    shop.put("Namespace", "noted")
    item = shop.put("Service", "db", {"ports": [{"port": 1}]})
    item["metadata"]["annotations"] = {
        "tulle.dev/source": '{"file": "shop.yaml", "lines": {"": 31}}'
    }
    assert "shop.yaml:31" in tulle("describe", "service", "db").out


def test_delete_needs_a_yes(tulle, shop, monkeypatch):
    result = tulle("delete", "service", "shop/cart")
    assert result.code == ExitCode.USAGE
    assert "--yes" in result.err
    assert ("Service", "shop", "cart") in shop.objects


def test_delete_removes_and_names_what_it_removed(tulle, shop):
    result = tulle("delete", "service/shop/cart", "httproute/shop/cart", "--yes")
    assert result.code == ExitCode.OK
    assert result.lines == ["service/shop/cart deleted", "httproute/shop/cart deleted"]
    assert ("Service", "shop", "cart") not in shop.objects


def test_delete_of_what_is_not_there_can_be_fine(tulle, shop):
    result = tulle("delete", "service", "shop/zzz", "--yes", "--ignore-not-found")
    assert (result.code, result.out) == (ExitCode.OK, "")


def test_delete_by_file(tulle, shop, folder):
    (folder / "cart.yaml").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: cart}\nspec: {ports: [{port: 80}]}\n"
    )
    first = tulle("delete", "-f", "cart.yaml", "-n", "shop", "--yes", "-o", "json")
    assert first.json == {"deleted": ["service/shop/cart"]}
    again = tulle("delete", "-f", "cart.yaml", "-n", "shop", "--yes")
    assert again.code == ExitCode.NOT_FOUND
    assert "not found: service/shop/cart" in again.err


def edge(source: str, service: str, destination: str, **more: object) -> dict[str, object]:
    return {
        "source": source,
        "source_identity": "spiffe://tulle.local/ns/shop/sa/web",
        "service": service,
        "destination": destination,
        "destination_identity": "spiffe://tulle.local/ns/shop/sa/cart",
        "protocol": "http",
        "mtls": True,
        "requests": 100,
        "success": 100,
        "success_rate": 1.0,
        "rps": 10.0,
        "p50_ms": 1.0,
        "p99_ms": 3.5,
        "bytes_in": 1,
        "bytes_out": 2,
        "retries": 0,
        **more,
    }


def test_a_target_without_a_kind_is_a_service(tulle, shop):
    shop.put("BackendTrafficPolicy", "slow", {"targetRefs": [{"name": "cart"}]}, namespace="shop")
    assert tulle("get", "btp", "-n", "shop").lines[1].split()[:2] == ["slow", "service/cart"]
