"""The entry point: help, wrong command lines, exit codes, and a fast start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tulle.cli.exits import MEANINGS, ExitCode
from tulle.cli.main import COMMANDS, cli, run

HEAVY = {
    "asyncio",
    "cryptography",
    "httpx",
    "pydantic",
    "sqlite3",
    "starlette",
    "tulle._engine",
    "tulle.compiler",
    "tulle.control",
    "tulle.mesh",
    "tulle.resources",
    "uvicorn",
    "yaml",
}
SIMPLE = [
    ("--help",),
    ("version",),
    ("get", "services"),
    ("get", "services", "-o", "json"),
    ("describe", "--help"),
    ("stat",),
    ("edges",),
    ("tap", "--help"),
    ("resolve", "--help"),
    ("proxy", "list"),
    ("token", "list"),
    ("logs",),
    ("completion", "bash"),
    ("check", "--help"),
    ("apply", "--help"),
]


def every_command() -> list[tuple[str, click.Command]]:
    context = click.Context(cli)
    found = []
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {sub}", inner) for sub, inner in command.commands.items()]
    return found


@pytest.mark.parametrize(("name", "command"), every_command(), ids=str)
def test_every_command_has_help_with_an_example(name, command):
    assert command.help
    assert command.epilog is not None
    assert command.epilog.startswith(("Example: tulle ", "Example: eval "))
    assert f"tulle {name}" in command.epilog or name == "token"
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help or parameter.name in {"method", "port"}, parameter.name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_command_says(name):
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.get_short_help_str(100) == COMMANDS[name]


def test_help_names_every_command(tulle):
    shown = tulle("--help")
    assert shown.code == ExitCode.OK
    assert all(f"  {name} " in shown.out for name in COMMANDS)


def test_an_unknown_command_is_answered_with_the_nearest(tulle):
    result = tulle("edge")
    assert result.code == ExitCode.USAGE
    assert result.out == ""
    assert 'hint: see "tulle --help"' in result.err
    assert "Did you mean 'edges'?" in result.err


def test_an_unknown_option_names_the_command_to_ask(tulle):
    result = tulle("get", "services", "--outptu", "json")
    assert result.code == ExitCode.USAGE
    assert "--outptu" in result.err
    assert 'hint: see "tulle get --help"' in result.err


def test_the_options_of_the_session_may_stand_on_both_sides(tulle, plane):
    plane.put("Service", "cart", {"ports": [{"port": 80}]}, namespace="shop")
    before = tulle("-n", "shop", "get", "services", "-o", "name")
    behind = tulle("-n", "other", "get", "services", "-n", "shop", "-o", "name")
    assert before.lines == behind.lines == ["service/shop/cart"]


def test_a_bug_leaves_a_traceback_in_a_file(tulle, plane, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    plane.refuse = (200, {"not": "edges"})
    result = tulle("edges")
    assert result.code == ExitCode.BUG
    assert "a bug in Tulle: KeyError" in result.err
    assert "Traceback" not in result.err
    (file,) = tmp_path.glob("tulle-traceback-*.txt")
    assert str(file) in result.err
    assert "Traceback" in file.read_text()


def test_every_exit_code_has_a_meaning():
    assert set(MEANINGS) == set(ExitCode)


def test_a_reader_that_goes_away_is_no_error(folder):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "tulle", "completion", "bash"],
        cwd=folder,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert done.returncode == ExitCode.BROKEN_PIPE
    assert done.stderr == b""


def imported(arguments: tuple[str, ...], folder: Path) -> set[str]:
    program = (
        "import json, sys\n"
        "from tulle.cli.main import run\n"
        "run(sys.argv[1:])\n"
        "sys.stderr.write('\\n' + json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [("ps",), ("down",), ("restart", "x")], ids=" ".join)
def test_asking_the_runner_imports_only_what_its_socket_needs(arguments, folder):
    assert {name for name in HEAVY if name in imported(arguments, folder)} <= {"asyncio"}


@pytest.mark.parametrize("arguments", SIMPLE, ids=" ".join)
def test_simple_commands_import_nothing_heavy(arguments, plane, folder):
    loaded = imported(arguments, folder)
    found = {name for name in HEAVY if name in loaded}
    assert found == set()


def test_a_command_loads_no_other_commands_module(plane, folder):
    loaded = imported(("completion", "bash"), folder)
    commands = {name for name in loaded if name.startswith("tulle.cli.commands.")}
    assert commands == {"tulle.cli.commands.completion"}


def test_run_returns_the_code_of_a_version_request(capsys):
    assert run(["--version"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("tulle ")
