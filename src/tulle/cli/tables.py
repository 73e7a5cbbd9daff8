"""What a table of each resource kind shows.

A row is `{"object": the resource}`; a Service's has `endpoints` and `routes`
besides, which `service_rows` counts from the workloads and routes around it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tulle.cli.kinds import (
    AUTHORIZATION,
    GRPC_ROUTE,
    HTTP_ROUTE,
    NAMESPACE,
    PEER_AUTHENTICATION,
    ROUTES,
    SERVICE,
    TCP_ROUTE,
    TLS_ROUTE,
    TRAFFIC_POLICY,
    WORKLOAD,
    Kind,
)
from tulle.cli.output import Column, Row, age, labels_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tulle.cli.client import ApiClient

SOURCE_ANNOTATION = "tulle.dev/source"
DEFAULT_AUTHORIZATION_LABEL = "tulle.dev/default-authorization"

Object = dict[str, Any]


def columns_of(kind: Kind, *, all_namespaces: bool) -> list[Column]:
    """Return the columns for objects of *kind*."""
    columns = [
        Column("NAME", lambda r: r["object"]["metadata"]["name"]),
        *COLUMNS[kind],
        Column("AGE", lambda r: age(r["object"]["metadata"].get("creationTimestamp")), right=True),
        Column("LABELS", lambda r: labels_text(r["object"]["metadata"].get("labels")), wide=True),
        Column("SOURCE", lambda r: source_of(r["object"]), wide=True),
    ]
    if all_namespaces and kind.namespaced:
        columns.insert(0, Column("NAMESPACE", lambda r: r["object"]["metadata"]["namespace"]))
    return columns


def rows_of(client: ApiClient, kind: Kind, objects: Sequence[Object]) -> list[Row]:
    """Return the rows of *objects*, asking for what their columns need besides."""
    if kind is SERVICE:
        return service_rows(client, objects)
    return [{"object": item} for item in objects]


def service_rows(client: ApiClient, services: Sequence[Object]) -> list[Row]:
    """Return the rows of *services* with their endpoints and routes counted."""
    workloads = items(client, WORKLOAD)
    routes = [route for kind in ROUTES for route in items(client, kind)]
    rows = []
    for service in services:
        behind = [workload for workload in workloads if selects(service, workload)]
        ready = sum(1 for workload in behind if is_ready(workload))
        rows.append(
            {
                "object": service,
                "endpoints": f"{ready}/{len(behind)}",
                "routes": sum(1 for route in routes if is_parent(service, route)),
            }
        )
    return rows


def items(
    client: ApiClient, kind: Kind, namespace: str | None = None, selector: str | None = None
) -> list[Object]:
    """Return all objects of *kind*, or those of a namespace, or with the labels of *selector*."""
    listed = client.get(kind.path(namespace), {"labelSelector": selector})
    return [named(item, kind) for item in listed["items"]]


def named(item: Object, kind: Kind) -> Object:
    """Return *item* with its kind, which lists and events may leave out."""
    return {"apiVersion": kind.api_version, "kind": kind.name, **item}


def source_of(item: Object) -> str | None:
    """Return where *item* was written, as `shop.yaml:10`, if it came from a file.

    The annotation is anyone's to write, so one of another form counts as none.
    """
    text = item["metadata"].get("annotations", {}).get(SOURCE_ANNOTATION)
    if text is None:
        return None
    try:
        source = json.loads(text)
        return f"{source['file']}:{int(source['lines'][''])}"
    except (ValueError, TypeError, KeyError):
        return None


def selects(service: Object, workload: Object) -> bool:
    """Return whether *workload* is one of those behind *service*."""
    selector = service["spec"].get("selector") or {}
    labels = workload["metadata"].get("labels", {})
    return (
        bool(selector)
        and service["metadata"]["namespace"] == workload["metadata"]["namespace"]
        and all(labels.get(key) == value for key, value in selector.items())
    )


def is_ready(workload: Object) -> bool:
    """Return whether *workload* takes traffic."""
    status = workload.get("status") or {}
    return bool(status.get("ready") and status.get("connected") and not status.get("draining"))


def is_parent(service: Object, route: Object) -> bool:
    """Return whether *route* is about *service*."""
    name = (service["metadata"]["namespace"], service["metadata"]["name"])
    return name in parents(route)


def parents(route: Object) -> list[tuple[str, str]]:
    """Return namespace and name of each Service that *route* is about."""
    own = route["metadata"]["namespace"]
    return [
        (parent.get("namespace") or own, parent["name"])
        for parent in route["spec"].get("parentRefs", ())
        if parent.get("kind") == "Service"
    ]


def backends(route: Object) -> str | None:
    """Return the backends of *route* with their weights, rule by rule."""
    rules = []
    for rule in route["spec"].get("rules", ()):
        refs = rule.get("backendRefs", ())
        if len(refs) == 1:
            rules.append(str(refs[0]["name"]))
        elif refs:
            rules.append(",".join(f"{ref['name']}={ref.get('weight', 1)}" for ref in refs))
    return " ".join(dict.fromkeys(rules)) or None


def target(policy: Object) -> str | None:
    """Return what *policy* is attached to; None for its whole namespace."""
    spec = policy["spec"]
    refs: Iterable[Object] = spec.get("targetRefs") or filter(None, [spec.get("targetRef")])
    # Objects are kept as they were written, and Service is the default.
    named = [f"{ref.get('kind', 'Service').lower()}/{ref['name']}" for ref in refs]
    labels = labels_text((spec.get("selector") or {}).get("matchLabels"))
    return ",".join(named) or labels


def _ports(service: Object) -> str:
    return ",".join(
        f"{port['port']}/{port.get('appProtocol') or port.get('name') or 'http'}"
        for port in service["spec"].get("ports", ())
    )


def _workload_state(workload: Object) -> str:
    status = workload.get("status") or {}
    if not status.get("connected"):
        return "disconnected"
    if status.get("draining"):
        return "draining"
    return "ready" if status.get("ready") else "not-ready"


def _workload_ports(workload: Object) -> str:
    return ",".join(
        f"{port['port']}/{port.get('protocol', 'http')}"
        for port in workload["spec"].get("ports", ())
    )


def _route_columns() -> tuple[Column, ...]:
    return (
        Column("SERVICE", lambda r: ",".join("/".join(name) for name in parents(r["object"]))),
        Column("RULES", lambda r: len(r["object"]["spec"].get("rules", ())), right=True),
        Column("BACKENDS", lambda r: backends(r["object"])),
    )


TARGET = Column("TARGET", lambda r: target(r["object"]) or "(namespace)")

COLUMNS: dict[Kind, tuple[Column, ...]] = {
    NAMESPACE: (
        Column(
            "AUTHORIZATION",
            lambda r: (
                r["object"]["metadata"].get("labels", {}).get(DEFAULT_AUTHORIZATION_LABEL, "allow")
            ),
        ),
    ),
    SERVICE: (
        Column("PORTS", lambda r: _ports(r["object"])),
        Column("ENDPOINTS", lambda r: r["endpoints"], right=True),
        Column("ROUTES", lambda r: r["routes"], right=True),
        Column("SELECTOR", lambda r: labels_text(r["object"]["spec"].get("selector")), wide=True),
    ),
    WORKLOAD: (
        Column("STATE", lambda r: _workload_state(r["object"])),
        Column("ACCOUNT", lambda r: r["object"]["spec"].get("serviceAccount")),
        Column("ADDRESS", lambda r: r["object"]["spec"].get("address")),
        Column("PORTS", lambda r: _workload_ports(r["object"])),
        Column("ZONE", lambda r: r["object"]["spec"].get("zone"), wide=True),
    ),
    HTTP_ROUTE: _route_columns(),
    GRPC_ROUTE: _route_columns(),
    TLS_ROUTE: _route_columns(),
    TCP_ROUTE: _route_columns(),
    TRAFFIC_POLICY: (TARGET,),
    PEER_AUTHENTICATION: (
        TARGET,
        Column("MODE", lambda r: (r["object"]["spec"].get("mtls") or {}).get("mode")),
    ),
    AUTHORIZATION: (
        TARGET,
        Column("ACTION", lambda r: r["object"]["spec"].get("action")),
        Column("RULES", lambda r: len(r["object"]["spec"].get("rules", ())), right=True),
    ),
}
