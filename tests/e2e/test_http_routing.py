"""HTTPRoute in force: what matches, how traffic is divided, what filters change."""

import re
from collections import Counter

import pytest

from tests.e2e.http_client import Answer, Client, call, get
from tests.e2e.mesh import HTTP, Namespace, Workload
from tests.e2e.statistics import follows

pytestmark = pytest.mark.e2e

MATCHES = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: catalog}
spec:
  parentRefs: [{group: "", kind: Service, name: catalog}]
  rules:
    - name: exact
      matches: [{path: {type: Exact, value: /items}}]
      backendRefs: [&v1 {group: tulle.dev, kind: ServiceVersion, name: catalog.v1, port: 80}]
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier:
        {set: [{name: x-rule, value: exact}]}}]
    - name: prefix
      matches: [{path: {type: PathPrefix, value: /items/special}}]
      backendRefs: [*v1]
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier:
        {set: [{name: x-rule, value: prefix}]}}]
    - name: regex
      matches: [{path: {type: RegularExpression, value: "/v[0-9]+/.*"}}]
      backendRefs: [*v1]
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier:
        {set: [{name: x-rule, value: regex}]}}]
    - name: header
      matches: [{path: {value: /who}, headers: [{name: X-User, value: anna},
        {name: x-team, type: RegularExpression, value: "red|blue"}]}]
      backendRefs: [*v1]
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier:
        {set: [{name: x-rule, value: header}]}}]
    - name: query
      matches: [{path: {value: /who}, queryParams: [{name: beta, value: "yes"}]}]
      backendRefs: [*v1]
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier:
        {set: [{name: x-rule, value: query}]}}]
    - name: method
      matches: [{path: {value: /who}, method: DELETE}]
      backendRefs: [*v1]
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier:
        {set: [{name: x-rule, value: method}]}}]
    - name: host
      matches: [{path: {value: /where}, headers: [{name: host, value: catalog.http-routing}]}]
      backendRefs: [*v1]
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier:
        {set: [{name: x-rule, value: host}]}}]
"""


@pytest.fixture(scope="module")
def web(shop: Namespace) -> Workload:
    """A caller; `catalog` has two versions."""
    shop.service("catalog")
    web = shop.add("web")
    shop.add("catalog-1", HTTP, version="v1")
    shop.add("catalog-2", HTTP, version="v2")
    shop.settle()
    return web


@pytest.fixture(scope="module")
def matched(shop: Namespace, web: Workload) -> Workload:
    """The caller, with the route above."""
    shop.apply(MATCHES)
    return web


RULES = [
    ("GET", "/items", {}, "exact"),
    ("GET", "/items?page=1", {}, "exact"),
    ("GET", "/items/", {}, None),
    ("GET", "/itemsx", {}, None),
    ("GET", "/items/special", {}, "prefix"),
    ("GET", "/items/special/", {}, "prefix"),
    ("GET", "/items/special/1", {}, "prefix"),
    ("GET", "/items/specials", {}, None),
    ("GET", "/v12/x", {}, "regex"),
    ("GET", "/a/v12/x", {}, None),
    ("GET", "/vx/x", {}, None),
    ("GET", "/who", {"x_user": "anna", "x_team": "red"}, "header"),
    ("GET", "/who", {"x_user": "anna", "x_team": "darkred"}, None),
    ("GET", "/who", {"x_user": "Anna", "x_team": "red"}, None),
    ("GET", "/who", {"x_team": "red"}, None),
    ("GET", "/who?beta=yes", {}, "query"),
    ("GET", "/who?a=b&beta=yes", {}, "query"),
    ("GET", "/who?beta=no", {}, None),
    ("GET", "/who?Beta=yes", {}, None),
    ("DELETE", "/who", {}, "method"),
    ("DELETE", "/who?beta=yes", {}, "method"),
    ("DELETE", "/who/../who", {}, "method"),
    ("GET", "/%69tems", {}, "exact"),
]


@pytest.mark.parametrize(("method", "path", "headers", "rule"), RULES)
def test_the_rule_that_matches_decides_and_without_one_it_is_404(
    matched: Workload, method: str, path: str, headers: dict[str, str], rule: str | None
) -> None:
    answer = call(matched.proxy, method, f"http://catalog{path}", None, **headers)

    if rule is None:
        assert (answer.status, answer.reason) == (404, "no-route")
    else:
        assert (answer.status, answer.headers["x-rule"]) == (200, rule)
        assert answer.app == "catalog-1"


@pytest.mark.parametrize(("host", "status"), [("catalog.http-routing", 200), ("catalog", 404)])
def test_a_rule_can_ask_for_the_host_that_was_called(
    matched: Workload, host: str, status: int
) -> None:
    assert get(matched.proxy, f"http://{host}/where").status == status


def route(name: str, rules: str) -> str:
    """Return a route for the service *name*, whose route it replaces."""
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec: {{parentRefs: [{{group: "", kind: Service, name: {name}}}], rules: [{rules}]}}
"""


def version(name: str, weight: int) -> str:
    """Return a backend reference to a version of the catalogue."""
    return (
        f"{{group: tulle.dev, kind: ServiceVersion, name: catalog.{name}, port: 80, "
        f"weight: {weight}}}"
    )


def ask(web: Workload, count: int, url: str = "http://catalog/") -> Counter[str]:
    """Return how many of *count* requests each program answered, or which status it was."""
    with Client(web.proxy) as client:
        answers = [client.get(url) for _ in range(count)]
    return Counter(answer.app or str(answer.status) for answer in answers)


def test_traffic_is_divided_by_weight_and_the_command_changes_it(
    shop: Namespace, web: Workload
) -> None:
    shop.apply(route("catalog", f"{{backendRefs: [{version('v1', 90)}, {version('v2', 10)}]}}"))
    assert follows(ask(web, 1000), {"catalog-1": 90, "catalog-2": 10})

    printed = shop.mesh.tulle("split", "catalog", "v1=20", "v2=80", "-n", shop.name)
    shop.settle()
    assert re.search(r"^\+.*weight: 80$", printed.stdout, re.MULTILINE)
    assert follows(ask(web, 1000), {"catalog-1": 20, "catalog-2": 80})

    shop.mesh.tulle("split", "catalog", "v2=1", "-n", shop.name)
    shop.settle()
    assert ask(web, 50) == {"catalog-2": 50}


def test_a_backend_of_weight_0_gets_nothing(shop: Namespace, web: Workload) -> None:
    shop.apply(route("catalog", f"{{backendRefs: [{version('v1', 1)}, {version('v2', 0)}]}}"))

    assert ask(web, 100) == {"catalog-1": 100}


def test_the_share_of_a_backend_that_is_not_there_is_500(shop: Namespace, web: Workload) -> None:
    missing = "{name: missing, port: 80, weight: 50}"
    shop.apply(route("catalog", f"{{backendRefs: [{version('v1', 50)}, {missing}]}}"))

    assert follows(ask(web, 300), {"catalog-1": 50, "500": 50})
    assert first_with(web, 500).reason == "invalid-backend"


def first_with(web: Workload, status: int) -> Answer:
    """Return the first answer with *status*."""
    with Client(web.proxy) as client:
        return next(
            answer
            for answer in (client.get("http://catalog/") for _ in range(100))
            if answer.status == status
        )


def test_a_version_without_endpoints_is_503_for_its_share(shop: Namespace, web: Workload) -> None:
    shop.apply(route("catalog", f"{{backendRefs: [{version('v1', 50)}, {version('v3', 50)}]}}"))

    assert follows(ask(web, 300), {"catalog-1": 50, "503": 50})


def test_a_rule_without_backends_is_500(shop: Namespace, web: Workload) -> None:
    shop.apply(route("catalog", "{backendRefs: []}"))

    answer = get(web.proxy, "http://catalog/")

    assert (answer.status, answer.reason) == (500, "no-backend")


def test_headers_are_set_added_and_removed_on_both_ways(shop: Namespace, web: Workload) -> None:
    change = (
        "{set: [{name: x-set, value: new}], add: [{name: x-add, value: two}], remove: [x-gone]}"
    )
    shop.apply(
        route(
            "catalog",
            f"{{backendRefs: [{version('v1', 1)}], filters: ["
            f"{{type: RequestHeaderModifier, requestHeaderModifier: {change}}}, "
            "{type: ResponseHeaderModifier, responseHeaderModifier: "
            "{set: [{name: x-set, value: back}], remove: [x-app]}}]}",
        )
    )

    answer = get(web.proxy, "http://catalog/", x_set="old", x_add="one", x_gone="1")

    fields = [tuple(field) for field in answer.json()["fields"]]
    assert [value for name, value in fields if name == "x-set"] == ["new"]
    assert [value for name, value in fields if name == "x-add"] == ["one", "two"]
    assert "x-gone" not in dict(fields)
    assert answer.headers["x-set"] == "back"
    assert answer.app is None


REDIRECTS = [
    ("{scheme: https, hostname: new.example, statusCode: 301}", 301, "https://new.example/a/b?c=d"),
    ("{port: 8080}", 302, "http://catalog:8080/a/b?c=d"),
    ("{path: {type: ReplaceFullPath, replaceFullPath: /x}}", 302, "http://catalog/x?c=d"),
    ("{path: {type: ReplacePrefixMatch, replacePrefixMatch: /z}}", 302, "http://catalog/z/b?c=d"),
]


@pytest.mark.parametrize(("redirect", "status", "location"), REDIRECTS)
def test_a_redirect_is_answered_by_the_callers_sidecar(
    shop: Namespace, web: Workload, redirect: str, status: int, location: str
) -> None:
    filters = f"[{{type: RequestRedirect, requestRedirect: {redirect}}}]"
    shop.apply(route("catalog", f"{{matches: [{{path: {{value: /a}}}}], filters: {filters}}}"))

    answer = get(web.proxy, "http://catalog/a/b?c=d")

    assert (answer.status, answer.headers["location"]) == (status, location)


REWRITES = [
    ("{hostname: inner.example}", "/a/b?c=d", "inner.example"),
    ("{path: {type: ReplaceFullPath, replaceFullPath: /x}}", "/x?c=d", "catalog"),
    ("{path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}", "/b?c=d", "catalog"),
    ("{path: {type: ReplacePrefixMatch, replacePrefixMatch: /y/z}}", "/y/z/b?c=d", "catalog"),
]


@pytest.mark.parametrize(("rewrite", "target", "host"), REWRITES)
def test_a_rewrite_changes_what_the_program_sees(
    shop: Namespace, web: Workload, rewrite: str, target: str, host: str
) -> None:
    shop.apply(
        route(
            "catalog",
            f"{{matches: [{{path: {{value: /a}}}}], backendRefs: [{version('v1', 1)}], "
            f"filters: [{{type: URLRewrite, urlRewrite: {rewrite}}}]}}",
        )
    )

    seen = get(web.proxy, "http://catalog/a/b?c=d").json()

    assert (seen["target"], seen["headers"]["host"]) == (target, host)


def test_without_its_route_a_service_is_called_as_it_is(shop: Namespace, web: Workload) -> None:
    shop.delete("HTTPRoute", "catalog", "gateway.networking.k8s.io/v1")

    assert set(ask(web, 40, "http://catalog/any/path")) <= {"catalog-1", "catalog-2"}
