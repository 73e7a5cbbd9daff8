"""`tulle completion`: the script that makes a shell complete our command lines."""

import click

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_TULLE_COMPLETE"
"""The same as in `main`, which answers to it."""


@click.command(
    short_help="Print the completion script of a shell.",
    epilog='Example: eval "$(tulle completion bash)"',
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    r"""Print the completion script of SHELL; load it in the shell's start file.

    \b
    bash  echo 'eval "$(tulle completion bash)"' >> ~/.bashrc
    zsh   echo 'eval "$(tulle completion zsh)"' >> ~/.zshrc
    fish  tulle completion fish > ~/.config/fish/completions/tulle.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f'click knows no completion for "{shell}"')
    complete = kind(ctx.find_root().command, {}, "tulle", VARIABLE)
    print(complete.source_template % complete.source_vars())
