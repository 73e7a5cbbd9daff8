"""The resource kinds as the command line knows them, without importing the models.

A test holds this table equal to the registry of `tulle.resources`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tulle.cli.exits import CommandError, ExitCode, did_you_mean

GATEWAY = "gateway.networking.k8s.io"
TULLE = "tulle.dev"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: its names in YAML, in a URL and on the command line."""

    name: str
    group: str
    """Empty for the core group."""
    version: str
    plural: str
    short: tuple[str, ...]
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """`apiVersion` as written in YAML."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """Return the URL path of all objects, of a namespace's, or of one."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace is not None and self.namespaced:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name is not None:
            parts.append(name)
        return "/".join(parts)


NAMESPACE = Kind("Namespace", "", "v1", "namespaces", ("ns",), namespaced=False)
SERVICE = Kind("Service", "", "v1", "services", ("svc",))
WORKLOAD = Kind("Workload", TULLE, "v1alpha1", "workloads", ("wl",))
HTTP_ROUTE = Kind("HTTPRoute", GATEWAY, "v1", "httproutes", ())
GRPC_ROUTE = Kind("GRPCRoute", GATEWAY, "v1", "grpcroutes", ())
TLS_ROUTE = Kind("TLSRoute", GATEWAY, "v1", "tlsroutes", ())
TCP_ROUTE = Kind("TCPRoute", GATEWAY, "v1", "tcproutes", ())
TRAFFIC_POLICY = Kind("BackendTrafficPolicy", TULLE, "v1alpha1", "backendtrafficpolicies", ("btp",))
PEER_AUTHENTICATION = Kind("PeerAuthentication", TULLE, "v1alpha1", "peerauthentications", ("pa",))
AUTHORIZATION = Kind("AuthorizationPolicy", TULLE, "v1alpha1", "authorizationpolicies", ("ap",))
ROUTES = (HTTP_ROUTE, GRPC_ROUTE, TLS_ROUTE, TCP_ROUTE)
POLICIES = (TRAFFIC_POLICY, PEER_AUTHENTICATION, AUTHORIZATION)
KINDS = (NAMESPACE, SERVICE, WORKLOAD, *ROUTES, *POLICIES)
GROUPS: dict[str, tuple[Kind, ...]] = {
    "all": KINDS,
    "route": ROUTES,
    "routes": ROUTES,
    "policy": POLICIES,
    "policies": POLICIES,
}

BY_WORD: dict[str, Kind] = {
    word: kind for kind in KINDS for word in (kind.name.lower(), kind.plural, *kind.short)
}
BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}


def find_kinds(words: str) -> list[Kind]:
    """Return the kinds that *words* (comma separated) name: singular, plural, short or group."""
    found: list[Kind] = []
    for word in words.lower().split(","):
        if word in GROUPS:
            found.extend(GROUPS[word])
        elif word in BY_WORD:
            found.append(BY_WORD[word])
        else:
            raise CommandError(
                f'unknown kind "{word}"',
                code=ExitCode.USAGE,
                hint=did_you_mean(word, [*BY_WORD, *GROUPS])
                or "known kinds are " + ", ".join(kind.plural for kind in KINDS),
            )
    return list(dict.fromkeys(found))


def label(resource: dict[str, Any]) -> str:
    """Return `httproute/shop/cart`, the way commands name *resource*."""
    metadata = resource["metadata"]
    return name_of(resource["kind"], metadata.get("namespace"), metadata["name"])


def name_of(kind: str, namespace: str | None, name: str) -> str:
    """Return `httproute/shop/cart`, or `namespace/shop` for what is in no namespace."""
    return "/".join(part for part in (kind.lower(), namespace, name) if part)
