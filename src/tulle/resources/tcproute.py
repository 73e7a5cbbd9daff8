"""TCPRoute (gateway.networking.k8s.io/v1 and v1alpha2): where connections to a Service go."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tulle.resources.model import Model, Resource
from tulle.resources.route import (
    BACKENDS_MAX,
    PARENTS_MAX,
    BackendRef,
    ParentRef,
    RouteStatus,
    check_parents,
)
from tulle.resources.values import DnsLabel
from tulle.resources.violations import Problems


class TCPRule(Model):
    """Where connections go; there is nothing in a connection to tell rules apart by."""

    name: DnsLabel | None = None
    """Named in telemetry and by `tulle resolve`."""
    backend_refs: Annotated[tuple[BackendRef, ...], Field(min_length=1, max_length=BACKENDS_MAX)]
    """Where the connections go, by weight."""


class TCPRouteSpec(Model):
    """For whose callers, and the rule."""

    parent_refs: Annotated[tuple[ParentRef, ...], Field(max_length=PARENTS_MAX)] = ()
    """The Services this is for. In another namespace: for callers in the route's own only."""
    rules: Annotated[tuple[TCPRule, ...], Field(min_length=1, max_length=1)]
    """Exactly one."""

    @model_validator(mode="after")
    def _parents_fit(self) -> "TCPRouteSpec":
        problems = Problems()
        check_parents(self.parent_refs, problems)
        problems.raise_any()
        return self


class TCPRoute(Resource):
    """Where connections to a Service go."""

    api_version: Literal["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"] = (
        "gateway.networking.k8s.io/v1"
    )
    kind: Literal["TCPRoute"] = "TCPRoute"
    spec: TCPRouteSpec
    """For whose callers, and the rule."""
    status: RouteStatus | None = None
    """One entry per parent and controller."""
