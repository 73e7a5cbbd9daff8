"""TLSRoute: server names, and one rule."""

from collections.abc import Callable

import pytest

BACKEND = "{backendRefs: [{name: web, port: 443}]}"
NAMES = "hostnames: [a.example]"


def _route(spec: str, version: str = "v1") -> str:
    head = f"apiVersion: gateway.networking.k8s.io/{version}, kind: TLSRoute, metadata: {{name: a}}"
    return f"{{{head}, spec: {spec}}}"


@pytest.mark.parametrize("version", ["v1", "v1alpha3", "v1alpha2"])
def test_all_versions_are_accepted(version: str, refusals: Callable[[str], list[str]]) -> None:
    parent = "parentRefs: [{group: '', kind: Service, name: web}]"

    assert refusals(_route(f"{{{parent}, {NAMES}, rules: [{BACKEND}]}}", version)) == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}", ["spec.hostnames: is required", "spec.rules: is required"]),
        (f"{{hostnames: [], rules: [{BACKEND}]}}", ["spec.hostnames: 0 are too few; at least 1"]),
        (f"{{{NAMES}, rules: []}}", ["spec.rules: 0 are too few; at least 1"]),
        (f"{{{NAMES}, rules: [{BACKEND}, {BACKEND}]}}", ["spec.rules: 2 are too many; at most 1"]),
        (
            f"{{hostnames: ['*', 'a.*.example'], rules: [{BACKEND}]}}",
            [
                f'spec.hostnames[{index}]: "{name}" is not allowed; '
                "a host name, or *. followed by one; no port, no IP address"
                for index, name in enumerate(("*", "a.*.example"))
            ],
        ),
    ],
)
def test_a_wrong_spec(spec: str, expected: list[str], refusals: Callable[[str], list[str]]) -> None:
    assert refusals(_route(spec)) == expected
