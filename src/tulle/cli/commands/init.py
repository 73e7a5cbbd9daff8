"""`tulle init`: write a tulle.yaml to start from."""

from pathlib import Path

import click

from tulle.cli.output import note


@click.command(
    short_help="Write a tulle.yaml for the apps in this folder.",
    epilog="Example: tulle init && tulle up",
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path())
def command(folder: Path) -> None:
    """Write a commented tulle.yaml to FOLDER (this one); an existing one is left alone."""
    from tulle.local.starter import write_starter

    path = write_starter(folder)
    print(path)
    note("next: edit it, then run tulle up")
