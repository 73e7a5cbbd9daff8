"""`tulle tap`: live requests, one line each."""

from typing import Any

import click

from tulle.cli.kinds import SERVICE
from tulle.cli.objects import complete_service, fetch
from tulle.cli.options import Session, output_option, server_options
from tulle.cli.output import milliseconds, note, paint, print_ndjson

COUNT_MAX = 100_000
"""The most the control plane passes on in one tap."""


@click.command(
    short_help="Print live requests.",
    epilog="Example: tulle tap cart --method POST --status 5xx",
)
@click.argument("service", required=False, shell_complete=complete_service)
@click.option("-X", "--method", help="With this method.")
@click.option("--path", metavar="PREFIX", help="With a path that starts so.")
@click.option("--status", metavar="CODE|CLASS", help="Answered so: 404 or 5xx.")
@click.option("--denied", is_flag=True, help="Refused by a policy.")
@click.option(
    "--max",
    "count_max",
    type=click.IntRange(1, COUNT_MAX),
    default=COUNT_MAX,
    show_default=True,
    metavar="COUNT",
    help="End after so many.",
)
@output_option("text", "ndjson")
@server_options
@click.pass_obj
def command(
    session: Session,
    *,
    service: str | None,
    method: str | None,
    path: str | None,
    status: str | None,
    count_max: int,
    output: str,
    denied: bool,
) -> None:
    """Print requests to SERVICE (all services) as they happen, until Ctrl-C.

    All sidecars are asked, nothing is recorded before or after, and a request
    is printed once.
    """
    client = session.client()
    if service:
        fetch(client, SERVICE, *session.qualify(service))
    query = {
        "service": "/".join(session.qualify(service)) if service else None,
        "method": method.upper() if method else None,
        "path": path,
        "status": status,
        "denied": "true" if denied else None,
        "max": str(count_max),
    }
    entries = client.lines("/tulle/v1/tap", query)
    if output == "text":
        note("waiting for requests; Ctrl-C ends")
    for entry in entries:
        if output == "ndjson":
            print_ndjson(entry)
        else:
            print(line(entry), flush=True)


def line(entry: dict[str, Any]) -> str:
    """Return *entry* as `10:02:11.120 shop/web-1 -> shop/cart-1 GET /x 503 84ms try=2 why`."""
    code = str(entry["code"])
    parts = [
        str(entry["time"]).partition("T")[2].rstrip("Z")[:12] or str(entry["time"]),
        entry["source"] or entry["source_identity"] or "outside",
        "->",
        entry["destination"] or entry["service"] or "?",
        entry["method"] or "TCP",
        entry["path"] or "",
        paint(code, _colour(code)),
        milliseconds(entry["duration_ms"]) or "",
    ]
    if (entry["tries"] or 1) > 1:
        parts.append(f"try={entry['tries']}")
    if not entry["mtls"]:
        parts.append("plaintext")
    parts += [entry[name] for name in ("reason", "policy") if entry[name]]
    return " ".join(part for part in parts if part)


def _colour(code: str) -> str:
    return {"4": "yellow", "5": "red"}.get(code[:1], "green")
