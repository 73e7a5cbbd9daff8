"""GRPCRoute: methods, and the filters that gRPC knows."""

from collections.abc import Callable

import pytest

Refusals = Callable[[str], list[str]]


def _rule(rule: str) -> str:
    head = "apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: a}"
    return f"{{{head}, spec: {{rules: [{{{rule}}}]}}}}"


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "matches: [{}]",
        "matches: [{method: {service: shop.Payments, method: Pay}}]",
        "matches: [{method: {service: .shop.Payments}}, {method: {method: Pay}}]",
        "matches: [{method: {type: RegularExpression, service: 'shop[.].*'}}]",
        "matches: [{headers: [{name: x-test-case, value: set}]}]",
        "backendRefs: [{name: pay, port: 7070, weight: 0}]",
    ],
)
def test_a_right_rule(rule: str, refusals: Refusals) -> None:
    assert refusals(_rule(rule)) == []


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param(
            "matches: [{method: {}}]",
            ["matches[0].method: names nothing; service, method or both"],
            id="a method without names",
        ),
        pytest.param(
            "matches: [{method: {service: shop/Payments, method: 1Pay}}]",
            [
                (
                    'matches[0].method.service: "shop/Payments" is not a gRPC service; '
                    "letters, digits and '_'"
                ),
                "matches[0].method.method: \"1Pay\" is not a gRPC method; letters, digits and '_'",
            ],
            id="names that are none",
        ),
        pytest.param(
            "matches: [{method: {type: RegularExpression, method: '('}}]",
            [
                (
                    'matches[0].method.method: "(" is not a regular expression: '
                    "missing ), unterminated subpattern at position 0; "
                    "RE2 syntax, at most 500 bytes"
                )
            ],
            id="a broken expression",
        ),
        pytest.param(
            f"matches: [{{method: {{type: RegularExpression, service: '{'ä' * 251}'}}}}]",
            ["matches[0].method.service: 502 bytes are too many; RE2 syntax, at most 500 bytes"],
            id="an expression that is too long for the engine",
        ),
        pytest.param(
            "matches: [{path: {value: /}}], timeouts: {request: 1s}",
            [
                "matches[0].path: unknown key; one of method, headers",
                "timeouts: unknown key; one of name, matches, filters, backendRefs",
            ],
            id="what only HTTP has",
        ),
        pytest.param(
            "filters: [{type: URLRewrite}]",
            [
                (
                    'filters[0].type: "URLRewrite" is not known; '
                    "one of RequestHeaderModifier, ResponseHeaderModifier"
                )
            ],
            id="a filter that only HTTP has",
        ),
        pytest.param(
            "filters: [{type: ResponseHeaderModifier}]",
            [
                (
                    "filters[0].responseHeaderModifier: is required for type "
                    "ResponseHeaderModifier; responseHeaderModifier: …"
                )
            ],
            id="a filter without its body",
        ),
    ],
)
def test_a_wrong_rule(rule: str, expected: list[str], refusals: Refusals) -> None:
    assert refusals(_rule(rule)) == [f"spec.rules[0].{line}" for line in expected]
