"""`tulle describe`: one resource, and what it is connected to."""

from collections.abc import Sequence

import click

from tulle.cli.client import ApiClient
from tulle.cli.commands.diff import written
from tulle.cli.commands.edges import COLUMNS as EDGE_COLUMNS
from tulle.cli.kinds import POLICIES, ROUTES, SERVICE, WORKLOAD, Kind, label
from tulle.cli.objects import complete_kind, fetch, parse_references
from tulle.cli.options import Session, server_options
from tulle.cli.output import age, labels_text, table_lines, to_yaml
from tulle.cli.tables import (
    Object,
    columns_of,
    is_parent,
    items,
    rows_of,
    selects,
    source_of,
    target,
)


@click.command(
    short_help="Explain one resource and what it is connected to.",
    epilog="Example: tulle describe service cart -n shop",
)
@click.argument(
    "words", nargs=-1, required=True, metavar="KIND NAME...", shell_complete=complete_kind
)
@server_options
@click.pass_obj
def command(session: Session, words: tuple[str, ...]) -> None:
    """Print a resource and what it is connected to.

    Of a service: its endpoints, routes, policies, callers and what it calls.
    Of a policy: the workloads it matches. Of all: where it was written, its
    status and its specification.
    """
    client = session.client()
    for number, (kind, namespace, name) in enumerate(parse_references(session, words)):
        if number:
            print("---")
        item = fetch(client, kind, namespace, name)
        _print_head(item)
        for title, lines in _sections(client, kind, item):
            print(f"\n{title}")
            for line in lines or ["none"]:
                print(f"  {line}")


def _print_head(item: Object) -> None:
    metadata = item["metadata"]
    print(label(item))
    facts = {
        "source": source_of(item),
        "labels": labels_text(metadata.get("labels")),
        "age": age(metadata.get("creationTimestamp")),
        "revision": metadata.get("resourceVersion"),
    }
    for name, value in facts.items():
        if value is not None:
            print(f"  {name:<9} {value}")


def _sections(client: ApiClient, kind: Kind, item: Object) -> list[tuple[str, list[str]]]:
    sections: list[tuple[str, list[str]]] = []
    if kind is SERVICE:
        sections = _service_sections(client, item)
    elif kind in POLICIES:
        sections = [("matches", _table(client, WORKLOAD, matched(client, item)))]
    elif kind is WORKLOAD:
        services = [s for s in items(client, SERVICE) if selects(s, item)]
        sections = [("services", _table(client, SERVICE, services))]
    body = written(item)
    sections.append(("spec", to_yaml(body.get("spec", {})).splitlines()))
    if item.get("status"):
        sections.append(("status", to_yaml(item["status"]).splitlines()))
    return sections


def _service_sections(client: ApiClient, service: Object) -> list[tuple[str, list[str]]]:
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    workloads = [w for w in items(client, WORKLOAD, namespace) if selects(service, w)]
    routes = [
        line
        for kind in ROUTES
        for line in _table(client, kind, [r for r in items(client, kind) if is_parent(service, r)])
    ]
    policies = [
        f"{label(policy)}   {source_of(policy) or ''}".rstrip()
        for kind in POLICIES
        for policy in items(client, kind, namespace)
        if concerns(policy, service, workloads)
    ]
    edges = client.get("/tulle/v1/edges", {"namespace": namespace})["edges"]
    own = {f"{namespace}/{workload['metadata']['name']}" for workload in workloads}
    callers = [edge for edge in edges if edge["service"] == f"{namespace}/{name}"]
    calls = [edge for edge in edges if edge["source"] in own]
    return [
        ("endpoints", _table(client, WORKLOAD, workloads)),
        ("routes", routes),
        ("policies", policies),
        ("callers", _edges(callers)),
        ("calls", _edges(calls)),
    ]


def concerns(policy: Object, service: Object, workloads: Sequence[Object]) -> bool:
    """Return whether *policy* is about *service* or one of its *workloads*."""
    refs = policy["spec"].get("targetRefs", ())
    if refs:
        return any(ref["name"] == service["metadata"]["name"] for ref in refs)
    return any(_selected(policy, workload) for workload in workloads)


def matched(client: ApiClient, policy: Object) -> list[Object]:
    """Return the workloads that *policy* is about."""
    namespace = policy["metadata"]["namespace"]
    workloads = items(client, WORKLOAD, namespace)
    if target(policy) is None or not policy["spec"].get("targetRefs"):
        return [workload for workload in workloads if _selected(policy, workload)]
    names = {ref["name"] for ref in policy["spec"]["targetRefs"]}
    services = [s for s in items(client, SERVICE, namespace) if s["metadata"]["name"] in names]
    return [w for w in workloads if any(selects(service, w) for service in services)]


def _selected(policy: Object, workload: Object) -> bool:
    wanted = (policy["spec"].get("selector") or {}).get("matchLabels", {})
    labels = workload["metadata"].get("labels", {})
    return all(labels.get(key) == value for key, value in wanted.items())


def _table(client: ApiClient, kind: Kind, objects: Sequence[Object]) -> list[str]:
    if not objects:
        return []
    columns = [c for c in columns_of(kind, all_namespaces=False) if not c.wide]
    return table_lines(columns, rows_of(client, kind, objects))


def _edges(edges: Sequence[Object]) -> list[str]:
    return table_lines([c for c in EDGE_COLUMNS if not c.wide], edges) if edges else []
