"""`tulle validate`: check files without a control plane."""

import sys
from typing import TYPE_CHECKING, Any

import click

from tulle.cli.exits import ExitCode
from tulle.cli.options import Session, files_option, output_option, server_options
from tulle.cli.output import counted, note, paint, print_json
from tulle.errors import InvalidResources, Violation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tulle.cli.manifests import Manifests
    from tulle.resources.model import Resource


@click.command(
    short_help="Check files without a control plane.",
    epilog="Example: tulle validate -f shop/ --strict",
)
@files_option()
@click.option("--live", is_flag=True, help="Check references against the running mesh, too.")
@click.option("--strict", is_flag=True, help="Exit with 1 on warnings.")
@output_option("text", "json")
@server_options
@click.pass_obj
def command(
    session: Session, paths: tuple[str, ...], output: str, *, live: bool, strict: bool
) -> None:
    """Check the resources in the files: each by itself, and what they say of each other.

    A mistake exits with 3. What refers to something that is not in the files
    is a warning, for it may be in the mesh: --live looks there.
    """
    from tulle.cli.manifests import read_manifests

    try:
        manifests = read_manifests(paths, session.namespace)
    except InvalidResources as error:
        if output == "json":
            print_json(_report(error.violations, []))
            sys.exit(ExitCode.REJECTED)
        raise
    warnings = find_warnings(manifests, _live(session) if live else [])
    if output == "json":
        print_json(_report((), warnings))
    else:
        for warning in warnings:
            print(f"{paint('warning:', 'yellow', sys.stderr)} {warning}", file=sys.stderr)
        valid = counted(len(manifests.objects), "resource")
        note(f"{valid} valid, {counted(len(warnings), 'warning')}")
    sys.exit(ExitCode.NO if strict and warnings else ExitCode.OK)


def find_warnings(manifests: "Manifests", live: "Sequence[Resource]") -> list[Violation]:
    """Return what *manifests* say of each other and of *live* resources that does not hold."""
    from tulle.mesh.check import findings
    from tulle.mesh.mesh import Mesh

    written = {parsed.resource.key: parsed for parsed in manifests.parsed}
    others = [resource for resource in live if resource.key not in written]
    mesh = Mesh.of([*others, *(parsed.resource for parsed in manifests.parsed)])
    return [
        manifests.locate(Violation(str(found.resource), found.path, found.message, ""))
        for found in findings(mesh)
        if found.resource in written
    ]


def _live(session: Session) -> "list[Resource]":
    from tulle.cli.kinds import KINDS
    from tulle.cli.tables import items
    from tulle.resources.parse import parse_each

    client = session.client()
    # Those that are set aside are not in force.
    return parse_each(item for kind in KINDS for item in items(client, kind))[0]


def _report(violations: "Sequence[Violation]", warnings: "Sequence[Violation]") -> dict[str, Any]:
    return {
        "valid": not violations,
        "violations": [violation._asdict() for violation in violations],
        "warnings": [warning._asdict() for warning in warnings],
    }
