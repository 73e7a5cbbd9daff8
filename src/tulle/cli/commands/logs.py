"""`tulle logs`: what the apps and sidecars of this folder's mesh wrote."""

import sys
from typing import TYPE_CHECKING

import click

from tulle.cli.home import home
from tulle.cli.options import DURATION, output_option
from tulle.cli.output import colour_enabled, print_ndjson

if TYPE_CHECKING:
    from tulle.local.logs import LogLine


@click.command(
    short_help="Print what the apps and sidecars wrote.",
    epilog="Example: tulle logs -f cart --since 5m",
)
@click.argument("names", nargs=-1)
@click.option("-f", "--follow", is_flag=True, help="Go on as new lines are written.")
@click.option("--since", "since_s", type=DURATION, metavar="DURATION", help="Lines this young.")
@click.option("--tail", type=click.IntRange(min=0), metavar="LINES", help="The last lines only.")
@click.option("--sidecars", is_flag=True, help="Sidecars' lines, too.")
@output_option("text", "ndjson")
def command(
    names: tuple[str, ...],
    since_s: float | None,
    tail: int | None,
    output: str,
    *,
    follow: bool,
    sidecars: bool,
) -> None:
    """Print the lines of NAMES (all): apps or processes, by time, each with its name.

    Works after "tulle down", too.
    """
    from tulle.local.logs import read_logs

    lines = read_logs(home(), names, since_s=since_s, tail=tail, follow=follow, sidecars=sidecars)
    width = 0
    for line in lines:
        if output == "ndjson":
            print_ndjson(
                {"time": line.time.isoformat(), "process": line.process, "text": line.text}
            )
        else:
            width = max(width, len(line.process))
            _print_text(line, width)


def _print_text(line: "LogLine", width: int) -> None:
    from tulle.local.output import colored_prefix

    prefix = colored_prefix(line.process, width, color=colour_enabled(sys.stdout))
    print(f"{prefix}{line.text}", flush=True)
