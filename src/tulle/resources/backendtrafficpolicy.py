"""BackendTrafficPolicy (tulle.dev/v1alpha1): how callers treat the endpoints of a Service."""

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from tulle.resources.model import Model, Resource
from tulle.resources.policy import TARGETS_MAX, PolicyStatus, TargetRef, check_targets
from tulle.resources.values import (
    Boolean,
    Count,
    Interval,
    Percent,
    Rate,
    RetryAttempts,
    RetryCode,
    Timeout,
)
from tulle.resources.violations import Problems

CONDITIONS_MAX: Final = 8

RetryCondition = Literal[
    "connect-failure", "reset", "unavailable", "timeout", "5xx", "gateway-error"
]

GRPCStatus = Literal[
    "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"
]
"""Those that another try may change (Envoy's `retry-grpc-on`)."""


class LoadBalancer(Model):
    """How one of the endpoints is chosen."""

    type: Literal["PeakEWMA", "RoundRobin", "LeastRequest"] = "PeakEWMA"
    """PeakEWMA: the better of two drawn at random, by recent latency and requests in flight."""


class Limits(Model):
    """Bounds per calling sidecar; what is beyond them gets 503."""

    connections: Count = 1024
    """Open connections to all endpoints together."""
    pending: Count = 1024
    """HTTP/1.1 requests that wait for a connection, each no longer than `timeouts.connect`."""
    requests: Count = 1024
    """Requests in flight."""


class Timeouts(Model):
    """Bounds on waiting; `0s` is no bound. A route's own timeouts come first."""

    connect: Interval | None = None
    """Until a connection is open, TLS included; 1s if not given."""
    request: Timeout | None = None
    """From the request's head to the answer's head, with all retries; 15s if not given. A
    route's own `timeouts.request` holds to the end of the answer."""
    per_try: Timeout | None = None
    """One try, to the answer's head; no bound if not given."""
    idle: Timeout | None = None
    """A TCP connection that carried nothing for this long is closed; 1h if not given."""

    @model_validator(mode="after")
    def _try_fits_request(self) -> "Timeouts":
        if self.request and self.per_try and 0 < self.request.ms < self.per_try.ms:
            problems = Problems()
            problems.add(
                ("perTry",),
                f'"{self.per_try}" is longer than request',
                f'at most "{self.request}"',
            )
            problems.raise_any()
        return self


class Backoff(Model):
    """The wait before another try: doubles from `base` to `max`, and varies at random."""

    base: Interval | None = None
    """Before the first retry; 25ms if not given."""
    max: Interval | None = None
    """Never longer; ten times `base` if not given."""

    @model_validator(mode="after")
    def _base_fits_max(self) -> "Backoff":
        if self.base and self.max and self.base.ms > self.max.ms:
            problems = Problems()
            problems.add(("base",), f'"{self.base}" is longer than max', f'at most "{self.max}"')
            problems.raise_any()
        return self


class Retry(Model):
    """When a failed try is made again. A route's own retry comes first."""

    on: Annotated[tuple[RetryCondition, ...], Field(max_length=CONDITIONS_MAX)] = (
        "connect-failure",
        "reset",
        "unavailable",
    )
    """What counts as failed. `reset` and `timeout` are for idempotent methods only, unless nothing
    of the request was sent; the others are for every method."""
    codes: Annotated[tuple[RetryCode, ...], Field(max_length=32)] = ()
    """Statuses that count as failed besides, for every method."""
    grpc_statuses: Annotated[tuple[GRPCStatus, ...], Field(max_length=CONDITIONS_MAX)] = ()
    """gRPC statuses that count as failed besides, for every method: of an answer without
    messages, and of what the mesh answers when there is none."""
    attempts: RetryAttempts = 2
    """Tries after the first."""
    backoff: Backoff = Field(default_factory=Backoff)
    """The wait before another try."""


class RetryBudget(Model):
    """How much retries may add to the load of the backend, per calling sidecar."""

    percent: Percent = 20
    """Each request earns this part of a retry; at most 1000 retries are saved up."""
    min_per_second: Rate = 10
    """Always allowed, so that rare requests can be retried too; two seconds' worth at once."""


class OutlierDetection(Model):
    """When an endpoint that fails is left out for a while, per calling sidecar."""

    disabled: Boolean = False
    """Leaves no endpoint out."""
    consecutive_failures: Count = 5
    """Failed tries in a row that eject an endpoint: no answer, or one of 500 to 599."""
    base_ejection: Interval | None = None
    """The first ejection; doubles with each further one until a request succeeds. 1s if not
    given."""
    max_ejection: Interval | None = None
    """Never longer; 10s if not given."""
    max_ejected_percent: Percent = 50
    """Never more of the endpoints at once."""

    @model_validator(mode="after")
    def _fields_fit(self) -> "OutlierDetection":
        problems = Problems()
        others = self.model_fields_set - {"disabled"}
        if self.disabled and others:
            problems.add(
                ("disabled",), "true, but other fields are set", "disabled alone, or false"
            )
        base, longest = self.base_ejection, self.max_ejection
        if base and longest and base.ms > longest.ms:
            problems.add(
                ("baseEjection",), f'"{base}" is longer than maxEjection', f'at most "{longest}"'
            )
        problems.raise_any()
        return self


class BackendTrafficPolicySpec(Model):
    """What it is about, and what it changes; what is not given keeps its default."""

    target_refs: Annotated[tuple[TargetRef, ...], Field(min_length=1, max_length=TARGETS_MAX)]
    """Services in the policy's own namespace. Of two policies for one, the older one wins."""
    load_balancer: LoadBalancer = Field(default_factory=LoadBalancer)
    """How one of the endpoints is chosen."""
    limits: Limits = Field(default_factory=Limits)
    """Bounds per calling sidecar."""
    timeouts: Timeouts = Field(default_factory=Timeouts)
    """Bounds on waiting."""
    proxy_protocol: Literal["V2"] | None = None
    """TCP connections begin with a header of this version of the PROXY protocol: it tells the
    endpoint the address that the caller's application called from."""
    retry: Retry = Field(default_factory=Retry)
    """When a failed try is made again."""
    retry_budget: RetryBudget = Field(default_factory=RetryBudget)
    """How much retries may add to the load."""
    outlier_detection: OutlierDetection = Field(default_factory=OutlierDetection)
    """When an endpoint is left out for a while."""

    @model_validator(mode="after")
    def _targets_are_distinct(self) -> "BackendTrafficPolicySpec":
        check_targets(self.target_refs)
        return self


class BackendTrafficPolicy(Resource):
    """How callers treat the endpoints of a Service."""

    api_version: Literal["tulle.dev/v1alpha1"] = "tulle.dev/v1alpha1"
    kind: Literal["BackendTrafficPolicy"] = "BackendTrafficPolicy"
    spec: BackendTrafficPolicySpec
    """What it is about, and what it changes."""
    status: PolicyStatus | None = None
    """One entry per target and controller."""
