"""`tulle apply`: create or change resources from files, all of them or none."""

import sys
from typing import TYPE_CHECKING, Any

import click

from tulle.cli.exits import ExitCode
from tulle.cli.kinds import name_of
from tulle.cli.options import Session, files_option, output_option, server_options
from tulle.cli.output import note, paint, print_json
from tulle.errors import InvalidResources

if TYPE_CHECKING:
    from tulle.cli.manifests import Manifests

COLOURS = {"created": "green", "configured": "yellow", "unchanged": "bright_black"}


@click.command(
    short_help="Create or change resources from files.",
    epilog="Example: tulle apply -f shop/ --dry-run",
)
@files_option()
@click.option("--dry-run", is_flag=True, help="Let the server check all, and change nothing.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if anything was changed.")
@output_option("text", "name", "json")
@server_options
@click.pass_obj
def command(
    session: Session, paths: tuple[str, ...], output: str, *, dry_run: bool, exit_code: bool
) -> None:
    """Create or change the resources in the files: all of them, or none.

    Every mistake is printed with file, line and column, and nothing is changed
    then.
    """
    from tulle.cli.manifests import read_manifests

    answer = send(session, read_manifests(paths, session.namespace), dry_run=dry_run)
    print_results(answer, output, dry_run=dry_run)
    changed = any(entry["action"] != "unchanged" for entry in answer["results"])
    sys.exit(ExitCode.NO if exit_code and changed else ExitCode.OK)


def send(session: Session, manifests: "Manifests", *, dry_run: bool) -> dict[str, Any]:
    """Apply *manifests* and return the server's answer.

    Raises:
        InvalidResources: the server refused them; each violation has its file and line.
    """
    body = {"resources": manifests.objects, "dry_run": dry_run}
    try:
        answer: dict[str, Any] = session.client().post("/tulle/v1/apply", body)
    except InvalidResources as error:
        raise InvalidResources(map(manifests.locate, error.violations)) from error
    return answer


def print_results(answer: dict[str, Any], output: str, *, dry_run: bool) -> None:
    """Print what the server did with each resource."""
    if output == "json":
        print_json(answer)
        return
    for entry in answer["results"]:
        name = name_of(entry["kind"], entry["namespace"], entry["name"])
        action = entry["action"]
        mark = " (dry run)" if dry_run else ""
        print(name if output == "name" else f"{name} {paint(action, COLOURS[action])}{mark}")
    if output == "text" and not dry_run:
        note(f"revision {answer['revision']}")
