"""TCPRoute: one rule, by weight."""

from collections.abc import Callable

import pytest

BACKEND = "{backendRefs: [{name: redis, port: 6379}]}"


def _route(spec: str, version: str = "v1") -> str:
    head = f"apiVersion: gateway.networking.k8s.io/{version}, kind: TCPRoute, metadata: {{name: a}}"
    return f"{{{head}, spec: {spec}}}"


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
def test_both_versions_are_accepted(version: str, refusals: Callable[[str], list[str]]) -> None:
    parent = "parentRefs: [{group: '', kind: Service, name: redis}]"

    assert refusals(_route(f"{{{parent}, rules: [{BACKEND}]}}", version)) == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}", ["spec.rules: is required"]),
        ("{rules: []}", ["spec.rules: 0 are too few; at least 1"]),
        (f"{{rules: [{BACKEND}, {BACKEND}]}}", ["spec.rules: 2 are too many; at most 1"]),
        ("{rules: [{}]}", ["spec.rules[0].backendRefs: is required"]),
        (
            "{rules: [{backendRefs: []}]}",
            ["spec.rules[0].backendRefs: 0 are too few; at least 1"],
        ),
        (
            "{rules: [{matches: [], backendRefs: [{name: redis, port: 6379, filters: []}]}]}",
            [
                "spec.rules[0].matches: unknown key; one of name, backendRefs",
                (
                    "spec.rules[0].backendRefs[0].filters: unknown key; "
                    "one of group, kind, namespace, name, port, weight"
                ),
            ],
        ),
    ],
)
def test_a_wrong_spec(spec: str, expected: list[str], refusals: Callable[[str], list[str]]) -> None:
    assert refusals(_route(spec)) == expected
