"""BackendTrafficPolicy: defaults of the contract, bounds of each number."""

from collections.abc import Callable

import pytest

from tulle.resources.backendtrafficpolicy import BackendTrafficPolicy
from tulle.resources.parse import parse_text


def _policy(more: str = "") -> str:
    return (
        "{apiVersion: tulle.dev/v1alpha1, kind: BackendTrafficPolicy, metadata: {name: a}, "
        f"spec: {{targetRefs: [{{name: cart}}]{more}}}}}"
    )


def test_what_is_not_given_has_its_default() -> None:
    (parsed,) = parse_text(_policy())
    policy = parsed.resource
    assert isinstance(policy, BackendTrafficPolicy)
    spec = policy.spec

    assert spec.load_balancer.type == "PeakEWMA"
    assert (spec.limits.connections, spec.limits.pending, spec.limits.requests) == (1024,) * 3
    assert (spec.retry.on, spec.retry.attempts) == (
        ("connect-failure", "reset", "unavailable"),
        2,
    )
    assert (spec.retry_budget.percent, spec.retry_budget.min_per_second) == (20, 10)
    outlier = spec.outlier_detection
    assert (outlier.disabled, outlier.consecutive_failures) == (False, 5)
    assert outlier.max_ejected_percent == 50


def test_a_policy_with_everything_is_accepted(refusals: Callable[[str], list[str]]) -> None:
    text = _policy(
        """,
        loadBalancer: {type: LeastRequest},
        limits: {connections: 1, pending: 1, requests: 1000000},
        timeouts: {connect: 500ms, request: 0s, perTry: 2s, idle: 0s},
        retry: {on: [connect-failure, reset, unavailable, timeout, 5xx, gateway-error],
                codes: [429], grpcStatuses: [cancelled, unavailable], attempts: 1, backoff: {base: 10ms, max: 1s}},
        retryBudget: {percent: 0, minPerSecond: 0},
        outlierDetection: {consecutiveFailures: 1, baseEjection: 1s, maxEjection: 1m,
                           maxEjectedPercent: 100}"""
    )

    assert refusals(text) == []


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            "loadBalancer: {type: Random}",
            'loadBalancer.type: "Random" is not known; one of PeakEWMA, RoundRobin, LeastRequest',
        ),
        ("limits: {requests: 0}", "limits.requests: 0 is out of range; 1 to 1000000"),
        ("limits: {pending: 1.5}", "limits.pending: 1.5 is a number; a whole number"),
        (
            "timeouts: {request: 1s, perTry: 1001ms}",
            'timeouts.perTry: "1001ms" is longer than request; at most "1s"',
        ),
        ("timeouts: {connect: 0s}", 'timeouts.connect: "0s" is out of range; 1ms to 24h'),
        (
            "retry: {on: [resets]}",
            (
                'retry.on[0]: "resets" is not known; one of connect-failure, reset, unavailable, '
                'timeout, 5xx, gateway-error (did you mean "reset"?)'
            ),
        ),
        (
            "retry: {grpcStatuses: [aborted]}",
            (
                'retry.grpcStatuses[0]: "aborted" is not known; one of cancelled, '
                "deadline-exceeded, internal, resource-exhausted, unavailable"
            ),
        ),
        ("retry: {attempts: 0}", "retry.attempts: 0 is out of range; 1 to 10"),
        (
            "retry: {backoff: {base: 2s, max: 1s}}",
            'retry.backoff.base: "2s" is longer than max; at most "1s"',
        ),
        ("retryBudget: {percent: 101}", "retryBudget.percent: 101 is out of range; 0 to 100"),
        (
            "outlierDetection: {disabled: true, consecutiveFailures: 3}",
            "outlierDetection.disabled: true, but other fields are set; disabled alone, or false",
        ),
        (
            "outlierDetection: {disabled: 'yes'}",
            'outlierDetection.disabled: "yes" is a string; true or false',
        ),
        (
            "outlierDetection: {baseEjection: 2m, maxEjection: 1m}",
            'outlierDetection.baseEjection: "2m" is longer than maxEjection; at most "1m"',
        ),
    ],
)
def test_a_wrong_field(more: str, expected: str, refusals: Callable[[str], list[str]]) -> None:
    assert refusals(_policy(f", {more}")) == [f"spec.{expected}"]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("[]", "spec.targetRefs: 0 are too few; at least 1"),
        (
            "[{name: a}, {name: a}]",
            'spec.targetRefs[1]: "a" is a target twice; each Service once',
        ),
        (
            "[{kind: HTTPRoute, name: a}]",
            'spec.targetRefs[0].kind: "HTTPRoute" is not known; one of Service',
        ),
        (
            f"[{', '.join(f'{{name: a{n}}}' for n in range(17))}]",
            "spec.targetRefs: 17 are too many; at most 16",
        ),
    ],
)
def test_wrong_targets(targets: str, expected: str, refusals: Callable[[str], list[str]]) -> None:
    text = _policy().replace("[{name: cart}]", targets)

    assert refusals(text) == [expected]
