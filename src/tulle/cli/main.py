"""The entry point: find the command, run it, turn its end into an exit code.

Commands are named in `COMMANDS` with their summary, so `tulle --help` and
shell completion import none of them.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import click

import tulle
from tulle.cli.exits import CommandError, ExitCode, exit_code
from tulle.cli.options import Session, server_options
from tulle.cli.output import colour_enabled, counted
from tulle.errors import InvalidResources, TulleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from click.shell_completion import CompletionItem

PROGRAM = "tulle"
COMPLETE_VARIABLE = "_TULLE_COMPLETE"
"""What the completion scripts of click set when they ask for completions."""

SECTIONS: dict[str, dict[str, str]] = {
    "Run a mesh on this machine": {
        "demo": "Run a small shop in a mesh, with sample traffic.",
        "init": "Write a tulle.yaml for the apps in this folder.",
        "up": "Start the apps of tulle.yaml, each with its sidecar.",
        "down": 'Stop everything that "tulle up" started.',
        "ps": "List the processes of this mesh.",
        "logs": "Print what the apps and sidecars wrote.",
        "restart": "Restart apps of this mesh.",
        "run": "Run one program as a service of the mesh.",
    },
    "Processes of their own": {
        "server": "Run the control plane.",
        "sidecar": "Run one sidecar.",
        "intercept": "Lead all traffic of a network namespace through a sidecar.",
        "token": "Create, list and revoke join tokens.",
    },
    "Resources": {
        "get": "List resources, or print one.",
        "describe": "Explain one resource and what it is connected to.",
        "apply": "Create or change resources from files.",
        "delete": "Delete resources.",
        "diff": "Show what applying files would change.",
        "validate": "Check files without a control plane.",
        "split": "Divide the traffic of a service between its versions.",
    },
    "See and explain": {
        "stat": "Print success, rate and latency.",
        "edges": "Print who calls whom, with which identity.",
        "tap": "Print live requests.",
        "resolve": "Explain what the mesh does with a request, and why.",
        "proxy": "Look into the sidecars.",
        "check": "Look for problems and say how to solve them.",
    },
    "The tool itself": {
        "version": "Print the versions of the client, the engine and the server.",
        "completion": "Print the completion script of a shell.",
    },
}
COMMANDS: dict[str, str] = {
    name: summary for commands in SECTIONS.values() for name, summary in commands.items()
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the sections."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command, or None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"tulle.cli.commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is answered with the nearest known."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.exceptions.NoSuchCommand(name, possibilities=list(COMMANDS), ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, from the table alone."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()), col_max=12)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names from the table alone."""
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=summary)
            for name, summary in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog='"tulle COMMAND --help" explains a command with an example. A first try: tulle demo',
)
@click.version_option(tulle.__version__, message="tulle %(version)s")
@click.option(
    "--color",
    "--colour",
    type=click.Choice(["auto", "always", "never"]),
    help="When to colour; NO_COLOR and FORCE_COLOR are honoured.  [default: auto]",
)
@click.option("--no-color", is_flag=True, help="The same as --color=never.")
@server_options
@click.pass_context
def cli(ctx: click.Context, color: str | None, *, no_color: bool) -> None:
    """Tulle, a light service mesh: the same on a laptop, on VMs and on Kubernetes."""
    session = ctx.ensure_object(Session)
    session.colour = "never" if no_color else color or "auto"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run the command line *argv* and return its exit code."""
    if instruction := os.environ.get(COMPLETE_VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, PROGRAM, COMPLETE_VARIABLE, instruction)
    session = Session()
    try:
        code = _invoke(argv, session)
        sys.stdout.flush()
    except TulleError as error:
        show(as_command_error(error), session)
        return exit_code(error)
    except click.ClickException as error:
        return show_usage(error, session)
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        discard_stdout()
        return ExitCode.BROKEN_PIPE
    except Exception as error:  # noqa: BLE001, the last line of defence of a program
        return report_bug(error, session)
    return code


def _invoke(argv: Sequence[str], session: Session) -> int:
    """Do what click's own `main` does, save that nothing is turned into messages and codes."""
    try:
        with cli.make_context(PROGRAM, list(argv), obj=session) as context:
            cli.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else ExitCode.OK
    return ExitCode.OK


def as_command_error(error: TulleError) -> CommandError:
    """Return *error* with what the command line has to say besides."""
    if isinstance(error, CommandError):
        return error
    if isinstance(error, InvalidResources):
        return CommandError(
            f"{counted(len(error.violations), 'violation')}; nothing was changed",
            details=[str(violation) for violation in error.violations],
        )
    return CommandError(str(error))


def show(error: CommandError, session: Session) -> None:
    """Print *error* on stderr: what happened, where, the details, what to do."""
    colour = colour_enabled(sys.stderr, session.colour)
    head = click.style("error:", fg="red", bold=True) if colour else "error:"
    lines = [f"{head} {error.message}"]
    if error.where is not None:
        lines.append(f"  --> {error.where}")
    lines.extend(error.details)
    if error.hint is not None:
        label = click.style("hint:", fg="cyan", bold=True) if colour else "hint:"
        lines.append(f"{label} {error.hint}")
    print("\n".join(lines), file=sys.stderr)


def show_usage(error: click.ClickException, session: Session) -> int:
    """Print a wrong command line the way every other error is printed."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        print(error.format_message(), file=sys.stderr)
        return ExitCode.USAGE
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f'see "{context.command_path if context else PROGRAM} --help"'
    show(CommandError(error.format_message(), code=ExitCode.USAGE, hint=hint), session)
    return error.exit_code


def discard_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush is silent."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report_bug(error: Exception, session: Session) -> int:
    """Write the traceback of *error* to a file and print where it is."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", prefix="tulle-traceback-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(f"tulle {tulle.__version__}, Python {sys.version}\n\n")
        traceback.print_exception(error, file=file)
    show(
        CommandError(
            f"a bug in Tulle: {type(error).__name__}: {error}",
            hint=f"the traceback is in {file.name}; please report it with that file",
        ),
        session,
    )
    return ExitCode.BUG
