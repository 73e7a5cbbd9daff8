"""The catalogue of kinds: group, versions, names and model of each, in one table."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tulle.resources.authorizationpolicy import AuthorizationPolicy
from tulle.resources.backendtrafficpolicy import BackendTrafficPolicy
from tulle.resources.grpcroute import GRPCRoute
from tulle.resources.httproute import HTTPRoute
from tulle.resources.model import Resource
from tulle.resources.namespace import Namespace
from tulle.resources.peerauthentication import PeerAuthentication
from tulle.resources.route import GATEWAY_GROUP, TULLE_GROUP
from tulle.resources.service import Service
from tulle.resources.tcproute import TCPRoute
from tulle.resources.tlsroute import TLSRoute
from tulle.resources.workload import Workload


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of resource."""

    group: str
    """"" for core."""
    versions: tuple[str, ...]
    """Those accepted, the preferred one first."""
    name: str
    plural: str
    """In URLs, lower case."""
    short_names: tuple[str, ...]
    """What the command line takes besides kind and plural."""
    namespaced: bool
    model: type[Resource]

    @property
    def api_versions(self) -> tuple[str, ...]:
        """What `apiVersion` may be."""
        return tuple(f"{self.group}/{v}" if self.group else v for v in self.versions)


_KINDS = (
    Kind("", ("v1",), "Namespace", "namespaces", ("ns",), False, Namespace),
    Kind("", ("v1",), "Service", "services", ("svc",), True, Service),
    Kind(TULLE_GROUP, ("v1alpha1",), "Workload", "workloads", ("wl",), True, Workload),
    Kind(GATEWAY_GROUP, ("v1",), "HTTPRoute", "httproutes", (), True, HTTPRoute),
    Kind(GATEWAY_GROUP, ("v1",), "GRPCRoute", "grpcroutes", (), True, GRPCRoute),
    Kind(
        GATEWAY_GROUP,
        ("v1", "v1alpha3", "v1alpha2"),
        "TLSRoute",
        "tlsroutes",
        (),
        True,
        TLSRoute,
    ),
    Kind(GATEWAY_GROUP, ("v1", "v1alpha2"), "TCPRoute", "tcproutes", (), True, TCPRoute),
    Kind(
        TULLE_GROUP,
        ("v1alpha1",),
        "BackendTrafficPolicy",
        "backendtrafficpolicies",
        ("btp",),
        True,
        BackendTrafficPolicy,
    ),
    Kind(
        TULLE_GROUP,
        ("v1alpha1",),
        "PeerAuthentication",
        "peerauthentications",
        ("pa",),
        True,
        PeerAuthentication,
    ),
    Kind(
        TULLE_GROUP,
        ("v1alpha1",),
        "AuthorizationPolicy",
        "authorizationpolicies",
        ("ap",),
        True,
        AuthorizationPolicy,
    ),
)

KINDS: Final[Mapping[str, Kind]] = MappingProxyType({kind.name: kind for kind in _KINDS})
"""Every kind by its name, in the order in which they are best applied."""


def find_kind(word: str) -> Kind | None:
    """Return the kind that a user calls *word*: kind, singular, plural or short name, any case."""
    lower = word.lower()
    for kind in _KINDS:
        if lower in (kind.name.lower(), kind.plural, *kind.short_names):
            return kind
    return None


def find_plural(group: str, version: str, plural: str) -> Kind | None:
    """Return the kind that an API path names."""
    for kind in _KINDS:
        if (kind.group, kind.plural) == (group, plural) and version in kind.versions:
            return kind
    return None
