"""`tulle demo`: a small shop in a mesh, to look at or to check."""

import sys

import click

from tulle.cli.home import home
from tulle.cli.output import colour_enabled

CHECK_S = 30.0
"""Long enough for some thousand requests, from which the split is judged."""


@click.command(
    short_help="Run a small shop in a mesh, with sample traffic.",
    epilog="Example: tulle demo",
)
@click.option(
    "--check",
    is_flag=True,
    help="Drive traffic, verify the mesh from its own telemetry, print one JSON object; "
    "exits with 0 or 1.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1.0),
    default=CHECK_S,
    show_default=True,
    help="With --check: how long to drive traffic.",
)
def command(seconds: float, *, check: bool) -> None:
    """Run a small shop of six services, each with its sidecar, and sample traffic.

    Needs no root, no container and no network. Ctrl-C stops all of it, and
    nothing is left behind.
    """
    from tulle.local.demo import demo, demo_check

    if check:
        code = demo_check(seconds, sys.stdout, sys.stderr)
    else:
        code = demo(home(), colour_enabled(sys.stdout), sys.stdout)
    sys.exit(code)
