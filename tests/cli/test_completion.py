"""Shell completion: the scripts, and what they are answered with."""

import os
import subprocess
import sys

import pytest

from tulle.cli import main
from tulle.cli.commands import completion


def completions(folder, words: str) -> list[str]:
    environment = {
        **os.environ,
        "_TULLE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"tulle {words}",
        "COMP_CWORD": str(len(words.split(" "))),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tulle"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_that_asks_us(tulle, shell):
    out = tulle("completion", shell).out
    assert "_TULLE_COMPLETE=" in out
    assert f"{shell}_complete" in out


def test_bash_accepts_the_script(tulle, folder):
    script = tulle("completion", "bash").out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_script_asks_by_the_variable_that_main_answers_to():
    assert completion.VARIABLE == main.COMPLETE_VARIABLE


def test_an_unknown_shell_is_a_usage_error(tulle):
    assert tulle("completion", "tcsh").code == 2


def test_commands_are_completed(folder):
    assert completions(folder, "re") == ["restart", "resolve"]


def test_kinds_are_completed_without_a_server(folder):
    assert completions(folder, "get ser") == ["services"]


def test_names_are_asked_from_the_server(plane, folder):
    plane.put("Service", "cart", {"ports": []}, namespace="shop")
    plane.put("Service", "web", {"ports": []})
    assert completions(folder, "get services ") == ["web", "shop/cart"]
    assert completions(folder, "split shop/") == ["shop/cart"]
    assert completions(folder, "describe service w") == ["web"]


def test_completion_is_silent_when_the_server_is_not_there(folder):
    assert completions(folder, "split c") == []
