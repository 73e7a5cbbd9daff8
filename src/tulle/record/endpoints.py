"""Where a service can be reached right now."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One ready workload of the service.

    `ports` pairs a port of the service with the port its sidecar listens on.
    """

    workload: str
    address: str
    ports: tuple[tuple[int, int], ...]
    identity: str
    labels: dict[str, str]
    zone: str | None
    tls: bool


@dataclass(frozen=True, slots=True)
class EndpointsRecord:
    """The endpoints of one service, sorted by workload."""

    namespace: str
    name: str
    endpoints: tuple[Endpoint, ...]
    kind: Literal["endpoints"] = "endpoints"
