"""Workload (tulle.dev/v1alpha1): one running instance beside its sidecar.

Its sidecar registers it when it joins; nobody has to write one by hand.
"""

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from tulle.resources.model import Model, Resource
from tulle.resources.service import Protocol
from tulle.resources.values import (
    Boolean,
    DnsSubdomain,
    LabelValue,
    PortName,
    PortNumber,
    wrong,
)
from tulle.resources.violations import Problems

PORTS_MAX = 64


def _address(value: str) -> str:
    try:
        ip_address(value)
    except ValueError as error:
        raise wrong(f'"{value}" is not an IP address', "an IPv4 or IPv6 address") from error
    return value


Address = Annotated[str, AfterValidator(_address)]


class WorkloadPort(Model):
    """One port the app serves, and where its sidecar accepts traffic for it."""

    name: PortName | None = None
    """What a Service's `targetPort` may call it."""
    port: PortNumber
    """The port the app serves."""
    protocol: Protocol = "http"
    """What the app speaks there."""
    listen: PortNumber
    """The sidecar's port for it: mutual TLS from other sidecars."""


class WorkloadSpec(Model):
    """Who it is and where it is reached."""

    service_account: DnsSubdomain = "default"
    """Part of its identity: spiffe://<trust domain>/ns/<namespace>/sa/<service account>."""
    address: Address
    """Where other sidecars reach its sidecar."""
    ports: Annotated[tuple[WorkloadPort, ...], Field(max_length=PORTS_MAX)] = ()
    """What it serves; numbers and names are unique."""
    zone: LabelValue | None = None
    """Where it runs; near endpoints may be preferred."""

    @model_validator(mode="after")
    def _ports_are_distinct(self) -> "WorkloadSpec":
        problems = Problems()
        seen: dict[tuple[str, int | str], int] = {}
        for index, port in enumerate(self.ports):
            for field, value in (("port", port.port), ("listen", port.listen), ("name", port.name)):
                if value is None:
                    continue
                if seen.setdefault((field, value), index) != index:
                    problems.add(("ports", index, field), f'"{value}" is used twice', "each once")
        problems.raise_any()
        return self


class WorkloadStatus(Model):
    """What the control plane knows of it now."""

    ready: Boolean = False
    """Its probe succeeds."""
    draining: Boolean = False
    """It finishes what it has and takes no more."""
    connected: Boolean = False
    """Its sidecar holds a stream to the control plane."""
    since: str | None = None
    """When this last changed: RFC 3339, in UTC."""


class Workload(Resource):
    """One running instance beside its sidecar."""

    api_version: Literal["tulle.dev/v1alpha1"] = "tulle.dev/v1alpha1"
    kind: Literal["Workload"] = "Workload"
    spec: WorkloadSpec
    """Who it is and where it is reached."""
    status: WorkloadStatus | None = None
    """What the control plane knows of it now."""
