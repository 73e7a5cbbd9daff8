"""Service (core v1): a name that is called, its ports, and the workloads behind it.

The whole Kubernetes field set is accepted, so that a manifest applies as it stands. The mesh
reads `ports` and `selector`; the rest concerns Kubernetes' own addresses.
"""

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from tulle.resources.model import Condition, LabelNamedMeta, LabelSelector, Model, Resource
from tulle.resources.values import (
    AppProtocol,
    Boolean,
    Integer,
    Labels,
    PortName,
    PortNumber,
    TargetPort,
)
from tulle.resources.violations import Problems

VIRTUAL_IPV4 = IPv4Network("240.240.0.0/16")
VIRTUAL_IPV6 = IPv6Network("fd74:756c:6c65::/112")
"""Where the control plane gives addresses from; the sidecars route them to themselves."""

PORTS_MAX = 64
"""A client holds one table per port; no real Service comes near."""

HEADLESS = "None"
"""The cluster IP of a Service that only names its workloads."""

Protocol = Literal["http", "http2", "grpc", "tcp", "auto"]
"""What is spoken on a port; auto: not declared, each connection shows it."""

_APP_PROTOCOLS: dict[str, Protocol] = {
    "http": "http",
    "kubernetes.io/ws": "http",
    "http2": "http2",
    "h2c": "http2",
    "kubernetes.io/h2c": "http2",
    "grpc": "grpc",
}
_NAME_PREFIXES: dict[str, Protocol] = {
    "http": "http",
    "http2": "http2",
    "h2c": "http2",
    "grpc": "grpc",
    "tcp": "tcp",
    "tls": "tcp",
    "https": "tcp",
    "redis": "tcp",
    "mysql": "tcp",
    "postgres": "tcp",
    "postgresql": "tcp",
    "mongo": "tcp",
    "mongodb": "tcp",
    "kafka": "tcp",
    "amqp": "tcp",
}


class ServicePort(Model):
    """One port that clients call."""

    name: PortName | None = None
    """Required if there are several ports. Its part before `-` may tell the protocol."""
    port: PortNumber
    """The number that clients call."""
    target_port: TargetPort | None = None
    """Number or name of the workload's port; the same number as `port` if not given."""
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    """The mesh carries TCP only."""
    app_protocol: AppProtocol | None = None
    """http, http2, kubernetes.io/h2c, grpc or tcp; anything else is carried as tcp."""
    node_port: Integer | None = None
    """Accepted from Kubernetes, ignored."""

    @property
    def spoken(self) -> Protocol:
        """What is spoken here: `appProtocol`, else the name up to `-`, else auto."""
        if self.app_protocol is not None:
            return _APP_PROTOCOLS.get(self.app_protocol.lower(), "tcp")
        prefix = (self.name or "").partition("-")[0]
        return _NAME_PREFIXES.get(prefix, "auto")


class ServiceSpec(Model):
    """Ports and selector, and Kubernetes' own fields."""

    ports: Annotated[tuple[ServicePort, ...], Field(max_length=PORTS_MAX)] = ()
    """What clients call. Number and protocol together are unique, and so are names."""
    selector: Labels | None = None
    """Labels of the workloads behind it; a Service without selector is only a name to route."""
    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    """ExternalName is accepted, and carried by nobody yet."""
    cluster_ip: Annotated[str | None, Field(alias="clusterIP")] = None
    """Stands for it where traffic is intercepted; not given: `status.addresses`; None: nothing."""
    cluster_ips: Annotated[tuple[str, ...], Field(alias="clusterIPs")] = ()
    """`clusterIP` and one of the other IP version."""
    external_ips: Annotated[tuple[str, ...], Field(alias="externalIPs")] = ()
    """Accepted from Kubernetes, ignored."""
    external_name: str | None = None
    """Accepted from Kubernetes, ignored."""
    external_traffic_policy: str | None = None
    """Accepted from Kubernetes, ignored."""
    internal_traffic_policy: str | None = None
    """Accepted from Kubernetes, ignored."""
    traffic_distribution: str | None = None
    """Accepted from Kubernetes, ignored."""
    session_affinity: str | None = None
    """Accepted from Kubernetes, ignored."""
    session_affinity_config: dict[str, JsonValue] | None = None
    """Accepted from Kubernetes, ignored."""
    load_balancer_ip: Annotated[str | None, Field(alias="loadBalancerIP")] = None
    """Accepted from Kubernetes, ignored."""
    load_balancer_class: str | None = None
    """Accepted from Kubernetes, ignored."""
    load_balancer_source_ranges: tuple[str, ...] = ()
    """Accepted from Kubernetes, ignored."""
    allocate_load_balancer_node_ports: Boolean | None = None
    """Accepted from Kubernetes, ignored."""
    health_check_node_port: Integer | None = None
    """Accepted from Kubernetes, ignored."""
    publish_not_ready_addresses: Boolean | None = None
    """Accepted from Kubernetes, ignored."""
    ip_families: tuple[str, ...] = ()
    """Accepted from Kubernetes, ignored."""
    ip_family_policy: str | None = None
    """Accepted from Kubernetes, ignored."""

    @model_validator(mode="after")
    def _ports_are_distinct(self) -> "ServiceSpec":
        problems = Problems()
        numbers: set[tuple[int, str]] = set()
        names: set[str] = set()
        for index, port in enumerate(self.ports):
            here = ("ports", index)
            if (port.port, port.protocol) in numbers:
                problems.add((*here, "port"), f"{port.port} is used twice", "each number once")
            numbers.add((port.port, port.protocol))
            if port.name is None:
                if len(self.ports) > 1:
                    problems.add((*here, "name"), "is required", "a name for each of several ports")
                continue
            if port.name in names:
                problems.add((*here, "name"), f'"{port.name}" is used twice', "each name once")
            names.add(port.name)
        for field, address in self._asked_addresses():
            if (problem := _address_problem(address)) is not None:
                problems.add(field, *problem)
        if not self.ports and self.type != "ExternalName":
            problems.add(("ports",), "is empty", "at least one port")
        problems.raise_any()
        return self

    @property
    def is_headless(self) -> bool:
        """Whether no address is to stand for it."""
        return HEADLESS in (self.cluster_ip, *self.cluster_ips)

    def _asked_addresses(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.cluster_ip:
            yield ("clusterIP",), self.cluster_ip
        for index, address in enumerate(self.cluster_ips):
            yield ("clusterIPs", index), address


def _address_problem(address: str) -> tuple[str, str] | None:
    """Return what is wrong with a cluster IP, and what is allowed."""
    if address == HEADLESS:
        return None
    allowed = 'an IP address, "None" or nothing'
    try:
        parsed = ip_address(address)
    except ValueError:
        return f'"{address}" is no address', allowed
    if parsed in (VIRTUAL_IPV4 if parsed.version == 4 else VIRTUAL_IPV6):
        return f"{address} is of the range that the mesh gives addresses from", allowed
    return None


class ServiceStatus(Model):
    """As Kubernetes reports it, and the addresses that the mesh gave."""

    load_balancer: dict[str, JsonValue] = Field(default_factory=dict)
    """Accepted from Kubernetes, ignored."""
    conditions: tuple[Condition, ...] = ()
    """Accepted from Kubernetes, ignored."""
    addresses: tuple[str, ...] = ()
    """IPv4 and IPv6 address that stand for it where traffic is intercepted; given once, kept."""


class Service(Resource):
    """A name that is called, its ports, and the workloads behind it."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Service"] = "Service"
    metadata: LabelNamedMeta
    """Its name is what callers use: `cart`, `cart.shop`."""
    spec: ServiceSpec
    """What is called and who answers."""
    status: ServiceStatus | None = None
    """As Kubernetes reports it, and the addresses that the mesh gave."""

    def port(self, number: int) -> ServicePort | None:
        """Return the TCP port that clients call by *number*, or None."""
        for port in self.spec.ports:
            if port.port == number and port.protocol == "TCP":
                return port
        return None

    @property
    def selector(self) -> LabelSelector | None:
        """What its workloads are selected by; None selects nothing."""
        return LabelSelector(match_labels=self.spec.selector) if self.spec.selector else None
