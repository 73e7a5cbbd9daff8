"""How clients send to a service: balancing, timeouts, retries, limits, ejection.

The defaults here are what a service without a policy gets.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

LoadBalancer: TypeAlias = Literal["p2c_ewma", "round_robin", "least_request"]
RetryOn: TypeAlias = Literal[
    "connect-failure", "reset", "unavailable", "timeout", "5xx", "gateway-error"
]


@dataclass(frozen=True, slots=True)
class Retry:
    """When a failed try is repeated: `attempts` counts those after the first."""

    attempts: int = 2
    on: tuple[RetryOn, ...] = ("connect-failure", "reset", "unavailable")
    codes: tuple[int, ...] = ()
    grpc_statuses: tuple[int, ...] = ()
    backoff_base_ms: int = 25
    backoff_max_ms: int = 250


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """Retries may be *percent* of all requests, and *min_per_second* in any case."""

    percent: int = 20
    min_per_second: int = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """The most of each that one client keeps open towards the service."""

    connections: int = 1024
    pending: int = 1024
    requests: int = 1024


@dataclass(frozen=True, slots=True)
class Outlier:
    """When an endpoint that keeps failing is left out, and for how long."""

    consecutive_failures: int = 5
    base_ejection_ms: int = 1000
    max_ejection_ms: int = 10000
    max_ejected_percent: int = 50


@dataclass(frozen=True, slots=True)
class Traffic:
    """The traffic policy of a service; `policy` and `source` are `None` for the defaults.

    Timeouts of 0 are off; `outlier` is `None` when ejection is off.
    """

    policy: str | None = None
    source: str | None = None
    load_balancer: LoadBalancer = "p2c_ewma"
    connect_timeout_ms: int = 1000
    request_timeout_ms: int = 15000
    per_try_timeout_ms: int = 0
    idle_timeout_ms: int = 3_600_000
    proxy_protocol: bool = False
    retry: Retry = field(default_factory=Retry)
    retry_budget: RetryBudget = field(default_factory=RetryBudget)
    limits: Limits = field(default_factory=Limits)
    outlier: Outlier | None = field(default_factory=Outlier)
