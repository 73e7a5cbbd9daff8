"""What all routes share: the Services they are about, where traffic goes, status."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal, NamedTuple, Protocol

from pydantic import Field, model_validator

from tulle.resources.model import Condition, Model, ObjectName
from tulle.resources.values import DnsLabel, DnsSubdomain, PortName, PortNumber, Weight
from tulle.resources.violations import Problems

GATEWAY_GROUP: Final = "gateway.networking.k8s.io"
TULLE_GROUP: Final = "tulle.dev"
CONTROLLER_NAME: Final = "tulle.dev/mesh"
"""Who writes our entries of a route's or policy's status."""
VERSION_LABEL: Final = "version"
"""What a ServiceVersion selects by."""

PARENTS_MAX: Final = 32
HOSTNAMES_MAX: Final = 16
RULES_MAX: Final = 16
MATCHES_PER_ROUTE_MAX: Final = 128
BACKENDS_MAX: Final = 16
FILTERS_MAX: Final = 16


class ParentRef(Model):
    """A Service (or one of its ports) whose callers this route is for."""

    group: Literal["", "gateway.networking.k8s.io"] = GATEWAY_GROUP
    """"" for a Service; it must be written, since the Gateway API's default is its own group."""
    kind: Literal["Service", "Gateway"] = "Gateway"
    """Service. A Gateway is accepted, and left to other implementations."""
    namespace: DnsLabel | None = None
    """The route's own if not given. A Service elsewhere makes this a consumer route: it is
    for callers in the route's namespace only."""
    name: DnsSubdomain
    """Name of the Service."""
    section_name: PortName | None = None
    """Name of the Service's port; all ports if neither this nor `port` is given."""
    port: PortNumber | None = None
    """Number of the Service's port."""

    def service(self, route_namespace: str) -> ObjectName | None:
        """Return the Service this speaks of, or None if it speaks of something else."""
        if (self.group, self.kind) != ("", "Service"):
            return None
        return ObjectName(self.namespace or route_namespace, self.name)


class BackendTarget(NamedTuple):
    """The endpoints a backend stands for: those of a Service port, narrowed by labels."""

    service: ObjectName
    port: int
    labels: dict[str, str]


class BackendRef(Model):
    """Where a share of the traffic goes: a Service, or one version of it."""

    group: Literal["", "tulle.dev"] = ""
    """"" for a Service, tulle.dev for a ServiceVersion."""
    kind: Literal["Service", "ServiceVersion"] = "Service"
    """ServiceVersion: the endpoints of a Service that have the label `version`."""
    namespace: DnsLabel | None = None
    """The route's own if not given."""
    name: DnsSubdomain
    """Name of the Service; of a ServiceVersion `<service>.<version>`, as in `cart.v2`."""
    port: PortNumber
    """Number of the Service's port, as clients call it."""
    weight: Weight = 1
    """Its share is its weight by the sum of all weights of the rule; 0 gets nothing."""

    @model_validator(mode="after")
    def _group_fits_kind(self) -> "BackendRef":
        problems = Problems()
        expected = "" if self.kind == "Service" else TULLE_GROUP
        if self.group != expected:
            problems.add(
                ("group",), f'"{self.group}" has no {self.kind}', f'"{expected}" for {self.kind}'
            )
        if self.kind == "ServiceVersion" and "." not in self.name:
            problems.add(("name",), f'"{self.name}" has no version', "<service>.<version>")
        problems.raise_any()
        return self

    def target(self, route_namespace: str) -> BackendTarget:
        """Return whose endpoints this means."""
        service, labels = self.name, {}
        if self.kind == "ServiceVersion":
            service, _, version = self.name.partition(".")
            labels = {VERSION_LABEL: version}
        return BackendTarget(
            ObjectName(self.namespace or route_namespace, service), self.port, labels
        )


class RouteParentStatus(Model):
    """What one controller made of the route for one parent."""

    parent_ref: ParentRef
    """The parent, as written in the spec."""
    controller_name: str
    """Who says so; ours is `tulle.dev/mesh`."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=8)] = ()
    """Accepted, ResolvedRefs and perhaps PartiallyInvalid."""


class RouteStatus(Model):
    """One entry per parent and controller."""

    parents: Annotated[tuple[RouteParentStatus, ...], Field(max_length=PARENTS_MAX)] = ()
    """What each controller made of the route for each parent."""


def check_parents(parents: Sequence[ParentRef], problems: Problems) -> None:
    """Note parents of a wrong group, and two that mean the same."""
    seen: list[tuple[ParentRef, tuple[str, str | None, str]]] = []
    for index, parent in enumerate(parents):
        expected = "" if parent.kind == "Service" else GATEWAY_GROUP
        if parent.group != expected:
            problems.add(
                ("parentRefs", index, "group"),
                f'"{parent.group}" has no {parent.kind}',
                f'group: "{expected}" for {parent.kind}',
            )
        identity = (parent.kind, parent.namespace, parent.name)
        if any(identity == other and _overlap(parent, ref) for ref, other in seen):
            problems.add(
                ("parentRefs", index),
                f'"{parent.name}" is a parent twice',
                "several ports of one Service, each given by its own port or sectionName",
            )
        seen.append((parent, identity))


def _overlap(one: ParentRef, two: ParentRef) -> bool:
    """Return whether two references to one object are not told apart by the same fields."""
    same_fields = ((one.port is None) == (two.port is None)) and (
        (one.section_name is None) == (two.section_name is None)
    )
    return not same_fields or (one.port, one.section_name) == (two.port, two.section_name)


class MatchingRule(Protocol):
    """What the rules of an HTTPRoute and of a GRPCRoute have in common."""

    @property
    def name(self) -> str | None:
        """Its name, unique in the route."""

    @property
    def matches(self) -> Sequence[object]:
        """What it asks of a request."""


def check_rules(rules: Sequence[MatchingRule], problems: Problems) -> None:
    """Note names of rules that are used twice, and more matches than a route may have."""
    names = [rule.name for rule in rules]
    for index, name in enumerate(names):
        if name is not None and name in names[:index]:
            problems.add(("rules", index, "name"), f'"{name}" is used twice', "each name once")
    total = sum(len(rule.matches) for rule in rules)
    if total > MATCHES_PER_ROUTE_MAX:
        problems.add(
            ("rules",), f"{total} matches are too many", f"at most {MATCHES_PER_ROUTE_MAX}"
        )
