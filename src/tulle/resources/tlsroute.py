"""TLSRoute (gateway.networking.k8s.io/v1): where TLS goes that nobody opens on the way.

The mesh reads the server name in the client's first message and carries the bytes as they are.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tulle.resources.model import Model, Resource
from tulle.resources.route import (
    BACKENDS_MAX,
    HOSTNAMES_MAX,
    PARENTS_MAX,
    BackendRef,
    ParentRef,
    RouteStatus,
    check_parents,
)
from tulle.resources.values import DnsLabel, Hostname
from tulle.resources.violations import Problems


class TLSRule(Model):
    """Where connections with one of the route's names go."""

    name: DnsLabel | None = None
    """Named in telemetry and by `tulle resolve`."""
    backend_refs: Annotated[tuple[BackendRef, ...], Field(min_length=1, max_length=BACKENDS_MAX)]
    """Where the connections go, by weight."""


class TLSRouteSpec(Model):
    """For whose callers, for which server names, and the rule."""

    parent_refs: Annotated[tuple[ParentRef, ...], Field(max_length=PARENTS_MAX)] = ()
    """The Services this is for. In another namespace: for callers in the route's own only."""
    hostnames: Annotated[tuple[Hostname, ...], Field(min_length=1, max_length=HOSTNAMES_MAX)]
    """Server names (SNI): a whole one, or `*.example.com` for all that end so. A whole name
    decides before a wildcard, a longer wildcard before a shorter."""
    rules: Annotated[tuple[TLSRule, ...], Field(min_length=1, max_length=1)]
    """Exactly one."""

    @model_validator(mode="after")
    def _parents_fit(self) -> "TLSRouteSpec":
        problems = Problems()
        check_parents(self.parent_refs, problems)
        problems.raise_any()
        return self


class TLSRoute(Resource):
    """Where TLS connections to a Service go, by the server name they ask for."""

    api_version: Literal[
        "gateway.networking.k8s.io/v1",
        "gateway.networking.k8s.io/v1alpha3",
        "gateway.networking.k8s.io/v1alpha2",
    ] = "gateway.networking.k8s.io/v1"
    kind: Literal["TLSRoute"] = "TLSRoute"
    spec: TLSRouteSpec
    """For whose callers, for which server names, and the rule."""
    status: RouteStatus | None = None
    """One entry per parent and controller."""
