"""`tulle stat`: success, rate and latency by service, workload or route."""

from typing import Any

import click

from tulle.cli.options import Session, output_option, server_options, watch_option
from tulle.cli.output import (
    Column,
    milliseconds,
    note,
    percent,
    print_rows,
    show_or_watch,
)

COLUMNS = (
    Column("NAME", lambda r: r["name"]),
    Column("MTLS", lambda r: "yes" if r["mtls"] else "no"),
    Column("SUCCESS", lambda r: percent(r["success_rate"]), right=True),
    Column("RPS", lambda r: f"{r['rps']:.1f}", right=True),
    Column("P50", lambda r: milliseconds(r["p50_ms"]), right=True),
    Column("P99", lambda r: milliseconds(r["p99_ms"]), right=True),
    Column("REQUESTS", lambda r: r["requests"], right=True),
    Column("RETRIES", lambda r: r["retries"], right=True),
    Column("PROTOCOL", lambda r: r["protocol"], wide=True),
    Column("BYTES-IN", lambda r: r["bytes_in"], right=True, wide=True),
    Column("BYTES-OUT", lambda r: r["bytes_out"], right=True, wide=True),
)
ROUTE = Column("ROUTE", lambda r: r["route"])


@click.command(
    short_help="Print success, rate and latency.",
    epilog="Example: tulle stat routes -w",
)
@click.argument(
    "what",
    type=click.Choice(["services", "workloads", "routes"]),
    default="services",
)
@output_option("table", "wide", "json", "yaml", "name")
@watch_option
@server_options
@click.pass_obj
def command(session: Session, what: str, output: str, *, watch: bool) -> None:
    """Print success, rate and latency of WHAT: services, workloads or routes.

    Of the whole mesh, unless -n names a namespace. Counts are since the
    sidecars started, rates are over the last ten seconds; "-" means no traffic.
    """
    client = session.client()
    columns = (COLUMNS[0], ROUTE, *COLUMNS[1:]) if what == "routes" else COLUMNS
    query = {"by": what.removesuffix("s"), "namespace": session.chosen_namespace}

    def show() -> None:
        rows: list[dict[str, Any]] = client.get("/tulle/v1/stat", query)["rows"]
        print_rows(output, columns, rows)
        if not rows and output in {"table", "wide"}:
            note(no_traffic(session))

    show_or_watch(show, watch=watch)


def no_traffic(session: Session) -> str:
    """Say why a view of traffic is empty, and what to do."""
    where = f"in namespace {session.chosen_namespace}" if session.chosen_namespace else "yet"
    return f"no traffic {where}; reports come every second\nhint: tulle proxy list"
