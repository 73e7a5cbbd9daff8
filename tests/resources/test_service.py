"""Service: a real manifest applies, and each mistake is told."""

from collections.abc import Callable

import pytest

from tulle.resources.parse import parse_text
from tulle.resources.service import Service, ServicePort

HEAD = "{apiVersion: v1, kind: Service, metadata: {name: cart}, "

FROM_A_CLUSTER = """
apiVersion: v1
kind: Service
metadata:
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
  creationTimestamp: "2025-01-01T00:00:00Z"
  labels: {app: cart}
  managedFields: [{manager: kubectl, operation: Update, fieldsV1: {f:spec: {}}}]
  name: cart
  namespace: shop
  resourceVersion: "812"
  uid: 0b0b2a5e-9c66-4f5c-a4d5-ba6a8f2f9a4d
spec:
  allocateLoadBalancerNodePorts: true
  clusterIP: 10.0.0.7
  clusterIPs: [10.0.0.7]
  externalTrafficPolicy: Cluster
  internalTrafficPolicy: Cluster
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  ports:
  - {appProtocol: kubernetes.io/h2c, name: grpc, nodePort: 30080, port: 80, protocol: TCP, targetPort: web}
  - {name: dns, port: 53, protocol: UDP, targetPort: 53}
  selector: {app: cart}
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}
  type: LoadBalancer
status:
  loadBalancer: {ingress: [{ip: 192.0.2.1}]}
"""


def test_a_service_from_a_cluster_applies_as_it_stands() -> None:
    (parsed,) = parse_text(FROM_A_CLUSTER)

    assert isinstance(parsed.resource, Service)
    port = parsed.resource.port(80)
    assert port is not None
    assert (port.target_port, port.spoken) == ("web", "http2")
    assert parsed.resource.port(53) is None, "the mesh carries no UDP"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param("spec: {ports: [{port: 80}]}", [], id="the least"),
        pytest.param("spec: {}", ["spec.ports: is empty; at least one port"], id="no port"),
        pytest.param("", ["spec: is required"], id="no spec"),
        pytest.param(
            "spec: {type: ExternalName, externalName: example.com}", [], id="external name"
        ),
        pytest.param(
            "spec: {ports: [{port: 0}, {port: 65536}, {port: '80'}, {port: true}, {}]}",
            [
                "spec.ports[0].port: 0 is out of range; 1 to 65535",
                "spec.ports[1].port: 65536 is out of range; 1 to 65535",
                'spec.ports[2].port: "80" is a string; a whole number',
                "spec.ports[3].port: true is a boolean; a whole number",
                "spec.ports[4].port: is required",
            ],
            id="port numbers",
        ),
        pytest.param(
            "spec: {ports: [{port: 80, name: a}, {port: 80, name: a}, {port: 81}]}",
            [
                "spec.ports[1].port: 80 is used twice; each number once",
                'spec.ports[1].name: "a" is used twice; each name once',
                "spec.ports[2].name: is required; a name for each of several ports",
            ],
            id="ports that clash",
        ),
        pytest.param(
            "spec: {ports: [{port: 53, name: a}, {port: 53, name: b, protocol: UDP}]}",
            [],
            id="one number in two protocols",
        ),
        pytest.param(
            "spec: {ports: [{port: 1, targetPort: 0}, {port: 2, targetPort: Web}, "
            "{port: 3, targetPort: true}]}",
            [
                "spec.ports[0].targetPort: 0 is out of range; 1 to 65535",
                (
                    'spec.ports[1].targetPort: "Web" is not allowed; '
                    "a port number, or the name of a workload's port"
                ),
                (
                    "spec.ports[2].targetPort: must be a port number or a port name; "
                    "1 to 65535, or a name"
                ),
            ],
            id="target ports",
        ),
        pytest.param(
            "spec: {ports: [{port: 1, protocol: tcp, appprotocol: http}]}",
            [
                (
                    'spec.ports[0].protocol: "tcp" is not known; '
                    'one of TCP, UDP, SCTP (did you mean "TCP"?)'
                ),
                'spec.ports[0].appprotocol: unknown key; did you mean "appProtocol"?',
            ],
            id="near misses",
        ),
        pytest.param(
            "spec: {ports: [{port: 1}], selector: {app: 7, 'a b': c}}",
            [
                "spec.selector.app: 7 is a number; a string",
                (
                    'spec.selector["a b"]: "a b" is not allowed; '
                    "[prefix/]name of letters, digits, '-', '_' and '.'"
                ),
            ],
            id="selector",
        ),
        pytest.param(
            "spec: {ports: [{port: 1}], clusterIP: none, clusterIPs: [240.240.0.1]}",
            [
                'spec.clusterIP: "none" is no address; an IP address, "None" or nothing',
                (
                    "spec.clusterIPs[0]: 240.240.0.1 is of the range that the mesh gives "
                    'addresses from; an IP address, "None" or nothing'
                ),
            ],
            id="cluster IPs",
        ),
        pytest.param(
            "spec: {ports: {port: 1}, cluster_ip: 10.0.0.1}",
            [
                "spec.ports: a mapping is not allowed; a list",
                'spec.cluster_ip: unknown key; did you mean "clusterIP"?',
            ],
            id="snake case is no way round",
        ),
    ],
)
def test_a_wrong_spec(spec: str, expected: list[str], refusals: Callable[[str], list[str]]) -> None:
    assert refusals(HEAD + spec + "}") == expected


@pytest.mark.parametrize("name", ["a.b", "A", "-a", "a" * 64, ""])
def test_the_name_is_a_dns_label(name: str, refusals: Callable[[str], list[str]]) -> None:
    text = f"{{apiVersion: v1, kind: Service, metadata: {{name: '{name}'}}, spec: {{ports: [{{port: 1}}]}}}}"

    (violation,) = refusals(text)

    assert violation.startswith("metadata.name: ")


def test_sixty_four_ports_are_the_bound(refusals: Callable[[str], list[str]]) -> None:
    def service(count: int) -> str:
        ports = ", ".join(f"{{port: {n}, name: p{n}}}" for n in range(1, count + 1))
        return f"{HEAD}spec: {{ports: [{ports}]}}}}"

    assert refusals(service(64)) == []
    assert refusals(service(65)) == ["spec.ports: 65 are too many; at most 64"]


@pytest.mark.parametrize(
    ("name", "app_protocol", "spoken"),
    [
        (None, None, "auto"),
        ("web", None, "auto"),
        ("http", None, "http"),
        ("http-alt", None, "http"),
        ("http2-x", None, "http2"),
        ("grpc", None, "grpc"),
        ("grpc-web", None, "grpc"),
        ("tcp-redis", None, "tcp"),
        ("redis", None, "tcp"),
        ("https", None, "tcp"),
        ("grpc", "http", "http"),
        ("http", "kubernetes.io/h2c", "http2"),
        (None, "kubernetes.io/ws", "http"),
        (None, "kubernetes.io/wss", "tcp"),
        (None, "GRPC", "grpc"),
        (None, "example.com/own", "tcp"),
    ],
)
def test_the_protocol_is_declared_or_named(
    name: str | None, app_protocol: str | None, spoken: str
) -> None:
    assert ServicePort(name=name, port=80, app_protocol=app_protocol).spoken == spoken
