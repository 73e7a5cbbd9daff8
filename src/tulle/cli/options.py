"""Options that several commands share, and the session they fill.

`--server`, `--namespace` and `--timeout` may stand before or after the
command; the one nearest to the end wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tulle.cli.exits import CommandError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from tulle.cli.client import ApiClient

Decorated = TypeVar("Decorated", bound="Callable[..., Any]")

DEFAULT_NAMESPACE = "default"
DEFAULT_TIMEOUT_S = 10.0
UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(slots=True)
class Session:
    """What the options before and after the command's name said."""

    server: str | None = None
    """Address of the control plane; None to look for it."""
    chosen_namespace: str | None = None
    """None when the user named none."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    """Deadline of one call to the control plane; ten seconds outlast any healthy answer."""
    colour: str = "auto"
    """`auto`, `always` or `never`."""

    @property
    def namespace(self) -> str:
        """The namespace of names that carry none."""
        return self.chosen_namespace or DEFAULT_NAMESPACE

    def qualify(self, name: str) -> tuple[str, str]:
        """Split `namespace/name`; a plain name is in the session's namespace."""
        namespace, slash, rest = name.partition("/")
        if slash and (not namespace or not rest):
            raise CommandError(
                f'"{name}" is not a name', code=ExitCode.USAGE, hint="write NAME or NAMESPACE/NAME"
            )
        return (namespace, rest) if slash else (self.namespace, name)

    def client(self) -> ApiClient:
        """Return a client for the control plane this session is about."""
        from tulle.cli.client import ApiClient, find_server

        return ApiClient(find_server(self.server), timeout_s=self.timeout_s)


class Duration(click.ParamType[float]):
    """A duration such as `500ms`, `15m` or `24h`; the value is in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the duration in seconds."""
        if isinstance(value, (int, float)):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", value)
        if match is None:
            self.fail(f'"{value}" is not a duration; write for example 500ms, 30s, 15m or 24h')
        return float(match[1]) * UNITS_S[match[2]]


DURATION = Duration()
PORT = click.IntRange(1, 65535)


class Cidr(click.ParamType[str]):
    """Addresses such as `10.0.0.0/8`, `fd00::/8` or a single one, in normal form."""

    name = "cidr"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return them with the length of the prefix."""
        from ipaddress import ip_network

        try:
            return str(ip_network(value))
        except ValueError as error:
            self.fail(f"{error}; write for example 10.0.0.0/8", param, ctx)


def exclude_options(function: Decorated) -> Decorated:
    """Add `--tproxy` and the `--exclude-...` options of interception."""
    for option in (
        click.option("--tproxy", is_flag=True, help="Keep the client's address of what comes in."),
        click.option(
            "--exclude-port",
            type=PORT,
            multiple=True,
            metavar="PORT",
            help="Destination port that is called directly; repeatable.",
        ),
        click.option(
            "--exclude-inbound-port",
            type=PORT,
            multiple=True,
            default=(22,),
            show_default="22",
            metavar="PORT",
            help="Port of this machine that is called directly; repeatable.",
        ),
        click.option(
            "--exclude-cidr",
            type=Cidr(),
            multiple=True,
            metavar="CIDR",
            help="Destinations that are called directly; repeatable.",
        ),
        click.option(
            "--exclude-user",
            multiple=True,
            metavar="USER",
            help="User, by name or number, whose programs call directly; repeatable.",
        ),
    ):
        function = option(function)
    return function


def _remember(attribute: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(ctx.ensure_object(Session), attribute, value)

    return callback


def server_options(function: Decorated) -> Decorated:
    """Add `--server`, `--timeout` and `--namespace`; they go to the session."""
    for option in (
        click.option(
            "--server",
            metavar="ADDRESS",
            envvar="TULLE_SERVER",
            expose_value=False,
            callback=_remember("server"),
            help="Control plane: unix:PATH or http://HOST:PORT.  "
            "[default: the nearest .tulle folder]",
        ),
        click.option(
            "--timeout",
            type=DURATION,
            metavar="DURATION",
            expose_value=False,
            callback=_remember("timeout_s"),
            help="Longest wait for the control plane.  [default: 10s]",
        ),
        namespace_option,
    ):
        function = option(function)
    return function


def namespace_option(function: Decorated) -> Decorated:
    """Add `--namespace`; it goes to the session."""
    return click.option(
        "-n",
        "--namespace",
        metavar="NAME",
        envvar="TULLE_NAMESPACE",
        expose_value=False,
        callback=_remember("chosen_namespace"),
        help="Namespace of names without one.  [default: default]",
    )(function)


def output_option(*formats: str) -> Callable[[Decorated], Decorated]:
    """Add `-o`; the first of *formats* is the default."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="How to print.",
    )


def all_namespaces_option(function: Decorated) -> Decorated:
    """Add `-A`."""
    return click.option(
        "-A", "--all-namespaces", is_flag=True, help="Of all namespaces, not of one."
    )(function)


def watch_option(function: Decorated) -> Decorated:
    """Add `-w`."""
    return click.option("-w", "--watch", is_flag=True, help="Go on and print changes.")(function)


def files_option(*, required: bool = True) -> Callable[[Decorated], Decorated]:
    """Add `-f`, which may be repeated."""
    return click.option(
        "-f",
        "--file",
        "paths",
        multiple=True,
        required=required,
        metavar="PATH",
        type=click.Path(allow_dash=True),
        help="File, folder (all .yaml, .yml and .json in it) or - for stdin; repeatable.",
    )
