"""`tulle edges`: who calls whom, with which identity."""

from typing import Any

import click

from tulle.cli.commands.stat import no_traffic
from tulle.cli.options import Session, output_option, server_options, watch_option
from tulle.cli.output import (
    Column,
    milliseconds,
    note,
    percent,
    print_rows,
    show_or_watch,
    symbol,
)

COLUMNS = (
    Column("SOURCE", lambda r: r["source"]),
    Column("SERVICE", lambda r: r["service"]),
    Column("DESTINATION", lambda r: r["destination"]),
    Column("PROTOCOL", lambda r: r["protocol"]),
    Column("SECURED", lambda r: "mTLS" if r["mtls"] else "no"),
    Column("SUCCESS", lambda r: percent(r["success_rate"]), right=True),
    Column("RPS", lambda r: f"{r['rps']:.1f}", right=True),
    Column("P99", lambda r: milliseconds(r["p99_ms"]), right=True),
    Column("REQUESTS", lambda r: r["requests"], right=True, wide=True),
    Column("RETRIES", lambda r: r["retries"], right=True, wide=True),
    Column("SOURCE-IDENTITY", lambda r: r["source_identity"], wide=True),
    Column("DESTINATION-IDENTITY", lambda r: r["destination_identity"], wide=True),
)


@click.command(
    short_help="Print who calls whom, with which identity.",
    epilog="Example: tulle edges -o wide",
)
@output_option("table", "wide", "json", "yaml")
@watch_option
@server_options
@click.pass_obj
def command(session: Session, output: str, *, watch: bool) -> None:
    """Print a line for each caller, service and destination that talked.

    Of the whole mesh, unless -n names a namespace. -o wide adds the SPIFFE
    identities that the two sides proved to each other.
    """
    client = session.client()
    query = {"namespace": session.chosen_namespace}

    def show() -> None:
        rows: list[dict[str, Any]] = client.get("/tulle/v1/edges", query)["edges"]
        print_rows(output, COLUMNS, rows)
        if output in {"table", "wide"}:
            _summarise(session, rows)

    show_or_watch(show, watch=watch)


def _summarise(session: Session, rows: list[dict[str, Any]]) -> None:
    if not rows:
        note(no_traffic(session))
        return
    plain = sum(1 for row in rows if not row["mtls"])
    if plain:
        note(f"{symbol('warning')} {plain} of {len(rows)} edges are not mTLS")
