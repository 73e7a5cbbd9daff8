"""AuthorizationPolicy (tulle.dev/v1alpha1): who may call what, by identity.

The meaning is Istio's: DENY comes first; if any ALLOW policy is about a workload, what none of
them allows is refused; an ALLOW policy without rules allows nothing, and an empty rule fits
every request.
"""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from tulle.resources.model import LabelSelector, Model, Resource
from tulle.resources.policy import TARGETS_MAX, PolicyStatus, TargetRef, check_targets
from tulle.resources.values import wrong
from tulle.resources.violations import Problems

RULES_MAX: Final = 128
PARTS_MAX: Final = 32
PATTERNS_MAX: Final = 64
PATTERN_LENGTH_MAX: Final = 1024

_METHOD = re.compile(r"[A-Z]+(-[A-Z]+)*")


def _pattern(value: str) -> str:
    if not 1 <= len(value) <= PATTERN_LENGTH_MAX:
        raise wrong(f"{len(value)} characters", f"1 to {PATTERN_LENGTH_MAX}")
    if (value != "*" and "*" in value[1:-1]) or value.count("*") > 1:
        raise wrong(f'"{value}" has a wildcard inside', 'an exact value, "begin*", "*end" or "*"')
    return value


def _principal(value: str) -> str:
    if value.startswith("spiffe://"):
        raise wrong(f'"{value}" has a scheme', "<trust domain>/ns/<namespace>/sa/<service account>")
    return _pattern(value)


def _path(value: str) -> str:
    if not value.startswith(("/", "*")):
        raise wrong(f'"{value}" is not absolute', "a pattern that starts with / or *")
    return _pattern(value)


def _method(value: str) -> str:
    if value != "*" and not _METHOD.fullmatch(value):
        raise wrong(f'"{value}" is not a method', "upper-case letters, as in GET, or *")
    return value


def _port(value: str) -> str:
    if not (value.isascii() and value.isdigit() and 1 <= int(value[:6]) <= 65535):
        raise wrong(f'"{value}" is not a port', "1 to 65535, in quotes")
    return value


def _service_account(value: str) -> str:
    namespace, slash, name = value.rpartition("/")
    if not name or (slash and not namespace) or "/" in namespace or "*" in value:
        raise wrong(
            f'"{value}" is not a service account', "<name>, or <namespace>/<name>, no wildcard"
        )
    return value


Pattern = Annotated[str, AfterValidator(_pattern)]
Principal = Annotated[str, AfterValidator(_principal)]
PathPattern = Annotated[str, AfterValidator(_path)]
Method = Annotated[str, AfterValidator(_method)]
Port = Annotated[str, AfterValidator(_port)]
ServiceAccount = Annotated[str, AfterValidator(_service_account)]


class Source(Model):
    """Who calls; every field that is given must hold, one value of each is enough."""

    principals: Annotated[tuple[Principal, ...], Field(max_length=PATTERNS_MAX)] = ()
    """SPIFFE ids without `spiffe://`; `*` is any caller with an identity."""
    not_principals: Annotated[tuple[Principal, ...], Field(max_length=PATTERNS_MAX)] = ()
    """None of these."""
    namespaces: Annotated[tuple[Pattern, ...], Field(max_length=PATTERNS_MAX)] = ()
    """Namespaces of the caller's identity."""
    not_namespaces: Annotated[tuple[Pattern, ...], Field(max_length=PATTERNS_MAX)] = ()
    """None of these."""
    service_accounts: Annotated[tuple[ServiceAccount, ...], Field(max_length=PATTERNS_MAX)] = ()
    """`<namespace>/<name>`, or `<name>` in the policy's namespace. Not beside principals and
    namespaces."""
    not_service_accounts: Annotated[tuple[ServiceAccount, ...], Field(max_length=PATTERNS_MAX)] = ()
    """None of these."""

    @model_validator(mode="after")
    def _says_something(self) -> "Source":
        problems = Problems()
        if not any(getattr(self, field) for field in type(self).model_fields):
            problems.add((), "names nobody", "one of principals, namespaces, serviceAccounts, …")
        for field, values in (("principals", self.principals), ("namespaces", self.namespaces)):
            if self.service_accounts and values:
                problems.add(
                    (field,), "does not go with serviceAccounts", f"{field} or serviceAccounts"
                )
        problems.raise_any()
        return self


class From(Model):
    """One kind of caller."""

    source: Source
    """Who calls."""


class Operation(Model):
    """What is called; every field that is given must hold, one value of each is enough."""

    methods: Annotated[tuple[Method, ...], Field(max_length=PATTERNS_MAX)] = ()
    """HTTP methods; gRPC is POST."""
    not_methods: Annotated[tuple[Method, ...], Field(max_length=PATTERNS_MAX)] = ()
    """None of these."""
    paths: Annotated[tuple[PathPattern, ...], Field(max_length=PATTERNS_MAX)] = ()
    """Paths; of gRPC `/package.Service/Method`."""
    not_paths: Annotated[tuple[PathPattern, ...], Field(max_length=PATTERNS_MAX)] = ()
    """None of these."""
    ports: Annotated[tuple[Port, ...], Field(max_length=PATTERNS_MAX)] = ()
    """Numbers of the workload's ports, in quotes."""
    not_ports: Annotated[tuple[Port, ...], Field(max_length=PATTERNS_MAX)] = ()
    """None of these."""

    @model_validator(mode="after")
    def _says_something(self) -> "Operation":
        if not any(getattr(self, field) for field in type(self).model_fields):
            problems = Problems()
            problems.add((), "names nothing", "one of methods, paths, ports, …")
            problems.raise_any()
        return self


class To(Model):
    """One kind of operation."""

    operation: Operation
    """What is called."""


class Rule(Model):
    """Fits a request from one of `from` that does one of `to`."""

    from_: Annotated[tuple[From, ...], Field(alias="from", max_length=PARTS_MAX)] = ()
    """Who calls; anyone if not given."""
    to: Annotated[tuple[To, ...], Field(max_length=PARTS_MAX)] = ()
    """What is called; anything if not given."""


class AuthorizationPolicySpec(Model):
    """For which workloads, and what it allows or denies."""

    selector: LabelSelector | None = None
    """Workloads in the policy's namespace. All of them if neither this nor `targetRefs` is
    given."""
    target_refs: Annotated[tuple[TargetRef, ...], Field(max_length=TARGETS_MAX)] = ()
    """Services in the policy's namespace: the workloads behind them."""
    action: Literal["ALLOW", "DENY"] = "ALLOW"
    """What happens to a request that fits a rule."""
    rules: Annotated[tuple[Rule, ...], Field(max_length=RULES_MAX)] = ()
    """A request fits if it fits one of them."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "AuthorizationPolicySpec":
        if self.selector is not None and self.target_refs:
            problems = Problems()
            problems.add(("targetRefs",), "does not go with selector", "selector or targetRefs")
            problems.raise_any()
        check_targets(self.target_refs)
        return self


class AuthorizationPolicy(Resource):
    """Who may call what, by identity."""

    api_version: Literal["tulle.dev/v1alpha1"] = "tulle.dev/v1alpha1"
    kind: Literal["AuthorizationPolicy"] = "AuthorizationPolicy"
    spec: AuthorizationPolicySpec = Field(default_factory=AuthorizationPolicySpec)
    """For which workloads, and what it allows or denies."""
    status: PolicyStatus | None = None
    """One entry per target and controller, or conditions."""
