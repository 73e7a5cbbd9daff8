"""`tulle demo`: the sample shop, to look at (`demo`) or to check (`demo_check`)."""

import asyncio
import importlib.util
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from tulle.errors import StartError, TimedOut
from tulle.local.check import Checked, measure
from tulle.local.paths import Home
from tulle.local.project import Project, load_project
from tulle.local.supervisor import RunSettings, Supervisor

SHOP = Path(__file__).parent / "shop"
READY_SECONDS = 60.0
CHECK_RATE = "40"
"""Pages a second in the check: some hundred calls between services, half of two slow cores."""

COMMANDS = (
    ("tulle edges -n shop", "who calls whom, as whom, how fast"),
    ("tulle tap -n shop catalog", "requests as they pass"),
    ("tulle split -n shop catalog v1=50 v2=50", "move traffic to version 2"),
)


def demo(home: Path | None, color: bool, out: TextIO = sys.stdout) -> int:  # noqa: FBT001
    """Run the shop until Ctrl-C, with a trickle of traffic; leave nothing behind; return 0.

    *home* is taken if nothing is there yet, so that other commands in this folder find the mesh;
    else, and for None, a temporary folder.

    Raises:
        StartError: a part of it cannot be started.
    """
    with _temporary_home(home) as chosen:
        asyncio.run(
            _demo(
                _settings(_shop(), chosen, out, color=color, states=False),
                in_place=chosen[0] == home,
            )
        )
    return 0


def demo_check(
    seconds: float = 30.0, out: TextIO = sys.stdout, progress: TextIO = sys.stderr
) -> int:
    """Run the shop under load, judge the mesh by its own telemetry, print one JSON object.

    Return 0 if all holds, else 1; the object's `failures` says what does not.

    Raises:
        StartError: a part of it cannot be started.
        TimedOut: the shop is not ready in time.
    """
    began = time.time()
    shop = _shop()
    traffic = shop.manifest.apps["traffic"]
    loaded = traffic.model_copy(update={"environment": {"RATE": CHECK_RATE, "SNOOP": "0"}})
    apps = {**shop.manifest.apps, "traffic": loaded}
    shop = shop._replace(manifest=shop.manifest.model_copy(update={"apps": apps}))
    with _temporary_home(None) as home:
        checked = asyncio.run(
            _check(_settings(shop, home, progress, color=False, states=True), seconds, began)
        )
    out.write(f"{json.dumps(checked.to_json(), indent=2)}\n")
    return 1 if checked.failures else 0


def _shop() -> Project:
    if importlib.util.find_spec("grpc") is None:
        raise StartError("the shop's payments speak gRPC; install it: pip install 'tulle[demo]'")
    return load_project(SHOP / "tulle.yaml")


def _settings(
    project: Project, home: Home, out: TextIO, *, color: bool, states: bool
) -> RunSettings:
    return RunSettings(
        project=project,
        home=home,
        out=out,
        color=color,
        quiet=True,
        states=states,
        path_first=Path(sys.executable).parent,
    )


@contextmanager
def _temporary_home(home: Path | None) -> Iterator[Home]:
    chosen = Path(tempfile.mkdtemp(prefix="tulle-")) if home is None or home.exists() else home
    try:
        yield Home(chosen)
    finally:
        shutil.rmtree(chosen, ignore_errors=True)


async def _demo(settings: RunSettings, *, in_place: bool) -> None:
    supervisor = Supervisor(settings)
    began = time.monotonic()
    welcome = asyncio.ensure_future(_welcome(supervisor, began, in_place=in_place))
    try:
        await supervisor.serve()
    finally:
        welcome.cancel()
        with suppress(asyncio.CancelledError):
            await welcome


async def _welcome(supervisor: Supervisor, began: float, *, in_place: bool) -> None:
    """Say what runs and what to try, once all is ready."""
    await _all_ready(supervisor)
    say = supervisor.console.say
    before = "" if in_place else f"TULLE_HOME={supervisor.settings.home.directory} "
    say(f"the shop runs in a mesh, {time.monotonic() - began:.1f} s after the start\n")
    for unit in supervisor.units:
        where = f"127.0.0.1:{unit.replica.app_port}" if unit.replica.app_port else "-"
        say(f"  {unit.name:<20}{where:<18}{unit.replica.mesh_name or 'customers: calls shop/web'}")
    web = next(unit for unit in supervisor.units if unit.replica.app == "web")
    say(f"\nits front: http://127.0.0.1:{web.replica.app_port}/    stop all with Ctrl-C")
    say("\ntry in another terminal:")
    for command, what in COMMANDS:
        say(f"  {before}{command:<42}# {what}")


async def _check(settings: RunSettings, seconds: float, began: float) -> Checked:
    supervisor = Supervisor(settings)
    serving = asyncio.ensure_future(supervisor.serve())
    try:
        ready = asyncio.ensure_future(_all_ready(supervisor))
        await asyncio.wait(
            [serving, ready], timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if serving.done():
            serving.result()
        if not ready.done():
            ready.cancel()
            late = [f"{unit.name}: {unit.state} ({unit.reason})" for unit in supervisor.units]
            raise TimedOut(f"the shop is not ready after {READY_SECONDS:.0f} s: {'; '.join(late)}")
        return await measure(supervisor, seconds, began)
    finally:
        supervisor.ask_to_stop()
        await asyncio.wait([serving])


async def _all_ready(supervisor: Supervisor) -> None:
    for unit in supervisor.units:
        await unit.ready.wait()
