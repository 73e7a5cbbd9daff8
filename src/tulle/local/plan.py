"""From an app of the project to what one replica of it needs: sidecar settings, environment.

No process is started here and no clock is read: the same input gives the same plan.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tulle.local.paths import Home
from tulle.local.project import Project, Protocol, Target, providers

DRAIN_SECONDS = 5
"""On one machine requests are short; a longer drain only delays Ctrl-C."""

NO_PROXY = "localhost,127.0.0.1,::1"
"""What an app calls on loopback is its own; names go through the mesh."""

SERVICE_PORT = 80


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a service as its Service resource has it."""

    number: int
    target: int


@dataclass(frozen=True, slots=True)
class Outbound:
    """A local address that stands for a service."""

    namespace: str
    service: str
    port: int


@dataclass(frozen=True, slots=True)
class Replica:
    """One started copy of an app, with its place in the mesh."""

    app: str
    name: str
    namespace: str
    service: str | None
    service_account: str
    labels: Mapping[str, str]
    protocol: Protocol
    proxy_protocol: bool
    workload_port: int | None
    """The port as the mesh knows it: the Service's target; None for an app that only calls."""
    app_port: int | None
    """The port that the program listens on."""
    outbound: tuple[Outbound, ...]
    probe_path: str | None
    """GET on it tells readiness; None for a TCP connection."""

    @property
    def mesh_name(self) -> str | None:
        """`shop/cart` for a replica of a service."""
        return f"{self.namespace}/{self.service}" if self.service else None


def plan_replica(
    project: Project,
    app: str,
    number: str,
    app_port: int | None,
    services: Mapping[tuple[str, str], tuple[ServicePort, ...]],
) -> Replica:
    """Return the plan of replica *number* of *app*: `1`, `2`, … or what tells two runs apart.

    *services* are the Services that the user wrote, by namespace and name.
    """
    wanted = project.manifest.apps[app]
    namespace, service = project.namespace(app), project.service(app)
    labels = {"app": service, **wanted.labels} if service else dict(wanted.labels)
    return Replica(
        app=app,
        name=f"{app}-{number}",
        namespace=namespace,
        service=service,
        service_account=wanted.service_account or service or app,
        labels=labels,
        protocol=wanted.protocol,
        proxy_protocol=wanted.proxy_protocol,
        workload_port=workload_port(project, app, services) if service else None,
        app_port=app_port if service else None,
        outbound=tuple(
            find_outbound(project, dependency.target(namespace), services)
            for dependency in wanted.depends_on
        ),
        probe_path=wanted.readiness.http,
    )


def workload_port(
    project: Project,
    app: str,
    services: Mapping[tuple[str, str], tuple[ServicePort, ...]],
) -> int:
    """Return the port that the mesh knows *app*'s workloads by."""
    wanted, service = project.manifest.apps[app], project.service(app)
    written = services.get((project.namespace(app), service or ""))
    if written:
        return written[0].target
    return wanted.port or wanted.service_port


def find_outbound(
    project: Project,
    target: Target,
    services: Mapping[tuple[str, str], tuple[ServicePort, ...]],
) -> Outbound:
    """Return the service and port that *target* means: as written, as declared, or 80."""
    port = target.port
    if port is None and (written := services.get((target.namespace, target.service))):
        port = written[0].number
    if port is None and (apps := providers(project, target)):
        port = project.manifest.apps[apps[0]].service_port
    return Outbound(target.namespace, target.service, port or SERVICE_PORT)


def sidecar_settings(
    replica: Replica, home: Home, hub: str, listen: Mapping[str, int], mesh: Mapping[str, str]
) -> dict[str, Any]:
    """Return the settings file of the sidecar beside *replica*.

    *listen* gives the port of each listener: `inbound`, `proxy`, `admin` and `outbound/<index>`;
    *mesh* the trust domain and what goes to the access log.
    """
    inbound = []
    probe: dict[str, Any] | None = None
    if replica.workload_port is not None:
        inbound.append(
            {
                "port": replica.workload_port,
                "protocol": replica.protocol,
                "listen": _loopback(listen["inbound"]),
                "app": _loopback(replica.app_port or replica.workload_port),
                "proxy_protocol": replica.proxy_protocol,
            }
        )
        probe = {"kind": "tcp"}
        if replica.probe_path:
            probe = {"kind": "http", "port": replica.workload_port, "path": replica.probe_path}
    state_dir = home.sidecar(replica.name)
    return {
        "workload": {
            "namespace": replica.namespace,
            "name": replica.name,
            "service_account": replica.service_account,
            "labels": dict(replica.labels),
            "zone": None,
        },
        "trust_domain": mesh["trust_domain"],
        "inbound": inbound,
        "outbound": [
            {
                "service": f"{one.namespace}/{one.service}",
                "port": one.port,
                "listen": _loopback(listen[f"outbound/{index}"]),
            }
            for index, one in enumerate(replica.outbound)
        ],
        "proxy_listen": _loopback(listen["proxy"]),
        "admin_listen": _loopback(listen["admin"]),
        "control": hub,
        "state_dir": str(state_dir),
        "probe": probe,
        "workers": 1,
        "access_log": mesh["access_log"],
        "access_log_path": str(access_log(home, replica.name)),
        "drain_seconds": DRAIN_SECONDS,
        "reason_header": True,
        "roots_pem_path": str(home.roots),
    }


def access_log(home: Home, replica: str) -> Path:
    """Return the file of *replica*'s access log; JSON lines, unlike the other logs."""
    return home.logs / f"{replica}.access.json"


def app_environment(
    replica: Replica, addresses: Mapping[str, Any], inherited: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment of the program: *inherited*, its port, and the way into the mesh.

    *addresses* are the listeners of its sidecar as the engine tells them.
    """
    environment = {
        **inherited,
        "TULLE_APP": replica.app,
        "TULLE_REPLICA": replica.name,
        "TULLE_NAMESPACE": replica.namespace,
    }
    if replica.app_port is not None:
        environment["PORT"] = str(replica.app_port)
    for name in ("HTTP_PROXY", "http_proxy"):
        environment[name] = f"http://{addresses['proxy']}"
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = NO_PROXY
    for one, listener in zip(replica.outbound, addresses["outbound"], strict=True):
        name = variable_name(one.service)
        environment[f"TULLE_{name}_ADDR"] = listener["listen"]
        environment[f"TULLE_{name}_URL"] = f"http://{listener['listen']}"
    return environment


def variable_name(service: str) -> str:
    """Return `PRICE_LIST` for the service `price-list`."""
    return service.upper().replace("-", "_")


def _loopback(port: int) -> str:
    return f"127.0.0.1:{port}"
