"""The resources of a project: those its files hold, and those its apps imply."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tulle.local.plan import ServicePort, workload_port
from tulle.local.project import Project
from tulle.resources.parse import attach_source, parse_texts

DEFAULT_NAMESPACE = "default"
_APP_PROTOCOLS = {
    "http": "http",
    "http2": "kubernetes.io/h2c",
    "grpc": "grpc",
    "tcp": "tcp",
    "auto": None,
}

Object = dict[str, Any]
Services = dict[tuple[str, str], tuple[ServicePort, ...]]


def read_resources(project: Project) -> list[Object]:
    """Return the objects in the project's `resources`, each with the annotation of its source.

    Objects that name no namespace are in the project's.

    Raises:
        InvalidResources: they are not right; holds everything that is wrong.
    """
    sources = [
        (str(path.relative_to(project.directory)), path.read_bytes()) for path in _files(project)
    ]
    parsed = parse_texts(sources, project.manifest.mesh.namespace)
    return [attach_source(one).to_object() for one in parsed]


def services_in(objects: Iterable[Object]) -> Services:
    """Return the ports of the Services among *objects*, by namespace and name."""
    found: Services = {}
    for one in objects:
        if one.get("kind") == "Service":
            metadata, ports = one["metadata"], (one.get("spec") or {}).get("ports") or ()
            key = (metadata.get("namespace", DEFAULT_NAMESPACE), metadata["name"])
            found[key] = tuple(_port(port) for port in ports)
    return found


def implied_namespaces(project: Project, present: Iterable[Object]) -> list[Object]:
    """Return a Namespace for each that an app lives in and *present* does not hold."""
    held = {one["metadata"]["name"] for one in present if one.get("kind") == "Namespace"}
    wanted = {project.namespace(app) for app in project.manifest.apps}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        for name in sorted(wanted - held - {DEFAULT_NAMESPACE})
    ]


def implied_services(
    project: Project,
    apps: Iterable[str],
    written: Mapping[tuple[str, str], tuple[ServicePort, ...]],
) -> list[Object]:
    """Return a Service for each that *apps* serve and *written* does not hold."""
    ports: dict[tuple[str, str], dict[int, Object]] = {}
    for app in apps:
        service, namespace = project.service(app), project.namespace(app)
        if service is None or (namespace, service) in written:
            continue
        settings = project.manifest.apps[app]
        port: Object = {
            "name": settings.protocol,
            "port": settings.service_port,
            "targetPort": workload_port(project, app, written),
            "appProtocol": _APP_PROTOCOLS[settings.protocol],
        }
        ports.setdefault((namespace, service), {})[settings.service_port] = port
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": service, "namespace": namespace},
            "spec": {"selector": {"app": service}, "ports": list(by_number.values())},
        }
        for (namespace, service), by_number in ports.items()
    ]


def _files(project: Project) -> list[Path]:
    files: list[Path] = []
    for relative in project.manifest.resources:
        path = project.directory / relative
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if file.suffix in (".yaml", ".yml"))
        else:
            files.append(path)
    return files


def _port(port: Mapping[str, Any]) -> ServicePort:
    target = port.get("targetPort")
    return ServicePort(port["port"], target if isinstance(target, int) else port["port"])
