"""`tulle proxy`: what the sidecars are, how they are, and what they hold."""

from typing import Any

import click

from tulle.cli.exits import CommandError, ExitCode, did_you_mean
from tulle.cli.options import Session, output_option, server_options, watch_option
from tulle.cli.output import (
    Column,
    megabytes,
    note,
    print_json,
    print_rows,
    print_table,
    print_yaml,
    show_or_watch,
)

PATH = "/tulle/v1/proxies"
SECTIONS = {
    "services": "service",
    "endpoints": "endpoints",
    "workload": "workload",
    "trust": "trust",
}


def state(proxy: dict[str, Any]) -> str:
    """Return SYNCED, STALE, REJECTED or DISCONNECTED: how what it holds is."""
    if not proxy["connected"]:
        return "DISCONNECTED"
    if any(record["error"] for record in proxy["records"]):
        return "REJECTED"
    return "SYNCED" if all(record["in_sync"] for record in proxy["records"]) else "STALE"


def life(proxy: dict[str, Any]) -> str:
    """Return whether the workload takes traffic."""
    if proxy["draining"]:
        return "draining"
    return "ready" if proxy["ready"] else "not-ready"


COLUMNS = (
    Column("NAME", lambda r: r["workload"]),
    Column("STATE", state),
    Column("WORKLOAD", life),
    Column("RECORDS", lambda r: len(r["records"]), right=True),
    Column("VERSION", lambda r: r["version"]),
    Column("PID", lambda r: r["pid"], right=True),
    Column("RSS", lambda r: megabytes(r["rss_bytes"]), right=True),
    Column("CPU", lambda r: None if r["cpu_s"] is None else f"{r['cpu_s']:.1f}s", right=True),
    Column("ADMIN", lambda r: r["admin"], wide=True),
    Column("IDENTITY", lambda r: r["identity"], wide=True),
)


def record_state(record: dict[str, Any]) -> str:
    """Return SYNCED, STALE or REJECTED for one record at one sidecar."""
    if record["error"]:
        return "REJECTED"
    return "SYNCED" if record["in_sync"] else "STALE"


RECORD_COLUMNS = (
    Column("RECORD", lambda r: r["name"]),
    Column("STATE", record_state),
    Column("IN-FORCE", lambda r: r["held"]),
    Column("WANTED", lambda r: r["version"]),
    Column("ERROR", lambda r: r["error"]),
)


@click.group(
    short_help="Look into the sidecars.",
    epilog="Example: tulle proxy status shop/cart-1",
)
def command() -> None:
    """Look into the sidecars: which there are, how they are, and what they hold.

    SYNCED: it acknowledged all it holds. STALE: something newer is on its way.
    REJECTED: it refused a record and goes on with the one before. DISCONNECTED:
    it serves with what it had.
    """


@command.command("list", epilog="Example: tulle proxy list -o wide")
@output_option("table", "wide", "json", "yaml", "name")
@watch_option
@server_options
@click.pass_obj
def list_(session: Session, output: str, *, watch: bool) -> None:
    """List the sidecars of the mesh, or of the namespace given with -n."""
    client = session.client()

    def show() -> None:
        rows = [
            proxy
            for proxy in client.get(PATH)["proxies"]
            if session.chosen_namespace in {None, proxy["workload"].partition("/")[0]}
        ]
        print_rows(output, COLUMNS, rows)
        if not rows and output in {"table", "wide"}:
            note('no sidecars\nhint: start apps with "tulle up", or one with "tulle run"')

    show_or_watch(show, watch=watch)


@command.command(epilog="Example: tulle proxy status cart-1 -n shop")
@click.argument("name", required=False)
@output_option("table", "json", "yaml")
@server_options
@click.pass_obj
def status(session: Session, name: str | None, output: str) -> None:
    """Print what the sidecar of workload NAME holds, record by record.

    Without a NAME: every record of every sidecar that is not in sync. Exits
    with 1 if any record was refused.
    """
    proxies = [find(session, name)] if name else session.client().get(PATH)["proxies"]
    if output == "json":
        print_json(proxies[0] if name else {"items": proxies})
    elif output == "yaml":
        print_yaml(proxies[0] if name else {"items": proxies})
    else:
        _print_status(proxies, everything=name is not None)
    if any(record["error"] for proxy in proxies for record in proxy["records"]):
        raise SystemExit(ExitCode.NO)


def _print_status(proxies: list[dict[str, Any]], *, everything: bool) -> None:
    if everything:
        print_table(COLUMNS, proxies, wide=True)
        print()
        print_table(RECORD_COLUMNS, proxies[0]["records"])
        return
    late = [
        {"workload": proxy["workload"], **record}
        for proxy in proxies
        for record in proxy["records"]
        if record["error"] or not record["in_sync"]
    ]
    if late:
        print_table((Column("NAME", lambda r: r["workload"]), *RECORD_COLUMNS), late)
    connected = sum(1 for proxy in proxies if proxy["connected"])
    note(f"{connected} of {len(proxies)} sidecars connected, {len(late)} records not in sync")


@command.command(epilog="Example: tulle proxy config cart-1 services -n shop -o json")
@click.argument("name")
@click.argument("section", type=click.Choice([*SECTIONS, "all"]), default="all")
@output_option("yaml", "json")
@server_options
@click.pass_obj
def config(session: Session, name: str, section: str, output: str) -> None:
    """Print the records that the sidecar of workload NAME holds.

    Rules and policies name the file and line they come from.
    """
    client = session.client()
    wanted = set(SECTIONS.values()) if section == "all" else {SECTIONS[section]}
    records = {
        record["name"]: client.get(f"/tulle/v1/records/{record['name']}")
        for record in find(session, name)["records"]
        if record["name"].partition("/")[0] in wanted
    }
    if output == "json":
        print_json(records)
    else:
        print_yaml(records)


def find(session: Session, name: str) -> dict[str, Any]:
    """Return the sidecar of workload *name*, or raise an error with the nearest name."""
    namespace, workload = session.qualify(name)
    wanted = f"{namespace}/{workload}"
    proxies: list[dict[str, Any]] = session.client().get(PATH)["proxies"]
    for proxy in proxies:
        if proxy["workload"] == wanted:
            return proxy
    known = [proxy["workload"] for proxy in proxies]
    same_name = [other for other in known if other.partition("/")[2] == workload]
    near = f'did you mean "{same_name[0]}"?' if same_name else did_you_mean(wanted, known)
    raise CommandError(
        f'no sidecar of workload "{wanted}"',
        code=ExitCode.NOT_FOUND,
        hint=near or "list them with: tulle proxy list",
    )
