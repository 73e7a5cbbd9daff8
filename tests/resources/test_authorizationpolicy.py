"""AuthorizationPolicy: patterns, identities and operations, in Istio's words."""

from collections.abc import Callable

import pytest

Refusals = Callable[[str], list[str]]


def _policy(spec: str) -> str:
    head = "apiVersion: tulle.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {name: a}"
    return f"{{{head}, spec: {spec}}}"


@pytest.mark.parametrize(
    "spec",
    [
        "{}",
        "{action: DENY, rules: [{}]}",
        (
            "{selector: {matchLabels: {app: cart}}, rules: [{from: [{source: {principals: "
            "[tulle.local/ns/shop/sa/web, 'tulle.local/*', '*/sa/web', '*']}}]}]}"
        ),
        (
            "{targetRefs: [{name: cart}], rules: [{to: [{operation: {methods: [GET, '*'], "
            "notMethods: [M-SEARCH], paths: [/a, '/a/*', '*.png', '*'], notPaths: [/b], "
            "ports: ['80'], notPorts: ['81']}}]}]}"
        ),
        (
            "{rules: [{from: [{source: {serviceAccounts: [web, shop/web], notPrincipals: ['*/x'], "
            "notNamespaces: [a], notServiceAccounts: [b]}}]}]}"
        ),
        "{rules: [{from: [{source: {namespaces: [shop, 'prod-*'], principals: ['*']}}]}]}",
    ],
)
def test_a_right_spec(spec: str, refusals: Refusals) -> None:
    assert refusals(_policy(spec)) == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            "{action: Allow}",
            'action: "Allow" is not known; one of ALLOW, DENY (did you mean "ALLOW"?)',
        ),
        (
            "{selector: {}, targetRefs: [{name: cart}]}",
            "targetRefs: does not go with selector; selector or targetRefs",
        ),
        (
            "{rules: [{when: []}]}",
            "rules[0].when: unknown key; one of from, to",
        ),
        (
            "{rules: [{from: [{}]}]}",
            "rules[0].from[0].source: is required",
        ),
        (
            "{rules: [{from: [{source: {}}]}]}",
            (
                "rules[0].from[0].source: names nobody; "
                "one of principals, namespaces, serviceAccounts, …"
            ),
        ),
        (
            "{rules: [{from: [{source: {principals: ['spiffe://td/ns/a/sa/b']}}]}]}",
            (
                'rules[0].from[0].source.principals[0]: "spiffe://td/ns/a/sa/b" has a scheme; '
                "<trust domain>/ns/<namespace>/sa/<service account>"
            ),
        ),
        (
            "{rules: [{from: [{source: {namespaces: ['a*b']}}]}]}",
            (
                'rules[0].from[0].source.namespaces[0]: "a*b" has a wildcard inside; '
                'an exact value, "begin*", "*end" or "*"'
            ),
        ),
        (
            "{rules: [{from: [{source: {namespaces: ['*a*']}}]}]}",
            (
                'rules[0].from[0].source.namespaces[0]: "*a*" has a wildcard inside; '
                'an exact value, "begin*", "*end" or "*"'
            ),
        ),
        (
            "{rules: [{from: [{source: {serviceAccounts: [a/b/c]}}]}]}",
            (
                'rules[0].from[0].source.serviceAccounts[0]: "a/b/c" is not a service account; '
                "<name>, or <namespace>/<name>, no wildcard"
            ),
        ),
        (
            "{rules: [{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}]}",
            (
                "rules[0].from[0].source.namespaces: does not go with serviceAccounts; "
                "namespaces or serviceAccounts"
            ),
        ),
        (
            "{rules: [{to: [{operation: {}}]}]}",
            "rules[0].to[0].operation: names nothing; one of methods, paths, ports, …",
        ),
        (
            "{rules: [{to: [{operation: {methods: [get]}}]}]}",
            (
                'rules[0].to[0].operation.methods[0]: "get" is not a method; '
                "upper-case letters, as in GET, or *"
            ),
        ),
        (
            "{rules: [{to: [{operation: {paths: [admin]}}]}]}",
            (
                'rules[0].to[0].operation.paths[0]: "admin" is not absolute; '
                "a pattern that starts with / or *"
            ),
        ),
        (
            "{rules: [{to: [{operation: {ports: [80]}}]}]}",
            "rules[0].to[0].operation.ports[0]: 80 is a number; a string",
        ),
        (
            "{rules: [{to: [{operation: {ports: [http]}}]}]}",
            'rules[0].to[0].operation.ports[0]: "http" is not a port; 1 to 65535, in quotes',
        ),
    ],
)
def test_a_wrong_spec(spec: str, expected: str, refusals: Refusals) -> None:
    assert refusals(_policy(spec)) == [f"spec.{expected}"]


def test_rules_have_a_bound(refusals: Refusals) -> None:
    def rules(count: int) -> str:
        return _policy(f"{{rules: [{', '.join(['{}'] * count)}]}}")

    assert refusals(rules(128)) == []
    assert refusals(rules(129)) == ["spec.rules: 129 are too many; at most 128"]
