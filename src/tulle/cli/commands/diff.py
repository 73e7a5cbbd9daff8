"""`tulle diff`: what applying files would change."""

import difflib
import sys
from collections.abc import Iterator
from typing import Any

import click

from tulle.cli.exits import ExitCode
from tulle.cli.kinds import name_of
from tulle.cli.options import Session, files_option, output_option, server_options
from tulle.cli.output import paint, print_json, to_yaml
from tulle.cli.tables import SOURCE_ANNOTATION
from tulle.errors import InvalidResources

STORE_FIELDS = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields")
"""What the store writes; a file never changes it."""
COLOURS = {"+": "green", "-": "red", "@": "cyan"}


@click.command(
    short_help="Show what applying files would change.",
    epilog="Example: tulle diff -f shop/",
)
@files_option()
@output_option("text", "json")
@server_options
@click.pass_obj
def command(session: Session, paths: tuple[str, ...], output: str) -> None:
    """Print a unified diff of what "tulle apply" would change, and change nothing.

    Exits with 0 without differences, with 1 with some, with more if the files
    are wrong.
    """
    from tulle.cli.manifests import read_manifests

    manifests = read_manifests(paths, session.namespace)
    try:
        answer = session.client().post("/tulle/v1/diff", {"resources": manifests.objects})
    except InvalidResources as error:
        raise InvalidResources(map(manifests.locate, error.violations)) from error
    changes = [change for change in answer["changes"] if change["action"] != "unchanged"]
    if output == "json":
        print_json({"changes": changes})
    else:
        for change in changes:
            for line in unified(change):
                print(paint(line, COLOURS[line[0]]) if line[0] in COLOURS else line)
    sys.exit(ExitCode.NO if changes else ExitCode.OK)


def unified(change: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the diff of one *change*."""
    name = name_of(change["kind"], change["namespace"], change["name"])
    before, after = _lines(change["before"]), _lines(change["after"])
    old = f"{name} (now)" if before else "/dev/null"
    new = f"{name} (then)" if after else "/dev/null"
    return difflib.unified_diff(before, after, old, new, lineterm="")


def _lines(item: dict[str, Any] | None) -> list[str]:
    return to_yaml(written(item)).splitlines() if item else []


def written(item: dict[str, Any]) -> dict[str, Any]:
    """Return *item* with what a user writes, without what the store and the CLI add."""
    metadata = {k: v for k, v in item["metadata"].items() if k not in STORE_FIELDS}
    annotations = {
        k: v for k, v in metadata.pop("annotations", {}).items() if k != SOURCE_ANNOTATION
    }
    if annotations:
        metadata["annotations"] = annotations
    head = {k: item[k] for k in ("apiVersion", "kind")}
    rest = {k: v for k, v in item.items() if k not in {*head, "metadata", "status"}}
    return {**head, "metadata": metadata, **rest}
