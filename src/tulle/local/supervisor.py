"""The runner: control plane, sidecars and apps of one project, from start to the last stop.

guard → control plane and sidecars at once → each app as soon as its sidecar listens and what it
waits for is ready → … → apps, callers first → sidecars → control plane → guard
"""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import tulle
from tulle.errors import NotFound, StartError
from tulle.local import marks
from tulle.local.control import NAME as CONTROL_PLANE
from tulle.local.control import (
    RUN_ANNOTATION,
    ControlPlane,
    JoinedPlane,
    Resources,
    withdraw,
)
from tulle.local.manifests import (
    implied_namespaces,
    implied_services,
    read_resources,
    services_in,
)
from tulle.local.output import Console
from tulle.local.paths import Home
from tulle.local.plan import plan_replica
from tulle.local.plane import Plane
from tulle.local.ports import Ports
from tulle.local.project import Project, providers, select_apps
from tulle.local.requests import Request, RequestServer
from tulle.local.shared import SharedProcess
from tulle.local.sidecar import STOP_SECONDS, LocalMesh, Sidecar
from tulle.local.status import AppStatus
from tulle.local.unit import Surroundings, Unit, inherited_environment
from tulle.resources.violations import suggest

READY_AGAIN_SECONDS = 15.0
"""How long a restart waits for one replica before it goes on to the next."""

GUARD = "import sys; sys.path.append({root!r}); from tulle.local.guard import main; main({args})"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What to run, and where its words go."""

    project: Project
    home: Home
    out: TextIO
    apps: tuple[str, ...] = ()
    """Which apps, with what they wait for; all if empty."""
    color: bool = False
    quiet: bool = False
    """Leave the apps' own output to the log files."""
    states: bool = True
    """Tell each change of state."""
    single: bool = False
    """Run the only app in this terminal, once, and end with it."""
    joined_hub: str | None = None
    """The hub of a control plane that runs already; None starts one."""
    suffix: str = ""
    """What replicas are called instead of a number, so that two runs of an app differ."""
    transparent: bool = False
    """Whether sidecars intercept what is sent from this network namespace: of one, not several."""
    path_first: Path | None = None
    """A folder that apps find programs in before all others."""
    shared: bool = False
    """Whether all sidecars share one process."""


class Supervisor:
    """Everything that one `tulle up` keeps running."""

    def __init__(self, settings: RunSettings) -> None:
        """Plan the run; nothing is started yet.

        Raises:
            InvalidResources: a resource file cannot be read.
            NotFound: an app of that name does not exist.
        """
        self.settings = settings
        self.run = uuid.uuid4().hex[:12]
        self.units: list[Unit] = []
        self.stop_asked = asyncio.Event()
        project, home = settings.project, settings.home
        apps = select_apps(project, settings.apps)
        written = read_resources(project)
        self._services = services_in(written)
        home.prepare()
        ports = Ports(str(home.directory))
        mesh_settings = project.manifest.mesh
        self._mesh = LocalMesh(
            home=home,
            ports=ports,
            plane=Plane(home.api_socket),
            plane_ready=asyncio.Event(),
            hub=settings.joined_hub or f"127.0.0.1:{ports.take('hub')}",
            run=self.run,
            transparent=settings.transparent,
            shared=SharedProcess(home, self.run) if settings.shared else None,
            settings={
                "trust_domain": mesh_settings.trust_domain,
                "access_log": mesh_settings.access_log,
            },
        )
        width = max(len(CONTROL_PLANE), *(len(app) + 2 for app in apps)) if apps else 0
        self.console = Console(
            settings.out,
            color=settings.color,
            width=width,
            quiet=settings.quiet,
            states=settings.states,
        )
        namespaces = implied_namespaces(project, written)
        services = implied_services(project, apps, self._services)
        if settings.single:
            for service in services:
                service["metadata"]["annotations"] = {RUN_ANNOTATION: "true"}
        self._implied = services
        self.control: ControlPlane | JoinedPlane
        if settings.joined_hub is None:
            resources = Resources([*services, *written], namespaces)
            self.control = ControlPlane(self._mesh, mesh_settings, resources, self.console)
        else:
            self.control = JoinedPlane(self._mesh, Resources(written, [*namespaces, *services]))
        for app in apps:
            for number in range(1, project.manifest.apps[app].replicas + 1):
                self.units.append(self._unit(app, settings.suffix or str(number)))
        self._tasks: list[asyncio.Task[None]] = []
        self._hurry = asyncio.Event()

    async def serve(self) -> None:
        """Run until asked to stop, then stop everything in order.

        Raises:
            StartError: another runner has this home, or the control plane does not come up.
            InvalidResources: the control plane refuses the project's resources.
        """
        home = self.settings.home
        owns_home = self.settings.joined_hub is None
        with _locked(home) if owns_home else contextlib.nullcontext():
            guard, guard_pipe = start_guard(self.run)
            self._handle_signals()
            requests = RequestServer(home.runner_socket, self._answer) if owns_home else None
            try:
                if requests is not None:
                    await requests.start()
                    home.runner_file.write_text(self._description())
                await self._run()
            finally:
                await self._stop_all()
                if requests is not None:
                    await requests.stop()
                    home.runner_file.unlink(missing_ok=True)
                os.write(guard_pipe, b".")
                os.close(guard_pipe)
                guard.wait()

    def _description(self) -> str:
        project = str(self.settings.project.path)
        return json.dumps({"pid": os.getpid(), "project": project, "hub": self._mesh.hub})

    def ask_to_stop(self) -> None:
        """Stop in order; asked a second time, stop now."""
        if self.stop_asked.is_set():
            self._hurry.set()
        self.stop_asked.set()

    def statuses(self) -> list[AppStatus]:
        """Return the state of everything, the control plane first."""
        return [self.control.status(), *(unit.status() for unit in self.units)]

    async def restart(self, names: Sequence[str], *, sidecars: bool = False) -> list[str]:
        """Restart apps or replicas, one replica after the other; return what was restarted.

        *sidecars*: put a new sidecar beside each instead, and let the app run.

        Raises:
            NotFound: there is no app or replica of a name; nothing was restarted.
            StartError: a new sidecar failed; the old one goes on, and later ones were not tried.
        """
        chosen = [unit for unit in self.units if {unit.name, unit.replica.app} & set(names)]
        known = {name for unit in self.units for name in (unit.name, unit.replica.app)}
        if not sidecars:
            known.add(CONTROL_PLANE)
        for name in names:
            if name not in known:
                hint = suggest(name, sorted(known)) or "see: tulle ps"
                raise NotFound(f'no app "{name}" is running; {hint}')
        if sidecars:
            for unit in chosen:
                await unit.sidecar.upgrade()
            return [unit.name for unit in chosen]
        if CONTROL_PLANE in names:
            await self.control.restart()
        for unit in chosen:
            await unit.restart()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(unit.ready.wait(), READY_AGAIN_SECONDS)
        return [CONTROL_PLANE] * (CONTROL_PLANE in names) + [unit.name for unit in chosen]

    async def _answer(self, request: Request) -> Request:
        """Do what another terminal asks for."""
        match request["op"]:
            case "status":
                return {"apps": [status.to_json() for status in self.statuses()]}
            case "restart":
                names, sidecars = request["names"], request["sidecars"]
                return {"restarted": await self.restart(names, sidecars=sidecars)}
            case "down":
                self.ask_to_stop()
                return {}
        raise NotFound(f'this runner cannot "{request["op"]}"; its version is another one')

    def _unit(self, app: str, number: str) -> Unit:
        project = self.settings.project
        wanted = project.manifest.apps[app]
        port = wanted.port
        if port is None and project.service(app) is not None:
            port = self._mesh.ports.take(f"{app}-{number}")
        replica = plan_replica(project, app, number, port, self._services)
        around = Surroundings(
            project=project,
            home=self.settings.home,
            console=self.console,
            run=self.run,
            wait_for_dependencies=self._wait_for_dependencies,
            inherited=inherited_environment(self.settings.path_first),
            in_terminal=self.settings.single,
        )
        unit = Unit(replica, around)
        unit.sidecar = Sidecar(replica, self._mesh, unit.on_event)
        return unit

    async def _run(self) -> None:
        """Keep everything until asked to stop, or until something cannot go on."""
        keep: list[Coroutine[None, None, None]] = [self.control.keep()]
        keep += [unit.sidecar.keep() for unit in self.units]
        keep += [unit.keep_app() for unit in self.units]
        self._tasks = [asyncio.ensure_future(one) for one in keep]
        self._tasks.append(asyncio.ensure_future(_wait(self.stop_asked)))
        if self.settings.single:
            self._tasks.append(asyncio.ensure_future(_wait(self.units[0].ended)))
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # but for the request to stop, only what is wrong ends a task

    async def _stop_all(self) -> None:
        """Stop apps, callers before those they call; then sidecars; then the control plane."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for level in self._levels():
            await self._unless_hurried([unit.stop_app() for unit in level])
        await self._unless_hurried([unit.sidecar.stop() for unit in self.units])
        if self._mesh.shared is not None:
            await self._unless_hurried([self._mesh.shared.stop(STOP_SECONDS)])
            self._mesh.shared.close()
        if self.settings.single:
            name = self.units[0].name
            await asyncio.to_thread(withdraw, self._mesh.plane, self._implied, name)
        await self._unless_hurried([self.control.stop()])
        await asyncio.to_thread(marks.end_all, f"{self.run}/", 0)
        for unit in self.units:
            unit.close()
        self.control.close()

    async def _unless_hurried(self, stops: Sequence[Coroutine[None, None, None]]) -> None:
        """Await *stops*, or give up on them when the user asks a second time."""
        all_stopped = asyncio.ensure_future(_all(stops))
        hurry = asyncio.ensure_future(_wait(self._hurry))
        await asyncio.wait([all_stopped, hurry], return_when=asyncio.FIRST_COMPLETED)
        for one in (all_stopped, hurry):
            one.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await one

    async def _wait_for_dependencies(self, app: str) -> None:
        """Return once one replica of each service that *app* waits for is as it wants it."""
        project = self.settings.project
        for dependency in project.manifest.apps[app].depends_on:
            names = providers(project, dependency.target(project.namespace(app)))
            units = [unit for unit in self.units if unit.replica.app in names]
            if not units:
                continue
            for unit in self.units:
                if unit.replica.app == app:
                    unit.wait_for(dependency.service)
            ready = dependency.condition == "ready"
            events = [unit.ready if ready else unit.started for unit in units]
            waits = [asyncio.ensure_future(event.wait()) for event in events]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.ask_to_stop)

    def _levels(self) -> list[list[Unit]]:
        """Return the units in groups: first those that nobody else here calls."""
        project = self.settings.project
        depths: dict[str, int] = {}

        def depth(app: str, above: tuple[str, ...]) -> int:
            if app not in depths:
                called = [
                    provider
                    for dependency in project.manifest.apps[app].depends_on
                    for provider in providers(project, dependency.target(project.namespace(app)))
                    if provider not in above
                ]
                depths[app] = 1 + max((depth(one, (*above, app)) for one in called), default=0)
            return depths[app]

        by_depth: dict[int, list[Unit]] = {}
        for unit in self.units:
            by_depth.setdefault(depth(unit.replica.app, (unit.replica.app,)), []).append(unit)
        return [by_depth[key] for key in sorted(by_depth, reverse=True)]


def start_guard(run: str) -> tuple["subprocess.Popen[bytes]", int]:
    """Start the guard; return it and the end of the pipe that tells it we live."""
    reader, writer = os.pipe()
    root = str(Path(tulle.__file__).parents[1])
    boot = GUARD.format(root=root, args=f"{reader}, {f'{run}/'!r}")
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", boot],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(reader,),
        start_new_session=True,
    )
    os.close(reader)
    return guard, writer


async def _all(parts: Sequence[Coroutine[None, None, None]]) -> None:
    await asyncio.gather(*parts)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def runs_already(home: Home) -> str:
    """Return what to tell who starts a second runner."""
    return f"{home.directory.parent} is running already; see: tulle ps; stop it: tulle down"


@contextlib.contextmanager
def _locked(home: Home) -> Iterator[None]:
    """Hold the home's lock; the kernel gives it back however the runner ends."""
    descriptor = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(runs_already(home)) from None
        yield
    finally:
        os.close(descriptor)
