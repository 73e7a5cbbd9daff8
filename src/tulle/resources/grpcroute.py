"""GRPCRoute (gateway.networking.k8s.io/v1): which gRPC calls to a Service go where."""

import re
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from tulle.resources.filters import GRPCFilter, check_filters
from tulle.resources.httproute import (
    CONDITIONS_MAX,
    MATCHES_MAX,
    HeaderMatch,
)
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
from tulle.resources.values import DnsLabel, Hostname, regex_problem
from tulle.resources.violations import Location, Problems

NAME_LENGTH_MAX: Final = 1000
"""Of one name: beside a pattern for the other it is one of the engine's, of 1,024 bytes."""
REGEX_BYTES_MAX: Final = 500
"""Of one expression: the engine has one for both, of 1,024 bytes."""

_SERVICE = re.compile(r"\.?[A-Za-z_][A-Za-z_0-9]*(\.[A-Za-z_][A-Za-z_0-9]*)*")
_METHOD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")


class GRPCMethodMatch(Model):
    """A condition on the method that is called; at least one of the names is given."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    """How the names are compared; both ways as a whole and with regard to case."""
    service: str | None = None
    """Full name of the gRPC service, as in `shop.Payments`; every service if not given."""
    method: str | None = None
    """Name of the method; every method if not given."""

    @model_validator(mode="after")
    def _names_fit_type(self) -> "GRPCMethodMatch":
        problems = Problems()
        if not self.service and not self.method:
            problems.add((), "names nothing", "service, method or both")
        for field, value, exact in (
            ("service", self.service, _SERVICE),
            ("method", self.method, _METHOD),
        ):
            if not value:
                continue
            if self.type == "RegularExpression":
                if message := regex_problem(value, REGEX_BYTES_MAX):
                    allowed = f"RE2 syntax, at most {REGEX_BYTES_MAX} bytes"
                    problems.add((field,), message, allowed)
            elif len(value) > NAME_LENGTH_MAX or not exact.fullmatch(value):
                problems.add(
                    (field,), f'"{value}" is not a gRPC {field}', "letters, digits and '_'"
                )
        problems.raise_any()
        return self


class GRPCMatch(Model):
    """Conditions that must all hold."""

    method: GRPCMethodMatch | None = None
    """Every method if not given."""
    headers: Annotated[tuple[HeaderMatch, ...], Field(max_length=CONDITIONS_MAX)] = ()
    """Metadata that must all fit."""


class GRPCBackendRef(BackendRef):
    """Where a share of the calls goes."""

    filters: Annotated[tuple[GRPCFilter, ...], Field(max_length=FILTERS_MAX)] = ()
    """Run only for calls that go to this backend, after those of the rule."""


class GRPCRule(Model):
    """Calls that fit one of the matches, and what happens to them."""

    name: DnsLabel | None = None
    """Named in telemetry and by `tulle resolve`; unique in the route."""
    matches: Annotated[tuple[GRPCMatch, ...], Field(max_length=MATCHES_MAX)] = ()
    """One of them must hold; none given fits every call."""
    filters: Annotated[tuple[GRPCFilter, ...], Field(max_length=FILTERS_MAX)] = ()
    """Run in this order."""
    backend_refs: Annotated[tuple[GRPCBackendRef, ...], Field(max_length=BACKENDS_MAX)] = ()
    """Where the calls go. None: UNAVAILABLE."""

    @model_validator(mode="after")
    def _filters_fit(self) -> "GRPCRule":
        problems = Problems()
        lists: list[tuple[Location, tuple[GRPCFilter, ...]]] = [(("filters",), self.filters)]
        lists += [
            (("backendRefs", index, "filters"), backend.filters)
            for index, backend in enumerate(self.backend_refs)
        ]
        for where, filters in lists:
            check_filters(filters, where, problems)
        problems.raise_any()
        return self

    @property
    def effective_matches(self) -> tuple[GRPCMatch, ...]:
        """The matches, or the one that fits everything."""
        return self.matches or (GRPCMatch(),)


class GRPCRouteSpec(Model):
    """For whose callers, and the rules."""

    parent_refs: Annotated[tuple[ParentRef, ...], Field(max_length=PARENTS_MAX)] = ()
    """The Services this is for. In another namespace: for callers in the route's own only."""
    hostnames: Annotated[tuple[Hostname, ...], Field(max_length=HOSTNAMES_MAX)] = ()
    """Without meaning for a Service (GAMMA)."""
    rules: Annotated[tuple[GRPCRule, ...], Field(min_length=1, max_length=RULES_MAX)] = Field(
        default_factory=lambda: (GRPCRule(),)
    )
    """The most specific match of all rules of all routes of a Service decides."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "GRPCRouteSpec":
        problems = Problems()
        check_parents(self.parent_refs, problems)
        check_rules(self.rules, problems)
        problems.raise_any()
        return self


class GRPCRoute(Resource):
    """Which gRPC calls to a Service go where, and what is changed about them."""

    api_version: Literal["gateway.networking.k8s.io/v1"] = "gateway.networking.k8s.io/v1"
    kind: Literal["GRPCRoute"] = "GRPCRoute"
    spec: GRPCRouteSpec
    """For whose callers, and the rules."""
    status: RouteStatus | None = None
    """One entry per parent and controller."""
