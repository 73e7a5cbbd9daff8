"""`tulle up`: the apps of tulle.yaml, each with its sidecar, under one supervisor."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tulle.cli.commands.ps import COLUMNS, row
from tulle.cli.exits import ExitCode
from tulle.cli.options import DURATION
from tulle.cli.output import colour_enabled, note, print_table

if TYPE_CHECKING:
    from tulle.local.up import UpOptions

FAILED_STATES = {"failed", "backoff"}


@click.command(
    short_help="Start the apps of tulle.yaml, each with its sidecar.",
    epilog="Example: tulle up -d && tulle ps",
)
@click.argument("apps", nargs=-1)
@click.option(
    "-c",
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The project file.  [default: the nearest tulle.yaml]",
)
@click.option("-d", "--detach", is_flag=True, help="Return once all apps are ready.")
@click.option("-q", "--quiet", is_flag=True, help="Do not print what the apps write.")
@click.option("--shared", is_flag=True, help="Have one process carry the traffic of all apps.")
@click.option(
    "--wait",
    "wait_s",
    type=DURATION,
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="With --detach: longest wait for readiness.",
)
def command(
    apps: tuple[str, ...],
    config: Path | None,
    wait_s: float,
    *,
    detach: bool,
    quiet: bool,
    shared: bool,
) -> None:
    """Start a control plane and the APPS of tulle.yaml (all), each with its sidecar.

    Runs until Ctrl-C or "tulle down" and prints what the apps write; programs
    run unchanged, without root and without containers. With --shared the
    sidecars need a fraction of the memory; each app keeps its own identity,
    listeners, policy and metrics.
    """
    from tulle.local import project, up

    path = project.find_project(Path.cwd(), config)
    options = up.UpOptions(
        project=path,
        home=project.home_of(path.parent),
        apps=apps,
        color=colour_enabled(sys.stdout),
        quiet=quiet,
        shared=shared,
    )
    sys.exit(_detached(options, wait_s) if detach else up.up(options, sys.stdout))


def _detached(options: "UpOptions", wait_s: float) -> int:
    from tulle.local.up import up_detached

    statuses = up_detached(options, wait_s)
    print_table(COLUMNS, [row(status) for status in statuses])
    failed = [status for status in statuses if status.state in FAILED_STATES]
    for status in failed:
        note(f"{status.name}: {status.reason}\nhint: tulle logs {status.app}")
    return ExitCode.NO if failed else ExitCode.OK
