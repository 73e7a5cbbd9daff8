"""`tulle sidecar`: one sidecar as a process of its own."""

import json
from pathlib import Path
from typing import Any

import click

from tulle.cli.options import exclude_options
from tulle.cli.output import note


@click.command(
    short_help="Run one sidecar.",
    epilog="Example: tulle sidecar --settings cart.json --token-file cart.token",
)
@click.option(
    "--settings",
    required=True,
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="JSON settings of the sidecar.",
)
@click.option("--token-fd", type=click.IntRange(min=0), help="Descriptor to read the token from.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="File to read the token from.",
)
@click.option(
    "--transparent",
    is_flag=True,
    help="Lead all traffic of this network namespace through it, until it ends.",
)
@click.option("--outbound-only", is_flag=True, help="Leave alone what comes in.")
@click.option("--mesh-only", is_flag=True, help="Refuse destinations that are not of the mesh.")
@exclude_options
@click.option("--dry-run", is_flag=True, help="Print the rules and do nothing.")
def command(
    *,
    settings: Path,
    token_fd: int | None,
    token_file: Path | None,
    transparent: bool,
    dry_run: bool,
    exclude_user: tuple[str, ...],
    **asked: Any,
) -> None:
    """Become the lean host of a sidecar: one small process beside a workload.

    It joins with a token of "tulle token create", or with the certificate it
    still holds, and prints one JSON line per event. With --transparent, which
    needs root or CAP_NET_ADMIN, programs call services by their names and
    need not know of it; the options below are about that.
    """
    if token_fd is not None and token_file is not None:
        raise click.UsageError("give --token-fd or --token-file, not both")
    from tulle.sidecar import intercept
    from tulle.sidecar.launch import exec_host, own_ports

    wanted = None
    if transparent:
        wanted = {
            "outbound_only": asked["outbound_only"],
            "mesh_only": asked["mesh_only"],
            "tproxy": asked["tproxy"],
            "exclude_ports": asked["exclude_port"],
            "exclude_inbound_ports": asked["exclude_inbound_port"],
            "exclude_cidrs": asked["exclude_cidr"],
            "exclude_uids": [intercept.uid_of(user) for user in exclude_user],
        }
    if dry_run:
        given = json.loads(settings.read_text())
        if (wanted := wanted or given.get("transparent")) is None:
            raise click.UsageError("--dry-run prints the rules of --transparent")
        ports = own_ports(given)
        if 0 in ports:
            note("a port that is 0 in the settings is chosen, and added to the rules, at the start")
        named = filter(None, ports)
        click.echo(intercept.plan(intercept.interception(wanted, named)), nl=False)
        return
    exec_host(settings, token_fd, token_file, wanted)
