"""PeerAuthentication: modes, for all ports and by port."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{}", []),
        (
            (
                "{selector: {matchLabels: {app: cart}}, mtls: {mode: PERMISSIVE}, "
                "portLevelMtls: {8080: {mode: DISABLE}, '65535': {}}}"
            ),
            [],
        ),
        (
            "{mtls: {mode: strict}}",
            [
                (
                    'spec.mtls.mode: "strict" is not known; '
                    'one of STRICT, PERMISSIVE, DISABLE (did you mean "STRICT"?)'
                )
            ],
        ),
        (
            "{portLevelMtls: {http: {}, 0: {}, 99999: {}, 80: {mode: OFF}}}",
            [
                'spec.portLevelMtls.http: "http" is not a port; 1 to 65535, in quotes',
                'spec.portLevelMtls.0: "0" is not a port; 1 to 65535, in quotes',
                'spec.portLevelMtls.99999: "99999" is not a port; 1 to 65535, in quotes',
                (
                    'spec.portLevelMtls.80.mode: "OFF" is not known; '
                    "one of STRICT, PERMISSIVE, DISABLE"
                ),
            ],
        ),
        (
            "{selector: {app: cart}}",
            ["spec.selector.app: unknown key; one of matchLabels"],
        ),
    ],
)
def test_a_spec(spec: str, expected: list[str], refusals: Callable[[str], list[str]]) -> None:
    head = "apiVersion: tulle.dev/v1alpha1, kind: PeerAuthentication, metadata: {name: a}"

    assert refusals(f"{{{head}, spec: {spec}}}") == expected


def test_a_policy_without_spec_is_strict_for_all(refusals: Callable[[str], list[str]]) -> None:
    head = "apiVersion: tulle.dev/v1alpha1, kind: PeerAuthentication, metadata: {name: a}"

    assert refusals(f"{{{head}}}") == []
