"""`tulle up` as a user meets it when something is wrong: named at once, with what to do."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import Process, eventually

pytestmark = pytest.mark.e2e

TULLE = (sys.executable, "-m", "tulle")
TOKEN = re.compile(rb"[0-9a-f]{16}\.[A-Za-z0-9_-]{43}")
HELLO = "  hello: {command: 'exec python3 -m http.server $PORT --bind 127.0.0.1'}\n"


class Project:
    """A folder with a tulle.yaml, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, apps: str) -> None:
        (self.folder / "tulle.yaml").write_text(f"apps:\n{apps}")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*TULLE, *words],
            cwd=self.folder,
            env={**os.environ, "TULLE_HOME": str(self.folder / ".tulle")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    yield project
    project.run("down")


BROKEN = [
    pytest.param(
        "{command: [no-such-program]}",
        ['bad-1: command "no-such-program" not found; install it', "tulle.yaml:"],
        id="missing",
    ),
    pytest.param(
        "{command: 'echo the reason; exit 3', service: null}",
        ["bad-1: ", "exited with code 3"],
        id="crash",
    ),
    pytest.param(
        "{command: sleep 100, port: PORT}",
        ["bad-1: ", "port PORT is in use by process PID"],
        id="busy",
    ),
]


@pytest.mark.parametrize(("app", "words"), BROKEN)
def test_what_cannot_run_is_named_and_the_command_says_no(
    project: Project, app: str, words: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        facts = {"PORT": str(holder.getsockname()[1]), "PID": str(os.getpid())}

        def filled(text: str) -> str:
            return re.sub("PORT|PID", lambda found: facts[found[0]], text)

        project.write(f"{HELLO}  bad: {filled(app)}\n")

        ended = project.run("up", "--detach")

    assert ended.returncode == 1, ended.stderr
    assert [word for word in words if filled(word) not in ended.stderr] == []
    assert "hint: tulle logs bad" in ended.stderr
    assert "bad-1" in ended.stdout


def test_a_wrong_project_file_starts_nothing(project: Project) -> None:
    project.write("  hello: {comand: x, replicas: many}\n")

    ended = project.run("up", "--detach")

    assert ended.returncode == 3
    assert "comand" in ended.stderr
    assert "replicas" in ended.stderr
    assert not (project.folder / ".tulle" / "up.json").exists()


def test_a_token_is_in_no_process_listing_and_no_file(project: Project) -> None:
    project.write(HELLO)
    log = project.folder / "up.log"
    runner = Process(
        ["sh", "-c", f'cd "{project.folder}" && exec "$0" -m tulle up --quiet', sys.executable], log
    )
    found: list[bytes] = []
    looked = set()

    def is_ready() -> bool:
        for process in Path("/proc").glob("[0-9]*"):
            for file in ("cmdline", "environ"):
                try:
                    text = (process / file).read_bytes()
                except OSError:  # it has ended, or is another user's
                    continue
                looked.add(process.name)
                found.extend(TOKEN.findall(text))
        return bool(re.search(r"hello-1 +ready", runner.output))

    eventually(is_ready, "hello is ready")
    in_files = [path for path in project.folder.rglob("*") if path.is_file() and holds_token(path)]
    runner.signal(signal.SIGINT)

    assert runner.wait() == 0, runner.output
    assert str(runner.pid) in looked
    assert found == []
    assert in_files == []


def holds_token(path: Path) -> bool:
    return TOKEN.search(path.read_bytes()) is not None
