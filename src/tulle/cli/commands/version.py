"""`tulle version`: who speaks to whom, in which version."""

from collections import Counter
from typing import Any

import click

import tulle
from tulle.cli.exits import CommandError
from tulle.cli.options import Session, output_option, server_options
from tulle.cli.output import print_json, print_yaml

MISSING = "not built"


@click.command(
    short_help="Print the versions of the client, the engine and the server.",
    epilog="Example: tulle version -o json",
)
@click.option("--client", "client_only", is_flag=True, help="Do not ask the server.")
@output_option("text", "json", "yaml")
@server_options
@click.pass_obj
def command(session: Session, output: str, *, client_only: bool) -> None:
    """Print the versions of this client, of its engine, of the server and of the sidecars.

    A server that cannot be reached is no error here; its version is null then.
    """
    facts: dict[str, Any] = {"client": tulle.__version__, "engine": engine_version()}
    if not client_only:
        facts |= _server_facts(session)
    if output == "json":
        print_json(facts)
    elif output == "yaml":
        print_yaml(facts)
    else:
        for name, value in facts.items():
            print(f"{name:<9}{_text(value)}")


def engine_version() -> str:
    """Return the version of the engine in this installation; it is built with the package."""
    from importlib.util import find_spec

    return tulle.__version__ if find_spec("tulle._engine") else MISSING


def _server_facts(session: Session) -> dict[str, Any]:
    try:
        client = session.client()
        server = client.get("/version")["version"]
        proxies = client.get("/tulle/v1/proxies")["proxies"]
    except CommandError:
        return {"server": None}
    return {
        "server": server,
        "sidecars": dict(Counter(p["version"] for p in proxies if p["version"])),
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{count}x {version}" for version, count in value.items()) or "none"
    return value or "not reached"
