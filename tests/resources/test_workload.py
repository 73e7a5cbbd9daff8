"""Workload: where a sidecar is reached, and what it takes traffic for."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param("{address: 127.0.0.1}", [], id="the least"),
        pytest.param(
            "{address: '::1', serviceAccount: web, zone: eu-1, "
            "ports: [{name: web, port: 8080, protocol: grpc, listen: 41234}]}",
            [],
            id="everything",
        ),
        pytest.param("{}", ["spec.address: is required"], id="no address"),
        pytest.param(
            "{address: localhost, serviceAccount: Web, zone: '-'}",
            [
                'spec.address: "localhost" is not an IP address; an IPv4 or IPv6 address',
                (
                    "spec.serviceAccount: \"Web\" is not allowed; lower-case letters, digits, '-' and "
                    "'.', starting and ending with a letter or digit"
                ),
                (
                    "spec.zone: \"-\" is not allowed; empty, or letters, digits, '-', '_' and '.', "
                    "starting and ending with a letter or digit"
                ),
            ],
            id="every field wrong",
        ),
        pytest.param(
            "{address: 10.0.0.1, ports: [{port: 80, listen: 1}, {port: 80, listen: 1}]}",
            [
                'spec.ports[1].port: "80" is used twice; each once',
                'spec.ports[1].listen: "1" is used twice; each once',
            ],
            id="ports that clash",
        ),
        pytest.param(
            "{address: 10.0.0.1, ports: [{port: 80, protocol: udp}]}",
            [
                "spec.ports[0].listen: is required",
                'spec.ports[0].protocol: "udp" is not known; one of http, http2, grpc, tcp, auto',
            ],
            id="a port without listen",
        ),
    ],
)
def test_a_wrong_spec(spec: str, expected: list[str], refusals: Callable[[str], list[str]]) -> None:
    text = (
        f"{{apiVersion: tulle.dev/v1alpha1, kind: Workload, metadata: {{name: a}}, spec: {spec}}}"
    )

    assert sorted(refusals(text)) == sorted(expected)
