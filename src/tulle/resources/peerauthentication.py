"""PeerAuthentication (tulle.dev/v1alpha1): whether a workload's sidecar insists on mutual TLS."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from tulle.resources.model import LabelSelector, Model, Resource
from tulle.resources.policy import PolicyStatus
from tulle.resources.values import wrong

PORTS_MAX: Final = 64


class MutualTls(Model):
    """How callers must come."""

    mode: Literal["STRICT", "PERMISSIVE", "DISABLE"] = "STRICT"
    """STRICT: mutual TLS only. PERMISSIVE: plaintext too. DISABLE: plaintext only."""


def _port(value: str) -> str:
    if not (value.isascii() and value.isdigit() and 1 <= int(value[:6]) <= 65535):
        raise wrong(f'"{value}" is not a port', "1 to 65535, in quotes")
    return value


class PeerAuthenticationSpec(Model):
    """For which workloads, and how callers must come."""

    selector: LabelSelector | None = None
    """Workloads in the policy's namespace; all of them if not given."""
    mtls: MutualTls = Field(default_factory=MutualTls)
    """For every port that is not named below."""
    port_level_mtls: Annotated[
        dict[Annotated[str, AfterValidator(_port)], MutualTls], Field(max_length=PORTS_MAX)
    ] = Field(default_factory=dict)
    """By the number of the workload's port. Needs a selector.

    Sidecars call a workload in plaintext when all ports that a Service leads to are DISABLE: give
    such a port a Service of its own.
    """


class PeerAuthentication(Resource):
    """Whether a workload's sidecar insists on mutual TLS.

    A policy with a selector comes before one without; of two alike the older one.
    """

    api_version: Literal["tulle.dev/v1alpha1"] = "tulle.dev/v1alpha1"
    kind: Literal["PeerAuthentication"] = "PeerAuthentication"
    spec: PeerAuthenticationSpec = Field(default_factory=PeerAuthenticationSpec)
    """For which workloads, and how callers must come."""
    status: PolicyStatus | None = None
    """Accepted."""
