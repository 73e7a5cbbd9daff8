"""`tulle token`: join tokens, which let a sidecar ask for its first certificate."""

from typing import Any

import click

from tulle.cli.exits import CommandError, ExitCode, did_you_mean
from tulle.cli.options import DURATION, Session, output_option, server_options
from tulle.cli.output import Column, counted, note, print_json, print_rows

PATH = "/tulle/v1/tokens"
COLUMNS = (
    Column("ID", lambda r: r["id"]),
    Column("NAMESPACE", lambda r: r["namespace"]),
    Column("SERVICE-ACCOUNT", lambda r: r["service_account"]),
    Column("SERVICE", lambda r: r["service"]),
    Column("USES-LEFT", lambda r: r["uses_left"], right=True),
    Column("EXPIRES", lambda r: r["expires"]),
)


@click.group(
    short_help="Create, list and revoke join tokens.",
    epilog="Example: tulle token create --service-account cart --ttl 15m > cart.token",
)
def command() -> None:
    """Create, list and revoke the tokens that sidecars join with.

    A token is bound to one namespace and service account, has a number of
    uses, and expires.
    """


@command.command(epilog="Example: tulle token create -n shop --service-account cart --ttl 15m")
@click.option("--service-account", required=True, metavar="NAME", help="Identity it is good for.")
@click.option("--service", metavar="NAME", help="Only for workloads that this service selects.")
@click.option(
    "--ttl",
    "ttl_s",
    type=DURATION,
    default="15m",
    show_default=True,
    metavar="DURATION",
    help="How long it can be used.",
)
@click.option(
    "--uses",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="COUNT",
    help="How many sidecars can join with it.",
)
@output_option("text", "json")
@server_options
@click.pass_obj
def create(
    session: Session,
    service_account: str,
    service: str | None,
    ttl_s: float,
    uses: int,
    output: str,
) -> None:
    """Create a token and print it; it cannot be printed again."""
    answer = session.client().post(
        PATH,
        {
            "namespace": session.namespace,
            "service_account": service_account,
            "service": service,
            "ttl_s": max(1, round(ttl_s)),
            "uses": uses,
        },
    )
    if output == "json":
        print_json(answer)
        return
    print(answer["token"])
    note(
        f"token {answer['id']} for {session.namespace}/{service_account}, "
        f"{counted(uses, 'use')}, expires {answer['expires']}"
    )


@command.command("list", epilog="Example: tulle token list")
@output_option("table", "json", "yaml", "name")
@server_options
@click.pass_obj
def list_(session: Session, output: str) -> None:
    """List the tokens that can still be used."""
    rows = [token for token in _tokens(session) if token["uses_left"]]
    print_rows(output, COLUMNS, rows)
    if not rows and output == "table":
        note("no tokens")


@command.command(epilog="Example: tulle token revoke 3f2a9c")
@click.argument("token_ids", nargs=-1, required=True, metavar="ID...")
@server_options
@click.pass_obj
def revoke(session: Session, token_ids: tuple[str, ...]) -> None:
    """Revoke tokens; certificates issued for them stay valid until they expire."""
    known = [token["id"] for token in _tokens(session)]
    for token_id in token_ids:
        if token_id not in known:
            raise CommandError(
                f'no token "{token_id}"',
                code=ExitCode.NOT_FOUND,
                hint=did_you_mean(token_id, known) or "tulle token list",
            )
        session.client().delete(f"{PATH}/{token_id}")
        print(f"{token_id} revoked")


def _tokens(session: Session) -> list[dict[str, Any]]:
    tokens: list[dict[str, Any]] = session.client().get(PATH)["tokens"]
    return tokens
