"""`tulle run`: one program as a service of the mesh."""

import sys

import click

from tulle.cli.exits import CommandError, ExitCode
from tulle.cli.home import home
from tulle.cli.options import Session, namespace_option
from tulle.cli.output import colour_enabled

PROTOCOLS = ("http", "http2", "grpc", "tcp", "auto")


@click.command(
    short_help="Run one program as a service of the mesh.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: tulle run --service cart --port 9000 -- python cart.py",
)
@click.option("--service", metavar="NAME", help="Service it is part of; none for a mere client.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port the program listens on.")
@click.option(
    "--service-port",
    type=click.IntRange(1, 65535),
    default=80,
    show_default=True,
    help="Port others call the service on.",
)
@click.option(
    "--protocol", type=click.Choice(PROTOCOLS), default="http", show_default=True, help="On --port."
)
@click.option("-l", "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Repeatable.")
@click.option(
    "--depends-on",
    multiple=True,
    metavar="SERVICE",
    help="Give the program a local address of SERVICE in its environment; repeatable.",
)
@click.option("--probe", "probe_path", metavar="PATH", help="HTTP path that tells readiness.")
@click.option(
    "--transparent",
    is_flag=True,
    help="Lead all that is sent from this network namespace through the mesh, until the end.",
)
@namespace_option
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def command(
    session: Session,
    *,
    service: str | None,
    port: int | None,
    service_port: int,
    protocol: str,
    labels: tuple[str, ...],
    depends_on: tuple[str, ...],
    probe_path: str | None,
    transparent: bool,
    program: tuple[str, ...],
) -> None:
    """Run PROGRAM with a sidecar beside it; exits with the program's code.

    Its HTTP_PROXY points to the sidecar, so http://cart/ reaches the service
    cart. Joins the control plane of this folder, or starts one for as long as
    the program runs. With --transparent, which needs root or CAP_NET_ADMIN,
    the program need not honour HTTP_PROXY.
    """
    from tulle.sidecar.intercept import check_privilege

    if transparent:
        check_privilege()
    from tulle.local.run import RunOptions, run

    if service is not None and port is None:
        raise CommandError(
            f'the service "{service}" needs the port the program listens on',
            code=ExitCode.USAGE,
            hint=f"tulle run --service {service} --port 9000 -- {' '.join(program)}",
        )
    options = RunOptions(
        command=program,
        service=service,
        port=port,
        home=home(),
        namespace=session.namespace,
        protocol=protocol,
        labels=parse_labels(labels),
        depends_on=depends_on,
        service_port=service_port,
        probe_path=probe_path,
        transparent=transparent,
        color=colour_enabled(sys.stderr),
    )
    sys.exit(run(options))


def parse_labels(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return `KEY=VALUE` *pairs* as a mapping."""
    labels: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise CommandError(
                f'"{pair}" is not a label', code=ExitCode.USAGE, hint="write KEY=VALUE"
            )
        labels[key] = value
    return labels
