"""`tulle down`: stop the mesh of this folder."""

import click

from tulle.cli.home import home
from tulle.cli.options import DURATION
from tulle.cli.output import note


@click.command(
    short_help='Stop everything that "tulle up" started.',
    epilog="Example: tulle down",
)
@click.option(
    "--wait",
    "wait_s",
    type=DURATION,
    default="40s",
    show_default=True,
    metavar="DURATION",
    help="Longest wait; apps have ten seconds to finish what they do.",
)
def command(wait_s: float) -> None:
    """Stop the apps, sidecars and control plane of this folder's mesh.

    Requests in flight are finished first. Stopping what does not run is no error.
    """
    from tulle.local.remote import down

    note("stopped" if down(home(), wait_s) else "nothing was running")
