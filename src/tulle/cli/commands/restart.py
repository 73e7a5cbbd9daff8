"""`tulle restart`: restart apps of this folder's mesh."""

import click

from tulle.cli.home import home


@click.command(
    short_help="Restart apps of this mesh.",
    epilog="Example: tulle restart cart",
)
@click.argument("names", nargs=-1, required=True)
def command(names: tuple[str, ...]) -> None:
    """Restart NAMES: apps, single replicas such as cart-1, or control-plane.

    The replicas of an app are restarted one after another, each drained first,
    and their names are printed.
    """
    from tulle.local import remote

    for name in remote.restart(home(), names):
        print(name)
