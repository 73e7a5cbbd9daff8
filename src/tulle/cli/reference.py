"""The reference page of the commands, written from the commands themselves.

`python -m tulle.cli.reference` writes `docs/reference/commands.md`; with `--check` it
exits with 1 if the page is not what it would write.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from tulle.cli.exits import MEANINGS
from tulle.cli.main import SECTIONS, cli

PAGE = Path("docs/reference/commands.md")
INTRODUCTION = """\
# Commands

<!-- Written by `python -m tulle.cli.reference`; change the commands, not this page. -->

Data goes to stdout, everything else to stderr. `-o json` prints one object, a list as
`{"apiVersion": "v1", "kind": "List", "items": []}`; durations are numbers of milliseconds
(`_ms`) or seconds (`_s`). Colour is used on a terminal only; `NO_COLOR`, `FORCE_COLOR` and
`--color` decide. A name without a namespace is in that of `-n` or `TULLE_NAMESPACE`, else in
`default`; `NAMESPACE/NAME` names both.

The control plane is that of `--server` or `TULLE_SERVER` (`unix:PATH` or `http://HOST:PORT`,
there with the token in `TULLE_TOKEN`), else that of `TULLE_HOME`, else that of the nearest
folder with a `tulle.yaml` or a `.tulle`.
"""


def page() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION, "\n".join(_exit_codes()), "\n".join(_global_options())]
    context = click.Context(cli, info_name="tulle")
    for title, commands in SECTIONS.items():
        parts.append(f"## {title}\n")
        for name in commands:
            command = cli.get_command(context, name)
            if command is not None:
                parts.extend(_command(command, click.Context(command, context, name), "###"))
    return "\n".join(parts)


def _exit_codes() -> Iterator[str]:
    yield "## Exit codes\n"
    yield "| code | meaning |"
    yield "|---:|---|"
    for code, meaning in MEANINGS.items():
        yield f"| {code.value} | {meaning} |"
    yield ""


def _global_options() -> Iterator[str]:
    yield "## Options before every command\n"
    yield from _options(cli, click.Context(cli, info_name="tulle"))


def _command(command: click.Command, context: click.Context, level: str) -> Iterator[str]:
    """Yield the section of *command*, and those of its subcommands."""
    yield f"{level} {context.command_path}\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```\n{context.command_path} {usage}\n```\n"
    yield from (f"{paragraph}\n" for paragraph in _paragraphs(command.help or ""))
    yield from _options(command, context)
    example = (command.epilog or "").removeprefix("Example: ")
    if example:
        yield f"Example:\n\n```\n{example}\n```\n"
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from _command(inner, click.Context(inner, context, name), level + "#")


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring; those that click must not wrap become code."""
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b"):
            yield "```\n" + paragraph.removeprefix("\b").strip("\n") + "\n```"
        else:
            yield " ".join(paragraph.split())


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    rows = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        and "--help" not in parameter.opts
        and (record := parameter.get_help_record(context))
    ]
    if not rows:
        return
    yield "| option | |"
    yield "|---|---|"
    for names, text in rows:
        yield f"| `{names.replace('|', chr(92) + '|')}` | {' '.join(text.split())} |"
    yield ""


def main(argv: list[str]) -> int:
    """Write the page, or compare it; return the exit code."""
    if argv == ["--check"]:
        return 0 if PAGE.read_text() == page() else 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
