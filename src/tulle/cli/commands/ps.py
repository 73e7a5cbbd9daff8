"""`tulle ps`: the processes of the mesh of this folder."""

from typing import TYPE_CHECKING, Any

import click

from tulle.cli.home import home
from tulle.cli.options import output_option, watch_option
from tulle.cli.output import Column, duration_text, print_rows, show_or_watch

if TYPE_CHECKING:
    from tulle.local.status import AppStatus

COLUMNS = (
    Column("NAME", lambda r: r["name"]),
    Column("STATE", lambda r: r["state"]),
    Column("PID", lambda r: r["pid"], right=True),
    Column(
        "UPTIME",
        lambda r: None if r["uptime_s"] is None else duration_text(r["uptime_s"]),
        right=True,
    ),
    Column("RESTARTS", lambda r: r["restarts"], right=True),
    Column("PORTS", lambda r: ",".join(str(port) for port in r["ports"])),
    Column("MESH", lambda r: r["mesh"]),
    Column("SIDECAR", lambda r: r["sidecar_pid"], right=True, wide=True),
    Column("REASON", lambda r: r["reason"]),
)


def row(status: "AppStatus") -> dict[str, Any]:
    """Return *status* as the row that tables and JSON show."""
    return {
        "name": status.name,
        "app": status.app,
        "kind": status.kind,
        "state": status.state,
        "reason": status.reason,
        "pid": status.pid,
        "uptime_s": status.uptime_s,
        "restarts": status.restarts,
        "ports": list(status.ports),
        "mesh": status.mesh,
        "sidecar_pid": status.sidecar_pid,
    }


@click.command(
    short_help="List the processes of this mesh.",
    epilog="Example: tulle ps -w",
)
@output_option("table", "wide", "json", "yaml", "name")
@watch_option
def command(output: str, *, watch: bool) -> None:
    """List the apps of this folder's mesh: state and, if one is not ready, why."""
    from tulle.local import remote

    folder = home()

    def show() -> None:
        print_rows(output, COLUMNS, [row(status) for status in remote.status(folder)])

    show_or_watch(show, watch=watch)
