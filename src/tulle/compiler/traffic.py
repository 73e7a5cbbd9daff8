"""The traffic policy in force for a Service: the oldest that targets it, or the defaults."""

from typing import Final

from tulle.mesh.mesh import Mesh
from tulle.record.traffic import (
    Limits,
    LoadBalancer,
    Outlier,
    Retry,
    RetryBudget,
    Traffic,
)
from tulle.resources.backendtrafficpolicy import (
    BackendTrafficPolicy,
    BackendTrafficPolicySpec,
    GRPCStatus,
    OutlierDetection,
)
from tulle.resources.backendtrafficpolicy import Retry as WrittenRetry
from tulle.resources.model import ObjectName
from tulle.resources.parse import source_of
from tulle.resources.values import Duration

BACKOFF_MAX_BY_BASE: Final = 10
"""How far the backoff grows if a policy does not say."""

_BALANCERS: dict[str, LoadBalancer] = {
    "PeakEWMA": "p2c_ewma",
    "RoundRobin": "round_robin",
    "LeastRequest": "least_request",
}
_GRPC_STATUSES: dict[GRPCStatus, int] = {
    "cancelled": 1,
    "deadline-exceeded": 4,
    "resource-exhausted": 8,
    "internal": 13,
    "unavailable": 14,
}
_DEFAULT = Traffic()


def compile_traffic(mesh: Mesh, service: ObjectName) -> Traffic:
    """Return how clients treat the endpoints of *service*."""
    policy = mesh.traffic_policy(service)
    return _DEFAULT if policy is None else _traffic(policy)


def _traffic(policy: BackendTrafficPolicy) -> Traffic:
    spec: BackendTrafficPolicySpec = policy.spec
    timeouts = spec.timeouts
    return Traffic(
        policy=str(policy.object_name),
        source=source_of(policy),
        load_balancer=_BALANCERS[spec.load_balancer.type],
        connect_timeout_ms=_ms(timeouts.connect, _DEFAULT.connect_timeout_ms),
        request_timeout_ms=_ms(timeouts.request, _DEFAULT.request_timeout_ms),
        per_try_timeout_ms=_ms(timeouts.per_try, _DEFAULT.per_try_timeout_ms),
        idle_timeout_ms=_ms(timeouts.idle, _DEFAULT.idle_timeout_ms),
        proxy_protocol=spec.proxy_protocol is not None,
        retry=_retry(spec.retry),
        retry_budget=RetryBudget(
            percent=spec.retry_budget.percent, min_per_second=spec.retry_budget.min_per_second
        ),
        limits=Limits(
            connections=spec.limits.connections,
            pending=spec.limits.pending,
            requests=spec.limits.requests,
        ),
        outlier=None if spec.outlier_detection.disabled else _outlier(spec.outlier_detection),
    )


def _retry(written: WrittenRetry) -> Retry:
    base_ms = _ms(written.backoff.base, _DEFAULT.retry.backoff_base_ms)
    if written.backoff.max is None:
        max_ms = base_ms * BACKOFF_MAX_BY_BASE
    else:
        max_ms = written.backoff.max.ms
        base_ms = min(base_ms, max_ms)
    return Retry(
        attempts=written.attempts,
        on=written.on,
        codes=written.codes,
        grpc_statuses=tuple(_GRPC_STATUSES[status] for status in written.grpc_statuses),
        backoff_base_ms=base_ms,
        backoff_max_ms=max_ms,
    )


def _outlier(written: OutlierDetection) -> Outlier:
    defaults = Outlier()
    base_ms = _ms(written.base_ejection, defaults.base_ejection_ms)
    max_ms = _ms(written.max_ejection, defaults.max_ejection_ms)
    if written.max_ejection is None:
        max_ms = max(base_ms, max_ms)
    return Outlier(
        consecutive_failures=written.consecutive_failures,
        base_ejection_ms=min(base_ms, max_ms),
        max_ejection_ms=max_ms,
        max_ejected_percent=written.max_ejected_percent,
    )


def _ms(written: Duration | None, default_ms: int) -> int:
    return default_ms if written is None else written.ms
