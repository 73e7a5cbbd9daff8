"""`tulle resolve`: the way of a described request, decided by the engine that would carry it."""

import sys
from pathlib import Path
from typing import Any

import click

from tulle.cli.client import ApiClient
from tulle.cli.exits import CommandError, ExitCode
from tulle.cli.kinds import SERVICE, WORKLOAD
from tulle.cli.objects import complete_service, not_found
from tulle.cli.options import Session, output_option, server_options
from tulle.cli.output import paint, print_json, print_yaml
from tulle.cli.tables import items

GOOD_OUTCOMES = {"forward", "redirect"}
SOURCE_BYTES_MAX = 4 * 1024 * 1024
"""A larger file is not a manifest; its lines are not quoted."""


@click.command(
    short_help="Explain what the mesh does with a request, and why.",
    epilog="Example: tulle resolve web cart /items -X POST -H x-user:anna",
)
@click.argument("caller", metavar="FROM", shell_complete=complete_service)
@click.argument("service", metavar="TO", shell_complete=complete_service)
@click.argument("path", default="/")
@click.option("-X", "--method", default="GET", show_default=True)
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="Repeatable.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of TO.  [default: its first one]")
@output_option("text", "json", "yaml")
@server_options
@click.pass_obj
def command(
    session: Session,
    *,
    caller: str,
    service: str,
    path: str,
    method: str,
    headers: tuple[str, ...],
    port: int | None,
    output: str,
) -> None:
    """Print each decision about a request from FROM (service or workload) to TO.

    The caller's own sidecar decides, with what it holds now; then, for who may
    call, the destination's. Nothing is sent. Exits with 1 if the request would
    be denied or fail.
    """
    if not path.startswith("/"):
        raise click.UsageError(f'"{path}" is not a path; it must start with "/"')
    client = session.client()
    for name in (caller, service):
        check_known(client, *session.qualify(name))
    answer = _ask(
        client,
        {
            "from": "/".join(session.qualify(caller)),
            "to": "/".join(session.qualify(service)),
            "port": port,
            "method": method.upper(),
            "path": path,
            "headers": [parse_header(header) for header in headers],
        },
    )
    if output == "json":
        print_json(answer)
    elif output == "yaml":
        print_yaml(answer)
    else:
        _print_steps(answer)
    sys.exit(ExitCode.OK if answer["outcome"] in GOOD_OUTCOMES else ExitCode.NO)


def _ask(client: ApiClient, request: dict[str, Any]) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = client.post("/tulle/v1/resolve", request)
    except CommandError as error:
        if error.code == ExitCode.NOT_FOUND:
            error.hint = "its sidecar must be connected to answer: tulle proxy list"
        raise
    return answer


def check_known(client: ApiClient, namespace: str, name: str) -> None:
    """Raise a not-found error, with the nearest name, unless there is such a service or workload."""
    known = [*items(client, SERVICE, namespace), *items(client, WORKLOAD, namespace)]
    if name not in {item["metadata"]["name"] for item in known}:
        raise not_found(client, SERVICE, namespace, name)


def parse_header(text: str) -> list[str]:
    """Return `NAME:VALUE` as the pair the API takes."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise CommandError(
            f'"{text}" is not a header', code=ExitCode.USAGE, hint="write -H NAME:VALUE"
        )
    return [name.strip().lower(), value.strip()]


def _print_steps(answer: dict[str, Any]) -> None:
    width = max((len(step["step"]) for step in answer["steps"]), default=0)
    for number, step in enumerate(answer["steps"], 1):
        source = f"   ({step['source']})" if step["source"] else ""
        print(f"{number:>2}  {step['step']:<{width}}   {step['decision']}{source}")
        quoted = source_line(step["source"]) if step["source"] else None
        if quoted:
            print(f"    {'':<{width}}   | {paint(quoted, 'cyan')}")
    print(outcome(answer))


def outcome(answer: dict[str, Any]) -> str:
    """Return the last line: what becomes of the request."""
    good = answer["outcome"] in GOOD_OUTCOMES
    parts = [paint(answer["outcome"], "green" if good else "red")]
    if answer["code"] is not None:
        parts.append(str(answer["code"]))
    if answer["reason"]:
        parts.append(f"({answer['reason']})")
    return "=>  " + " ".join(parts)


def source_line(source: str) -> str | None:
    """Return the line that *source* (`shop.yaml:31`) names, if the file is here."""
    file, colon, number = source.rpartition(":")
    path = Path(file)
    if not colon or not number.isdecimal() or not path.is_file():
        return None
    if path.stat().st_size > SOURCE_BYTES_MAX:
        return None
    lines = path.read_text(errors="replace").splitlines()
    index = int(number) - 1
    return lines[index].strip() if 0 <= index < len(lines) else None
