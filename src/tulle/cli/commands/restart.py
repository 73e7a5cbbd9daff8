"""`tulle restart`: restart apps of this folder's mesh."""

import click

from tulle.cli.home import home


@click.command(
    short_help="Restart apps of this mesh.",
    epilog="Example: tulle restart cart",
)
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--sidecars", is_flag=True, help="Replace the sidecars alone, without a refused connection."
)
def command(names: tuple[str, ...], *, sidecars: bool) -> None:
    """Restart NAMES: apps, single replicas such as cart-1, or control-plane.

    The replicas of an app are restarted one after another, each drained first,
    and their names are printed. With --sidecars the apps go on, and a new
    process takes over from each sidecar: use it after an upgrade of Tulle.
    """
    from tulle.local import remote

    for name in remote.restart(home(), names, sidecars=sidecars):
        print(name)
