"""`tulle sidecar`: one sidecar as a process of its own."""

from pathlib import Path

import click


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
def command(settings: Path, token_fd: int | None, token_file: Path | None) -> None:
    """Become the lean host of a sidecar: one small process beside a workload.

    It joins with a token of "tulle token create", or with the certificate it
    still holds, and prints one JSON line per event.
    """
    if token_fd is not None and token_file is not None:
        raise click.UsageError("give --token-fd or --token-file, not both")
    from tulle.sidecar.launch import exec_host

    exec_host(settings, token_fd, token_file)
