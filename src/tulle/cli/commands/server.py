"""`tulle server`: the control plane as a process of its own."""

import os
from datetime import timedelta
from pathlib import Path

import click

from tulle.cli.exits import CommandError, ExitCode
from tulle.cli.options import DURATION

TTL_S_MIN = 10.0
TTL_S_MAX = 24 * 3600.0


@click.command(
    short_help="Run the control plane.",
    epilog="Example: tulle server --data-dir /var/lib/tulle --hub 10.0.0.1:7643",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="TULLE_HOME",
    default=Path(".tulle"),
    show_default=True,
    help="Folder of the store, the keys and the socket.",
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    help="Unix socket of the API.  [default: api.sock in the data folder]",
)
@click.option("--listen", metavar="HOST:PORT", help="Serve the API on TCP, too; needs a token.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="File with the token that requests on TCP must carry.  [default: $TULLE_TOKEN]",
)
@click.option(
    "--hub",
    default="127.0.0.1:7643",
    show_default=True,
    metavar="HOST:PORT",
    help="Where sidecars join; port 0 lets the system choose.",
)
@click.option(
    "--trust-domain",
    default="tulle.local",
    show_default=True,
    help="Domain of all identities; fixed at the first start.",
)
@click.option(
    "--certificate-ttl",
    "ttl_s",
    type=DURATION,
    default="24h",
    show_default=True,
    metavar="DURATION",
    help="Life of a workload's certificate, 10s to 24h; renewed at half of it.",
)
def command(
    *,
    data_dir: Path,
    socket: Path | None,
    listen: str | None,
    token_file: Path | None,
    hub: str,
    trust_domain: str,
    ttl_s: float,
) -> None:
    """Run the control plane: the API, the certificate authority and the hub.

    Writes server.json to the data folder when it is ready and runs until
    SIGTERM; sidecars go on with what they have while it is away.
    """
    if not TTL_S_MIN <= ttl_s <= TTL_S_MAX:
        raise CommandError(
            f"a certificate cannot live {ttl_s:g}s",
            code=ExitCode.USAGE,
            hint="--certificate-ttl is 10s to 24h",
        )
    from tulle.control.server import run
    from tulle.control.settings import ServerSettings

    run(
        ServerSettings(
            data_dir=data_dir.absolute(),
            socket=socket,
            listen=listen,
            token=api_token(token_file) if listen else None,
            hub=hub,
            trust_domain=trust_domain,
            certificate_ttl=timedelta(seconds=ttl_s),
        )
    )


def api_token(path: Path | None) -> str:
    """Return the token for the API on TCP, from the file *path* or from the environment."""
    token = path.read_text().strip() if path is not None else os.environ.get("TULLE_TOKEN")
    if not token:
        raise CommandError(
            "the API on TCP needs a token",
            code=ExitCode.USAGE,
            hint="give one with --token-file, or in TULLE_TOKEN",
        )
    return token
