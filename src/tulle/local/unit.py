"""One replica: its sidecar first, then its program, kept running and told apart from a crash."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tulle.errors import StartError
from tulle.local.backoff import Backoff
from tulle.local.child import Child, Launch, start
from tulle.local.output import Console, LogFile
from tulle.local.paths import Home
from tulle.local.plan import Replica, app_environment
from tulle.local.ports import holder_of, is_free
from tulle.local.project import App, Project
from tulle.local.sidecar import Event, Sidecar
from tulle.local.status import AppStatus, State

CRASH_LINES = 8
"""Of its last output, shown with a crash: enough for the end of a traceback."""

NOT_FOUND = 127
"""What a shell exits with when the command does not exist."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every unit of one run shares."""

    project: Project
    home: Home
    console: Console
    run: str
    """The id that marks all processes of this run."""
    wait_for_dependencies: Callable[[str], Awaitable[None]]
    """Returns once an app may start."""
    inherited: Mapping[str, str]
    """The environment that apps start from."""
    in_terminal: bool = False
    """Whether the program has the terminal to itself, as with `tulle run`."""


class Unit:
    """A replica of an app and its sidecar."""

    def __init__(self, replica: Replica, around: Surroundings) -> None:
        """Prepare; `attach` gives it its sidecar, `keep` runs it."""
        self.replica = replica
        self.name = replica.name
        self.state: State = "waiting"
        self.reason: str | None = None
        self.restarts = 0
        self.ready = asyncio.Event()
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        """Set when the program has ended and is not started again by itself."""
        self.exit_code: int | None = None
        self.failure: StartError | None = None
        self.sidecar: Sidecar
        self.child: Child | None = None
        self._around = around
        self._app: App = around.project.manifest.apps[replica.app]
        self._log = LogFile(around.home.logs / f"{replica.name}.log")
        self._used_addresses: object = None
        self._wanted_stop = False
        self._probed_ready = False
        self._again = asyncio.Event()

    def __repr__(self) -> str:
        """Show the state: `<Unit cart-1 ready, 0 restarts>`."""
        return f"<Unit {self.name} {self.state}, {self.restarts} restarts>"

    @property
    def last_line(self) -> str:
        """The last line that the program wrote; empty if there is none."""
        return self._log.tail[-1] if self._log.tail else ""

    async def keep_app(self) -> None:
        """Run the program until cancelled, or until it ends in a way that is not restarted."""
        self._to("waiting", "for its sidecar")
        await self.sidecar.serving.wait()
        await self._around.wait_for_dependencies(self.replica.app)
        backoff = Backoff()
        while True:
            await self.sidecar.serving.wait()
            began = time.monotonic()
            try:
                await self._await_port()
                code = await self._run_once()
            except StartError as error:
                self.failure = error
                self._fail(f"{error} ({self._place('command')})")
                await self._until_asked()
                backoff.reset()
                continue
            if self._wanted_stop:
                self._wanted_stop = False
                continue
            self.exit_code = code
            if code == NOT_FOUND and self._log.tail:
                self._fail(
                    f"{self.name}: {self._log.tail[-1]}; "
                    f"install it or correct `command` ({self._place('command')})"
                )
            elif not self._restarts_after(code):
                self._to("done" if code == 0 else "failed", _ending(code))
            else:
                await self._back_off(code, began, backoff)
                continue
            await self._until_asked()
            backoff.reset()

    async def stop_app(self, grace_seconds: float | None = None) -> None:
        """Stop the program; *grace_seconds* None gives it its own stop timeout."""
        if self.child is not None and self.child.running:
            self._to("stopping")
            grace = self._app.stop_timeout.ms / 1000 if grace_seconds is None else grace_seconds
            await self.child.stop(grace)
            self._to("stopped")
        self.ready.clear()
        self.state, self.reason = "stopped", None

    async def restart(self) -> None:
        """Take the replica out of the mesh, stop it, and start both processes again."""
        was_running = self._wanted_stop = self.child is not None and self.child.running
        self._probed_ready = False
        self.ready.clear()
        self.sidecar.wanted.clear()  # a new one would find the old program ready
        await self.sidecar.drain_inbound()  # new requests go to other replicas
        if was_running:
            await self.stop_app()
        else:
            self._again.set()
        await self.sidecar.stop()
        self.sidecar.wanted.set()

    def wait_for(self, service: str) -> None:
        """Show that the program is not started before *service* is ready."""
        self._to("waiting", f"for {service}")

    def status(self) -> AppStatus:
        """Return what there is to tell."""
        running = self.child if self.child is not None and self.child.running else None
        beside = self.sidecar.child
        return AppStatus(
            name=self.name,
            app=self.replica.app,
            kind="app",
            state=self.state,
            reason=self.reason,
            pid=running.pid if running else None,
            uptime_s=round(time.monotonic() - running.started, 3) if running else None,
            restarts=self.restarts,
            ports=(self.replica.app_port,) if self.replica.app_port else (),
            mesh=self.replica.mesh_name,
            sidecar_pid=beside.pid if beside is not None and beside.running else None,
        )

    def on_event(self, event: Event) -> None:
        """Take what the sidecar says."""
        match event["event"]:
            case "ready" if self.replica.workload_port is not None:
                self._probed_ready = True
                if self.child is not None and self.child.running:
                    self._become_ready()
            case "not-ready" if self.replica.workload_port is not None:
                self._probed_ready = False
                self.ready.clear()
                if self.state == "ready":
                    self._to("not-ready", "its port or health path does not answer")
            case "sidecar-ended" | "no-token":
                self._probed_ready = False
                self.ready.clear()
                if self.state == "ready":
                    self._to("not-ready", "its sidecar ended")
                self._around.console.problem(
                    f"{self.name}: {event['error']}; see: tulle logs --sidecars {self.name}"
                )
            case "listening" if self._used_addresses not in (None, event["addresses"]):
                self._around.console.say(f"{self.name}: new local addresses, starting it again")
                if self.child is not None and self.child.running:
                    self._wanted_stop = True
                    self.child.signal(15)
            case "joined" if self._around.in_terminal:
                self._around.console.say(self._introduction())
            case "refused":
                self._around.console.problem(f"{self.name}: a record was refused: {dict(event)}")

    def close(self) -> None:
        """Close the logs."""
        self._log.close()
        self.sidecar.close()

    async def _run_once(self) -> int:
        self._used_addresses = self.sidecar.addresses
        environment = app_environment(self.replica, self.sidecar.addresses, self._around.inherited)
        launch = Launch(
            name=self.name,
            command=self._app.command,
            environment={**environment, **self._app.environment},
            directory=self._around.project.directory / self._app.working_directory,
            run=self._around.run,
            in_terminal=self._around.in_terminal,
        )
        self._log.tail.clear()
        self.child = start(launch, self._on_line)
        self.started.set()
        if self.replica.workload_port is None:
            self.ready.set()
            self._to("running")
        elif self._probed_ready:
            self._become_ready()
        else:
            self._to("starting", f"waits for port {self.replica.app_port}")
        code = await self.child.wait()
        self.ready.clear()
        await self.child.stop(0)  # what a shell left behind would hold the port
        return code

    async def _await_port(self) -> None:
        """Return once the app's port is free; say who holds it."""
        port = self.replica.app_port
        while port is not None and not is_free(port):
            holder = holder_of(port) or "another program"
            message = f"{self.name}: port {port} is in use by {holder}; stop it, or change `port`"
            if self._app.restart == "never":
                raise StartError(message)
            self._fail(f"{message} ({self._place('port')})")
            await asyncio.sleep(1)

    async def _back_off(self, code: int, began: float, backoff: Backoff) -> None:
        ran = time.monotonic() - began
        delay = backoff.next_delay(ran)
        self.restarts += 1
        lines = "".join(f"\n  {line}" for line in list(self._log.tail)[-CRASH_LINES:])
        self._around.console.problem(
            f"{self.name} {_ending(code)} after {ran:.1f} s; restart {self.restarts} "
            f"in {delay:.1f} s; see: tulle logs {self.replica.app}{lines}"
        )
        self._to("backoff", f"{_ending(code)}; restart in {delay:.1f} s")
        try:
            await asyncio.wait_for(self._again.wait(), delay)
            self._again.clear()
            backoff.reset()
        except TimeoutError:
            return

    async def _until_asked(self) -> None:
        self.ended.set()
        await self._again.wait()
        self.ended.clear()
        self._again.clear()

    def _restarts_after(self, code: int) -> bool:
        return self._app.restart == "always" or (self._app.restart == "on-failure" and code != 0)

    def _become_ready(self) -> None:
        self.ready.set()
        self._to("ready")

    def _fail(self, message: str) -> None:
        reason = message.removeprefix(f"{self.name}: ")  # beside it, a status has the name anyway
        if reason != self.reason and not self._around.in_terminal:  # else the caller raises it
            self._around.console.problem(message)
        self.state, self.reason = "failed", reason

    def _to(self, state: State, reason: str | None = None) -> None:
        if (state, reason) == (self.state, self.reason):
            return
        self.state, self.reason = state, reason
        if state == "ready":
            where = f"127.0.0.1:{self.replica.app_port} -> {self.replica.mesh_name}"
            self._around.console.state(self.name, state, where)
        elif state != "backoff":  # told with the crash
            self._around.console.state(self.name, state, reason or "")

    def _on_line(self, line: str) -> None:
        self._log.write(line)
        self._around.console.line(self.name, line)

    def _introduction(self) -> str:
        """Say who the program is in the mesh, and how it calls others."""
        replica = self.replica
        domain = self._around.project.manifest.mesh.trust_domain
        return (
            f"{self.name} meshed as spiffe://{domain}/ns/{replica.namespace}"
            f"/sa/{replica.service_account}; "
            f"outbound http://{self.sidecar.addresses['proxy']} (HTTP_PROXY set)"
        )

    def _place(self, key: str) -> str:
        return self._around.project.place("apps", self.replica.app, key)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    name = {9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM", 6: "SIGABRT", 2: "SIGINT"}.get(-code)
    return f"was ended by {name or f'signal {-code}'}"


def inherited_environment(path_first: Path | None = None) -> dict[str, str]:
    """Return the runner's own environment, without the ways into another mesh.

    Programs in the folder *path_first* are found before all others.
    """
    proxies = ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy")
    environment = {key: value for key, value in os.environ.items() if key not in proxies}
    if path_first is not None:
        environment["PATH"] = f"{path_first}{os.pathsep}{environment.get('PATH', os.defpath)}"
    return environment
