"""`tulle intercept`: the rules that lead a network namespace's traffic through a sidecar."""

import click

from tulle.cli.exits import CommandError
from tulle.cli.options import PORT, exclude_options
from tulle.cli.output import note


@click.group(
    short_help="Lead all traffic of a network namespace through a sidecar.",
    epilog="Example: tulle intercept up --dry-run",
)
def command() -> None:
    """Set up, show and remove the rules that lead traffic through a sidecar.

    They are about the network namespace that the command runs in, and need
    root or CAP_NET_ADMIN there. "tulle sidecar --transparent" does all of
    this itself; here it is for a sidecar that may not.
    """


@command.command(epilog="Example: tulle intercept up --exclude-user tulle --exclude-port 5432")
@click.option(
    "--outbound-port",
    type=PORT,
    default=15001,
    show_default=True,
    help="Port of the sidecar for what programs send.",
)
@click.option("--inbound-port", type=PORT, help="Port of the sidecar for what comes in.")
@click.option("--dns-port", type=PORT, help="Port of the sidecar for questions to resolvers.")
@exclude_options
@click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")
def up(
    *,
    outbound_port: int,
    inbound_port: int | None,
    dns_port: int | None,
    tproxy: bool,
    exclude_port: tuple[int, ...],
    exclude_inbound_port: tuple[int, ...],
    exclude_cidr: tuple[str, ...],
    exclude_user: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Put the rules in force, in place of those that are.

    Without --inbound-port what comes in is left alone, without --dns-port
    questions are. Traffic of the sidecar itself is never led back to it: its
    sockets carry a mark if it may set one; otherwise run it as a user of its
    own and name that with --exclude-user.
    """
    from tulle.sidecar import intercept
    from tulle.sidecar.rules import Interception

    wanted = Interception(
        outbound=outbound_port,
        inbound=inbound_port,
        dns=dns_port,
        resolvers=intercept.resolvers(),
        tproxy=tproxy,
        exclude_ports=exclude_port,
        exclude_inbound_ports=exclude_inbound_port,
        exclude_cidrs=exclude_cidr,
        exclude_uids=tuple(map(intercept.uid_of, exclude_user)),
    )
    if dry_run:
        click.echo(intercept.plan(wanted), nl=False)
        return
    intercept.set_up(wanted)
    note("traffic of this network namespace is intercepted")


@command.command(epilog="Example: tulle intercept down")
def down() -> None:
    """Remove the rules; none to remove is no error."""
    from tulle.sidecar import intercept

    intercept.remove()
    note("nothing is intercepted in this network namespace")


@command.command(epilog="Example: tulle intercept show")
def show() -> None:
    """Print the rules that are in force; exits with 1 if there are none."""
    from tulle.sidecar import intercept

    if not (found := intercept.in_force()):
        raise CommandError("nothing is intercepted in this network namespace")
    click.echo(found, nl=False)
