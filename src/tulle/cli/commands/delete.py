"""`tulle delete`: delete resources by name or by file."""

import sys
from typing import Any

import click

from tulle.cli.exits import CommandError, ExitCode
from tulle.cli.kinds import label, name_of
from tulle.cli.objects import complete_kind, fetch, parse_references
from tulle.cli.options import Session, files_option, output_option, server_options
from tulle.cli.output import print_json


@click.command(
    short_help="Delete resources.",
    epilog="Example: tulle delete httproute catalog -n shop --yes",
)
@click.argument("words", nargs=-1, metavar="[KIND NAME...]", shell_complete=complete_kind)
@files_option(required=False)
@click.option("--ignore-not-found", is_flag=True, help="What is not there is no error.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_option("text", "name", "json")
@server_options
@click.pass_obj
def command(
    session: Session,
    words: tuple[str, ...],
    paths: tuple[str, ...],
    output: str,
    *,
    ignore_not_found: bool,
    yes: bool,
) -> None:
    """Delete the resources named by KIND and NAME, by KIND/NAME, or in the files.

    All of them or none. Asks first on a terminal; elsewhere --yes is needed.
    """
    if bool(words) == bool(paths):
        raise click.UsageError("name resources or give files with -f, one of both")
    references = (
        _from_files(session, paths)
        if paths
        else _named(session, words, ignore_not_found=ignore_not_found)
    )
    results = []
    if references:
        _confirm(references, yes=yes)
        results = session.client().post("/tulle/v1/delete", {"resources": references})["results"]
    deleted = [name_of(entry["kind"], entry["namespace"], entry["name"]) for entry in results]
    if output == "json":
        print_json({"deleted": deleted})
    else:
        for name in deleted:
            print(name if output == "name" else f"{name} deleted")
    missing = [name for name in map(label, references) if name not in deleted]
    if missing and not ignore_not_found:
        raise CommandError(f"not found: {', '.join(missing)}", code=ExitCode.NOT_FOUND)


def _named(
    session: Session, words: tuple[str, ...], *, ignore_not_found: bool
) -> list[dict[str, Any]]:
    found = []
    client = session.client()
    for kind, namespace, name in parse_references(session, words):
        try:
            fetch(client, kind, namespace, name)
        except CommandError as error:
            if ignore_not_found and error.code == ExitCode.NOT_FOUND:
                continue
            raise
        metadata = {"name": name} | ({"namespace": namespace} if kind.namespaced else {})
        found.append({"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata})
    return found


def _from_files(session: Session, paths: tuple[str, ...]) -> list[dict[str, Any]]:
    from tulle.cli.manifests import read_manifests

    return [
        {
            "apiVersion": item["apiVersion"],
            "kind": item["kind"],
            "metadata": {
                key: value
                for key, value in item["metadata"].items()
                if key in {"name", "namespace"}
            },
        }
        for item in read_manifests(paths, session.namespace).objects
    ]


def _confirm(references: list[dict[str, Any]], *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(
            "deleting needs a yes", code=ExitCode.USAGE, hint="say it with --yes, or on a terminal"
        )
    names = ", ".join(label(item) for item in references)
    click.confirm(f"delete {names}?", abort=True, err=True)
