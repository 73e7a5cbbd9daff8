"""The first entry that matches is the rule that the Gateway API chooses.

The chooser here follows the text of HTTPRouteRule.matches step by step, on the routes as
they were written; the compiler sorts once, before there is a request.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tulle.compiler.compile import compile_record, compile_trust
from tulle.mesh.mesh import Mesh
from tulle.record import ServiceRecord
from tulle.record.service import Match, ValueMatch
from tulle.resources.grpcroute import GRPCMatch, GRPCRoute
from tulle.resources.httproute import HTTPMatch, HTTPRoute
from tulle.resources.model import Resource
from tulle.resources.parse import parse_object

SERVICE = parse_object(
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"ports": [{"port": 80}]},
    }
)
PARENT = {"group": "", "kind": "Service", "name": "web"}


@dataclass(frozen=True)
class Request:
    """What a match can look at; names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    query: dict[str, str]


def table_of(resources: Sequence[Resource]) -> Any:
    """Return the only table of the Service for all clients."""
    record = compile_record(Mesh.of(resources), compile_trust("d", []), "service/shop/web")
    assert isinstance(record, ServiceRecord)
    tables = record.ports[0].tables
    return tables[0] if tables else None


def chosen_by_table(resources: Sequence[Resource], request: Request) -> tuple[str, str] | None:
    table = table_of(resources)
    for entry in table.entries:
        if holds(entry.match, request):
            rule = table.rules[entry.rule]
            return rule.route, rule.rule
    return None


def holds(match: Match, request: Request) -> bool:
    """Match as the engine does."""
    if match.path is not None:
        value = match.path.value
        prefix = value.rstrip("/")
        if not {
            "exact": request.path == value,
            "prefix": request.path == prefix or request.path.startswith(prefix + "/"),
            "regex": match.path.type == "regex" and re.fullmatch(value, request.path),
        }[match.path.type]:
            return False

    def fits(conditions: tuple[ValueMatch, ...], values: dict[str, str]) -> bool:
        return all(
            c.name in values
            and (
                values[c.name] == c.value
                if c.type == "exact"
                else re.fullmatch(c.value, values[c.name]) is not None
            )
            for c in conditions
        )

    return (
        match.method in (None, request.method)
        and fits(match.headers, request.headers)
        and fits(match.query, request.query)
    )


# The chooser by the text ----------------------------------------------------------------


def written_holds(match: HTTPMatch, request: Request) -> bool:
    path = match.path
    if path.type == "Exact" and request.path != path.value:
        return False
    if path.type == "RegularExpression" and not re.fullmatch(path.value, request.path):
        return False
    if path.type == "PathPrefix":
        wanted = [part for part in path.value.split("/") if part]
        given_parts = request.path.split("/")[1:]
        if given_parts[: len(wanted)] != wanted:
            return False
    if match.method is not None and match.method != request.method:
        return False
    for name, condition in first_of_each([(h.name.lower(), h) for h in match.headers]).items():
        if name not in request.headers or not value_fits(condition, request.headers[name]):
            return False
    for name, condition in first_of_each([(q.name, q) for q in match.query_params]).items():
        if name not in request.query or not value_fits(condition, request.query[name]):
            return False
    return True


def first_of_each(named: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(named))


def value_fits(condition: Any, value: str) -> bool:
    if condition.type == "Exact":
        return bool(condition.value == value)
    return re.fullmatch(condition.value, value) is not None


HTTP_STEPS: list[Callable[[HTTPMatch], int]] = [
    lambda m: m.path.type == "Exact",
    lambda m: m.path.type == "RegularExpression",
    lambda m: len(m.path.value.rstrip("/")) if m.path.type == "PathPrefix" else len(m.path.value),
    lambda m: m.method is not None,
    lambda m: len({header.name.lower() for header in m.headers}),
    lambda m: len({param.name for param in m.query_params}),
]
GRPC_STEPS: list[Callable[[GRPCMatch], int]] = [
    lambda m: m.method is not None and m.method.type == "Exact",
    lambda m: m.method is not None,
    lambda m: len(m.method.service or "") if m.method else 0,
    lambda m: len(m.method.method or "") if m.method else 0,
    lambda m: len({header.name.lower() for header in m.headers}),
]


def chosen_by_text(
    routes: Sequence[Any],
    request: Request,
    matches: Callable[[Any, Request], bool],
    steps: Sequence[Callable[[Any], int]],
) -> tuple[str, str] | None:
    left = [
        (route, index, match)
        for route in routes
        for index, rule in enumerate(route.spec.rules)
        for match in rule.effective_matches
        if matches(match, request)
    ]
    for step in steps:
        best = max((step(match) for _, _, match in left), default=0)
        left = [each for each in left if step(each[2]) == best]
    if not left:
        return None
    oldest = min(route.metadata.creation_timestamp for route, _, _ in left)
    left = [each for each in left if each[0].metadata.creation_timestamp == oldest]
    first = min(str(route.object_name) for route, _, _ in left)
    route, index, _ = next(each for each in left if str(each[0].object_name) == first)
    return first, route.spec.rules[index].name or str(index)


# What is written -------------------------------------------------------------------------

PATHS = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/b"]
VALUES = st.sampled_from(["1", "2"])
PATH_MATCH = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["Exact", "PathPrefix"]), "value": st.sampled_from(PATHS)}
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("RegularExpression"),
            "value": st.sampled_from(["/.*", "/a(/.*)?", "/[ab]", "/a/./c"]),
        }
    ),
)


def condition(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.fixed_dictionaries({"name": st.sampled_from(names), "value": VALUES}),
        st.fixed_dictionaries(
            {
                "name": st.sampled_from(names),
                "type": st.just("RegularExpression"),
                "value": st.sampled_from(["[12]", "1|x", "2"]),
            }
        ),
    )


HEADERS = st.lists(condition(["X-One", "x-one", "x-two"]), max_size=3)
HTTP_MATCHES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "path": PATH_MATCH,
            "method": st.sampled_from(["GET", "POST"]),
            "headers": HEADERS,
            "queryParams": st.lists(condition(["q", "Q"]), max_size=3),
        },
    ),
    max_size=3,
)
GRPC_METHOD = st.one_of(
    st.fixed_dictionaries({"service": st.sampled_from(["a.A", "a", "a.Ab"])}),
    st.fixed_dictionaries({"method": st.sampled_from(["Get", "GetAll"])}),
    st.fixed_dictionaries(
        {"service": st.sampled_from(["a.A", "a"]), "method": st.sampled_from(["Get", "GetAll"])}
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("RegularExpression"),
            "service": st.sampled_from(["a[.]A.*", "a|b"]),
            "method": st.sampled_from(["Get|List", "Get.*"]),
        }
    ),
)
GRPC_MATCHES = st.lists(
    st.fixed_dictionaries({}, optional={"method": GRPC_METHOD, "headers": HEADERS}), max_size=3
)


def routes(kind: str, matches: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Up to four routes of one Service, with few ages, so that many are equally old."""
    rules = st.lists(matches.map(lambda m: {"matches": m}), min_size=1, max_size=3)
    specs = st.lists(st.tuples(rules, st.integers(1, 2)), min_size=1, max_size=4)

    def build(written: list[tuple[list[dict[str, Any]], int]]) -> list[Any]:
        return [
            parse_object(
                {
                    "apiVersion": "gateway.networking.k8s.io/v1",
                    "kind": kind,
                    "metadata": {
                        "name": f"route-{index}",
                        "namespace": "shop",
                        "creationTimestamp": f"2026-03-0{day}T00:00:00Z",
                    },
                    "spec": {"parentRefs": [PARENT], "rules": rules},
                }
            )
            for index, (rules, day) in enumerate(written)
        ]

    return specs.map(build)


HTTP_REQUESTS = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST", "PUT"]),
    path=st.sampled_from([*PATHS, "/a/x/c", "/zzz"]),
    headers=st.dictionaries(st.sampled_from(["x-one", "x-two"]), VALUES),
    query=st.dictionaries(st.sampled_from(["q", "Q"]), VALUES),
)
GRPC_REQUESTS = st.builds(
    Request,
    method=st.just("POST"),
    path=st.sampled_from(["/a.A/Get", "/a.A/GetAll", "/a/Get", "/a.Ab/List", "/b/Get", "/x/Y"]),
    headers=st.dictionaries(st.sampled_from(["x-one", "x-two"]), VALUES),
    query=st.just({}),
)


def grpc_holds(match: GRPCMatch, request: Request) -> bool:
    service, method = request.path.split("/")[1:]
    if match.method is not None:
        for wanted, name in ((match.method.service, service), (match.method.method, method)):
            if wanted and not (
                wanted == name if match.method.type == "Exact" else re.fullmatch(wanted, name)
            ):
                return False
    named = first_of_each([(h.name.lower(), h) for h in match.headers])
    return all(
        name in request.headers and value_fits(condition, request.headers[name])
        for name, condition in named.items()
    )


@settings(deadline=None, max_examples=200)
@given(routes("HTTPRoute", HTTP_MATCHES), HTTP_REQUESTS)
def test_http_table_chooses_as_the_text_says(routes: list[HTTPRoute], request: Request) -> None:
    expected = chosen_by_text(routes, request, written_holds, HTTP_STEPS)

    assert chosen_by_table([SERVICE, *routes], request) == expected


@settings(deadline=None, max_examples=200)
@given(routes("GRPCRoute", GRPC_MATCHES), GRPC_REQUESTS)
def test_grpc_table_chooses_as_the_text_says(routes: list[GRPCRoute], request: Request) -> None:
    expected = chosen_by_text(routes, request, grpc_holds, GRPC_STEPS)

    assert chosen_by_table([SERVICE, *routes], request) == expected


@settings(deadline=None)
@given(st.data())
def test_the_order_of_routes_does_not_matter(data: st.DataObject) -> None:
    found: list[Resource] = data.draw(routes("HTTPRoute", HTTP_MATCHES))
    shuffled = data.draw(st.permutations([SERVICE, *found]))

    assert table_of(shuffled) == table_of([SERVICE, *found])


def http_route(*rules: dict[str, Any]) -> HTTPRoute:
    made = parse_object(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "r", "namespace": "shop"},
            "spec": {"parentRefs": [PARENT], "rules": list(rules)},
        }
    )
    assert isinstance(made, HTTPRoute)
    return made


@example("/v2example", {}, "v1")
@example("/foo/v2/example", {}, "v1")
@example("/", {"version": "one"}, "v1")
@example("/", {"version": "two"}, "v2")
@example("/v2", {"version": "one"}, "v2")
@example("/v2/", {}, "v2")
@given(st.just("/v2/example"), st.just({}), st.just("v2"))
def test_each_match_of_a_rule_is_ranked_by_itself(
    path: str, headers: dict[str, str], rule: str
) -> None:
    """The cases of the conformance test MeshHTTPRouteMatching."""
    route = http_route(
        {
            "name": "v1",
            "matches": [{"path": {"value": "/"}}, {"headers": [HEADER | {"value": "one"}]}],
        },
        {
            "name": "v2",
            "matches": [{"path": {"value": "/v2"}}, {"headers": [HEADER | {"value": "two"}]}],
        },
    )

    assert chosen_by_table([SERVICE, route], Request("GET", path, headers, {})) == ("shop/r", rule)


HEADER = {"name": "version"}
