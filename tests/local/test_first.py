"""The runner as the first process of a container, which a PID namespace of its own makes it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import Process, eventually

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a PID namespace"),
]

CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
ORPHANS = """
import pathlib, subprocess, time
for _ in range(3):
    subprocess.run(["sh", "-c", "sleep 0.01 & exit"])  # whose parent has ended
def names():
    stats = (path.read_text() for path in pathlib.Path("/proc").glob("[0-9]*/stat"))
    return [stat.partition("(")[2].partition(")")[0] for stat in stats]
end = time.monotonic() + 10
while "sleep" in names() and time.monotonic() < end:
    time.sleep(0.01)
raise SystemExit(names().count("sleep"))
"""
GRACEFUL = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("started", flush=True)
signal.sigwait({signal.SIGTERM})
raise SystemExit(7)
"""


def command(program: str) -> list[str]:
    return [*CONTAINER, sys.executable, "-m", "tulle", "run", "--", sys.executable, "-c", program]


def test_what_is_left_to_it_is_reaped(tmp_path: Path) -> None:
    ended = subprocess.run(
        command(ORPHANS),
        env={**os.environ, "TULLE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr


def test_a_signal_reaches_the_program_and_its_code_comes_back(tmp_path: Path) -> None:
    runner = Process(command(GRACEFUL), tmp_path / "log", {"TULLE_HOME": str(tmp_path)})
    eventually(lambda: "started" in runner.output, "the program runs")
    children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()

    os.kill(int(children[0]), signal.SIGTERM)

    assert runner.wait() == 7, runner.output
