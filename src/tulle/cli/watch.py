"""Watching one kind: what there is, then a line per change, for as long as the user wants.

The control plane ends a watch after a while; it is taken up again from the last
revision that was seen, so nothing is missed and nothing comes twice.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tulle.cli.exits import CommandError, ExitCode
from tulle.cli.kinds import Kind, label
from tulle.cli.output import WATCH_INTERVAL_S, print_ndjson, print_yaml, table_lines
from tulle.cli.tables import Object, columns_of, named, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tulle.cli.client import ApiClient


def watch_kind(
    client: ApiClient, kind: Kind, namespace: str | None, selector: str | None, output: str
) -> None:
    """Print the objects of *kind*, then each that changes; never returns by itself."""
    path = kind.path(namespace)
    listed = client.get(path, {"labelSelector": selector})
    found = [named(item, kind) for item in listed["items"]]
    columns = [
        column
        for column in columns_of(kind, all_namespaces=namespace is None)
        if output == "wide" or not column.wide
    ]
    rows = rows_of(client, kind, found)
    is_table = output in {"table", "wide"}
    if is_table:
        print("\n".join(table_lines(columns, rows)), flush=True)
    else:
        for item in found:
            _print_object(item, output)
    revision = str(listed["metadata"]["resourceVersion"])
    for event in _events(client, path, selector, revision):
        item = named(event["object"], kind)
        if is_table:
            line = table_lines(columns, [*rows, *rows_of(client, kind, [item])])[-1]
            print(line + ("   deleted" if event["type"] == "DELETED" else ""), flush=True)
        else:
            _print_object(item, output)


def _events(client: ApiClient, path: str, selector: str | None, revision: str) -> Iterator[Object]:
    """Yield every change after *revision*, over as many watches as it takes."""
    while True:
        query = {"watch": "true", "resourceVersion": revision, "labelSelector": selector}
        seen = revision
        for event in client.lines(path, query):
            if event["type"] == "ERROR":
                raise CommandError(
                    event["object"]["message"],
                    code=ExitCode.CONFLICT,
                    hint="start the watch again",
                )
            revision = event["object"]["metadata"]["resourceVersion"]
            if event["type"] != "BOOKMARK":
                yield event
        if revision == seen:
            time.sleep(WATCH_INTERVAL_S)


def _print_object(item: Object, output: str) -> None:
    if output == "json":
        print_ndjson(item)
    elif output == "yaml":
        print("---")
        print_yaml(item)
    else:
        print(label(item), flush=True)
