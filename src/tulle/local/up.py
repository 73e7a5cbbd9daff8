"""`tulle up`, in the foreground and detached."""

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from tulle.errors import StartError, TimedOut, TulleError, Unreachable
from tulle.local import remote
from tulle.local.first import stand_behind_the_first
from tulle.local.paths import Home
from tulle.local.project import load_project
from tulle.local.status import BROKEN, SETTLED, AppStatus
from tulle.local.supervisor import RunSettings, Supervisor, runs_already

DETACHED = "import sys; from tulle.local.up import main; main(sys.argv[1])"
DETACHED_LOG = "up.out"
LAST_LINES = 15
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What to start and how to show it."""

    project: Path
    """The file tulle.yaml."""
    home: Path
    """Where state and logs go."""
    apps: tuple[str, ...] = ()
    """Which apps, with what they wait for; all if empty."""
    color: bool = False
    quiet: bool = False
    """Show states and problems, not the apps' own output."""
    shared: bool = False
    """Whether all sidecars share one process."""


def up(options: UpOptions, out: TextIO = sys.stdout) -> int:
    """Run the project until Ctrl-C or `tulle down`; return 0.

    Raises:
        InvalidResources: tulle.yaml or a resource file is wrong; everything that is wrong.
        StartError: it runs already, or the control plane does not come up.
    """
    stand_behind_the_first()
    settings = RunSettings(
        project=load_project(options.project),
        home=Home(options.home.absolute()),
        out=out,
        apps=options.apps,
        color=options.color,
        quiet=options.quiet,
        shared=options.shared,
    )
    asyncio.run(_serve(settings))
    return 0


def up_detached(options: UpOptions, timeout_s: float = 30.0) -> list[AppStatus]:
    """Start the project in the background; return once all is ready or something needs the user.

    Raises:
        InvalidResources: tulle.yaml is wrong; everything that is wrong.
        StartError: it runs already, or the runner ended at once; holds its last words.
        TimedOut: something is still not ready; the runner goes on.
    """
    load_project(options.project)
    home = Home(options.home.absolute())
    home.prepare()
    if remote.is_running(home.directory):
        raise StartError(runs_already(home))
    told = json.dumps({**asdict(options), "project": str(options.project), "home": str(home[0])})
    log = home.logs / DETACHED_LOG
    with log.open("wb") as output:
        runner = subprocess.Popen(
            [sys.executable, "-c", DETACHED, told],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + timeout_s
    found: list[AppStatus] = []
    while time.monotonic() < deadline:
        if runner.poll() is not None:
            words = "\n".join(log.read_text().splitlines()[-LAST_LINES:])
            raise StartError(words or f"the runner ended with code {runner.returncode}")
        try:
            found = remote.status(home.directory)
        except Unreachable:
            found = []
        states = {one.state for one in found}
        if found and (states <= SETTLED or states & BROKEN):
            runner.returncode = 0  # it is not ours to wait for any more
            return found
        time.sleep(POLL_SECONDS)
    late = ", ".join(f"{one.name} is {one.state}" for one in found if one.state not in SETTLED)
    raise TimedOut(f"not ready after {timeout_s:.0f} s: {late}; see: tulle ps, tulle logs")


def main(told: str) -> None:
    """Be the detached runner of the options in *told*, a JSON object."""
    given = json.loads(told)
    options = UpOptions(
        project=Path(given["project"]),
        home=Path(given["home"]),
        apps=tuple(given["apps"]),
        quiet=given["quiet"],
        shared=given["shared"],
    )
    os.environ["NO_COLOR"] = "1"
    try:
        sys.exit(up(options))
    except TulleError as error:
        sys.exit(str(error))


async def _serve(settings: RunSettings) -> None:
    await Supervisor(settings).serve()
