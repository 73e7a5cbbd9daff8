"""A runner that is killed leaves no process behind, whatever it had started."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tulle.local import marks

RUNNER = """
import asyncio, os, sys
from pathlib import Path
from tulle.local.child import Launch, start
from tulle.local.supervisor import start_guard

async def main(run):
    guard, pipe = start_guard(run)
    for number, command in enumerate(sys.argv[2:]):
        name = f"app-{number}"
        start(Launch(name, command, dict(os.environ), Path("/tmp"), run), print)
    print("started", guard.pid, flush=True)
    await asyncio.sleep(300)

asyncio.run(main(sys.argv[1]))
"""

APPS = [
    "sleep 301",
    "sleep 302 & sleep 303 & wait",
    "setsid -f sleep 304; sleep 305",
    "sh -c 'trap \"\" TERM; sleep 306; sleep 307'",
]

Eventually = Callable[[Callable[[], object], str], object]


@pytest.mark.parametrize("whole_group", [False, True], ids=["runner", "runner and its group"])
def test_nothing_is_left_of_a_killed_runner(*, whole_group: bool, eventually: Eventually) -> None:
    run = f"guarded-{os.getpid()}-{whole_group}"
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, run, *APPS],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert runner.stdout is not None
    guard = int(runner.stdout.readline().split()[1])
    eventually(lambda: len(marks.find(f"{run}/")) >= 7, "all apps and their children run")

    if whole_group:
        os.killpg(runner.pid, signal.SIGKILL)
    else:
        runner.kill()
    runner.wait()
    runner.stdout.close()

    eventually(lambda: not marks.find(f"{run}/"), "the guard has ended all")
    eventually(lambda: not Path(f"/proc/{guard}").exists(), "the guard has ended itself")
