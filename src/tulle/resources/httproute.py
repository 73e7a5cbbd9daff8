"""HTTPRoute (gateway.networking.k8s.io/v1): which HTTP requests to a Service go where.

The bounds and rules are those of the Gateway API's own definitions, which outside Kubernetes
nobody else would enforce.
"""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from tulle.resources.filters import Filter, check_filters
from tulle.resources.model import Model, Resource
from tulle.resources.route import (
    BACKENDS_MAX,
    FILTERS_MAX,
    HOSTNAMES_MAX,
    PARENTS_MAX,
    RULES_MAX,
    BackendRef,
    ParentRef,
    RouteStatus,
    check_parents,
    check_rules,
)
from tulle.resources.values import (
    DnsLabel,
    HeaderName,
    HeaderPattern,
    Hostname,
    Interval,
    RetryAttempts,
    RetryCode,
    Timeout,
    check_pattern,
    text,
    wrong,
)
from tulle.resources.violations import Location, Problems

MATCHES_MAX: Final = 64
CONDITIONS_MAX: Final = 16
PATH_LENGTH_MAX: Final = 1024

_PATH = re.compile(r"(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})*")
_PATH_FORBIDDEN = ("//", "/./", "/../", "%2f", "%2F", "#")
_QUERY_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")


def _query_value(value: str) -> str:
    if not 1 <= len(value) <= 1024:
        raise wrong(f"{len(value)} characters", "1 to 1024")
    return value


class PathMatch(Model):
    """A condition on the path, without the query."""

    type: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    """PathPrefix compares element by element: `/a` fits `/a` and `/a/b`, not `/ab`."""
    value: str = "/"
    """The path, the prefix, or a regular expression for the whole path (RE2 syntax)."""

    @model_validator(mode="after")
    def _value_fits_type(self) -> "PathMatch":
        problems = Problems()
        if self.type == "RegularExpression":
            check_pattern(self.type, self.value)
        elif not self.value.startswith("/"):
            problems.add(("value",), f'"{self.value}" is not absolute', "a path that starts with /")
        elif len(self.value) > PATH_LENGTH_MAX:
            problems.add(("value",), "is too long", f"at most {PATH_LENGTH_MAX} characters")
        elif bad := [part for part in _PATH_FORBIDDEN if part in self.value]:
            problems.add(("value",), f'"{self.value}" holds "{bad[0]}"', "a normalised path")
        elif self.value.endswith(("/.", "/..")) or not _PATH.fullmatch(self.value):
            problems.add(
                ("value",),
                f'"{self.value}" is not a path',
                "letters, digits, /._~!$&'()*+,;=:@- and %HH, not ending in /. or /..",
            )
        problems.raise_any()
        return self


class HeaderMatch(Model):
    """A condition on a header field."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    """How `value` is compared; both ways the whole value and with regard to case."""
    name: HeaderName
    """Compared without regard to case; if listed twice, the first counts."""
    value: HeaderPattern
    """The value, or a regular expression for the whole value (RE2 syntax)."""

    @model_validator(mode="after")
    def _value_fits_type(self) -> "HeaderMatch":
        check_pattern(self.type, self.value)
        return self


class QueryParamMatch(Model):
    """A condition on a query parameter."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    """How `value` is compared; both ways the whole value and with regard to case."""
    name: Annotated[str, *text(_QUERY_NAME, 256, "letters, digits and !#$%&'*+-.^_`|~")]
    """Compared with regard to case; if listed twice, the first counts."""
    value: Annotated[str, AfterValidator(_query_value)]
    """The value, or a regular expression for the whole value (RE2 syntax)."""

    @model_validator(mode="after")
    def _value_fits_type(self) -> "QueryParamMatch":
        check_pattern(self.type, self.value)
        return self


class HTTPMatch(Model):
    """Conditions that must all hold."""

    path: PathMatch = Field(default_factory=PathMatch)
    """Every path if not given."""
    headers: Annotated[tuple[HeaderMatch, ...], Field(max_length=CONDITIONS_MAX)] = ()
    """Header fields that must all fit."""
    query_params: Annotated[tuple[QueryParamMatch, ...], Field(max_length=CONDITIONS_MAX)] = ()
    """Query parameters that must all fit; others do not matter."""
    method: (
        Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]
        | None
    ) = None
    """Every method if not given."""


class HTTPBackendRef(BackendRef):
    """Where a share of the requests goes."""

    filters: Annotated[tuple[Filter, ...], Field(max_length=FILTERS_MAX)] = ()
    """Run only for requests that go to this backend, after those of the rule."""


class HTTPTimeouts(Model):
    """Bounds on waiting; `0s` is no bound."""

    request: Timeout | None = None
    """From the request's head to the end of the answer, with all retries."""
    backend_request: Timeout | None = None
    """One try; at most `request`."""

    @model_validator(mode="after")
    def _try_fits_request(self) -> "HTTPTimeouts":
        whole, one_try = self.request, self.backend_request
        if whole and one_try and 0 < whole.ms < one_try.ms:
            problems = Problems()
            problems.add(
                ("backendRequest",), f'"{one_try}" is longer than request', f'at most "{whole}"'
            )
            problems.raise_any()
        return self


class HTTPRetry(Model):
    """When a failed try is made again (GEP-1731)."""

    codes: Annotated[tuple[RetryCode, ...], Field(max_length=32)] = ()
    """Statuses that count as failed; failed connections always do."""
    attempts: RetryAttempts | None = None
    """Tries after the first; that of the backend's traffic policy if not given."""
    backoff: Interval | None = None
    """The shortest wait before another try."""


class HTTPRule(Model):
    """Requests that fit one of the matches, and what happens to them."""

    name: DnsLabel | None = None
    """Named in telemetry and by `tulle resolve`; unique in the route."""
    matches: Annotated[tuple[HTTPMatch, ...], Field(max_length=MATCHES_MAX)] = ()
    """One of them must hold; none given fits every request."""
    filters: Annotated[tuple[Filter, ...], Field(max_length=FILTERS_MAX)] = ()
    """Run in this order."""
    backend_refs: Annotated[tuple[HTTPBackendRef, ...], Field(max_length=BACKENDS_MAX)] = ()
    """Where the requests go. None, and no redirect: 500."""
    timeouts: HTTPTimeouts | None = None
    """Those of the backend's traffic policy if not given."""
    retry: HTTPRetry | None = None
    """That of the backend's traffic policy if not given."""

    @model_validator(mode="after")
    def _filters_fit(self) -> "HTTPRule":
        problems = Problems()
        lists: list[tuple[Location, tuple[Filter, ...]]] = [(("filters",), self.filters)]
        lists += [
            (("backendRefs", index, "filters"), backend.filters)
            for index, backend in enumerate(self.backend_refs)
        ]
        one_prefix = len(self.effective_matches) == 1 and (
            self.effective_matches[0].path.type == "PathPrefix"
        )
        for where, filters in lists:
            check_filters(filters, where, problems)
            for index, filter_ in enumerate(filters):
                if filter_.path and filter_.path.type == "ReplacePrefixMatch" and not one_prefix:
                    field = "requestRedirect" if filter_.request_redirect else "urlRewrite"
                    problems.add(
                        (*where, index, field, "path", "type"),
                        "ReplacePrefixMatch does not say which prefix",
                        "a rule with exactly one match, on a PathPrefix",
                    )
        if self.backend_refs and any(filter_.request_redirect for filter_ in self.filters):
            problems.add(
                ("backendRefs",), "a redirect goes to no backend", "backendRefs or a redirect"
            )
        problems.raise_any()
        return self

    @property
    def effective_matches(self) -> tuple[HTTPMatch, ...]:
        """The matches, or the one that fits everything."""
        return self.matches or (HTTPMatch(),)


class HTTPRouteSpec(Model):
    """For whose callers, and the rules."""

    parent_refs: Annotated[tuple[ParentRef, ...], Field(max_length=PARENTS_MAX)] = ()
    """The Services this is for. In another namespace: for callers in the route's own only."""
    hostnames: Annotated[tuple[Hostname, ...], Field(max_length=HOSTNAMES_MAX)] = ()
    """Without meaning for a Service (GAMMA); match on the header Host instead."""
    rules: Annotated[tuple[HTTPRule, ...], Field(min_length=1, max_length=RULES_MAX)] = Field(
        default_factory=lambda: (HTTPRule(),)
    )
    """The most specific match of all rules of all routes of a Service decides."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "HTTPRouteSpec":
        problems = Problems()
        check_parents(self.parent_refs, problems)
        check_rules(self.rules, problems)
        problems.raise_any()
        return self


class HTTPRoute(Resource):
    """Which HTTP requests to a Service go where, and what is changed about them."""

    api_version: Literal["gateway.networking.k8s.io/v1"] = "gateway.networking.k8s.io/v1"
    kind: Literal["HTTPRoute"] = "HTTPRoute"
    spec: HTTPRouteSpec
    """For whose callers, and the rules."""
    status: RouteStatus | None = None
    """One entry per parent and controller."""
