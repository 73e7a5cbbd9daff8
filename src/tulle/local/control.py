"""Keep the control plane of a run alive, and give it the project's resources."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tulle.errors import InvalidResources, StartError, TulleError
from tulle.local.backoff import Backoff
from tulle.local.child import Child, Launch, start
from tulle.local.manifests import Object
from tulle.local.output import Console, LogFile
from tulle.local.plane import Plane, server_command
from tulle.local.project import MeshSettings
from tulle.local.sidecar import LocalMesh
from tulle.local.status import AppStatus, State

NAME = "control-plane"
RUN_ANNOTATION = "tulle.dev/made-by-run"
"""On Services that only `tulle run` asked for: they go with the last program behind them."""

LOOK_SECONDS = 0.01
"""Between two looks for the file it writes when it is ready; the whole start waits for it."""

READY_SECONDS = 20.0
STOP_SECONDS = 6.0


class Resources(NamedTuple):
    """What the control plane is given at the start."""

    written: Sequence[Object]
    """Applied as they are."""
    implied: Sequence[Object]
    """Applied where there is no object of that name yet: somebody may have changed it since."""


class ControlPlane:
    """The control plane as a child of the runner."""

    def __init__(
        self, mesh: LocalMesh, settings: MeshSettings, resources: Resources, console: Console
    ) -> None:
        """Prepare; `keep` starts it."""
        self.state: State = "starting"
        self.reason: str | None = None
        self.restarts = 0
        self._mesh = mesh
        self._settings = settings
        self._resources = resources
        self._console = console
        self._child: Child | None = None
        self._asked = False
        self._log = LogFile(mesh.home.logs / f"{NAME}.log")

    async def keep(self) -> None:
        """Run it until cancelled.

        Raises:
            StartError: it does not come up the first time.
            InvalidResources: it refuses the project's resources.
        """
        backoff = Backoff()
        while True:
            began = time.monotonic()
            self._mesh.home.server_file.unlink(missing_ok=True)
            self._child = start(self._launch(), self._log.write)
            await self._come_up(self._child, began)
            code = await self._child.wait()
            self._mesh.plane_ready.clear()
            if self._asked:
                self._asked = False
                self.state, self.reason = "starting", None
                self.restarts += 1
                backoff.reset()
                continue
            delay = backoff.next_delay(time.monotonic() - began)
            self.restarts += 1
            self.state, self.reason = "backoff", f"exited with code {code}"
            self._console.problem(
                f"the control plane exited with code {code}; traffic goes on, restart in "
                f"{delay:.1f} s; see: tulle logs {NAME}"
            )
            await asyncio.sleep(delay)

    async def stop(self) -> None:
        """Let it end; kill it after the grace."""
        if self._child is not None:
            await self._child.stop(STOP_SECONDS)
        self.state = "stopped"

    async def restart(self) -> None:
        """Stop it; return when `keep` has started it again, or after a while without success."""
        if self._child is not None and self._child.running:
            self._asked = True
            await self._child.stop(STOP_SECONDS)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._mesh.plane_ready.wait(), READY_SECONDS)

    def status(self) -> AppStatus:
        """Return what there is to tell."""
        child = self._child if self._child is not None and self._child.running else None
        return AppStatus(
            name=NAME,
            app=NAME,
            kind="control-plane",
            state=self.state,
            reason=self.reason,
            pid=child.pid if child else None,
            uptime_s=round(time.monotonic() - child.started, 3) if child else None,
            restarts=self.restarts,
            ports=(int(self._mesh.hub.rpartition(":")[2]),),
            mesh=None,
            sidecar_pid=None,
        )

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def _launch(self) -> Launch:
        return Launch(
            name=NAME,
            command=server_command(
                self._mesh.home.directory,
                self._mesh.hub,
                self._settings.trust_domain,
                self._settings.certificate_ttl,
            ),
            environment=dict(os.environ),
            directory=self._mesh.home.directory,
            run=self._mesh.run,
        )

    async def _come_up(self, child: Child, began: float) -> None:
        """Wait until it is ready; give it the resources; let the sidecars join.

        One that ends before is started again by `keep`, except the first.
        """
        home = self._mesh.home
        while not home.server_file.exists():
            if not child.running:
                if self.restarts == 0:
                    raise StartError(self._why_not(child))
                return
            if time.monotonic() - began > READY_SECONDS:
                slow = f"the control plane is not ready after {READY_SECONDS:.0f} s"
                if self.restarts == 0:
                    raise StartError(f"{slow}; see: tulle logs {NAME}")
                self._console.problem(f"{slow}; it is started again")
                await child.stop(0)
                return
            await asyncio.sleep(LOOK_SECONDS)
        try:
            await asyncio.to_thread(give, self._mesh, self._resources)
        except InvalidResources:
            raise
        except TulleError as error:
            if self.restarts == 0:
                raise
            self._console.problem(f"the control plane does not take the resources: {error}")
        self.state, self.reason = "ready", None
        self._console.state(NAME, "ready", f"{time.monotonic() - began:.1f} s  {home.api_socket}")
        self._mesh.plane_ready.set()

    def _why_not(self, child: Child) -> str:
        lines = "".join(f"\n  {line}" for line in self._log.tail)
        return f"the control plane exited with code {child.ended.result()}{lines}"


class JoinedPlane:
    """A control plane that somebody else keeps running."""

    def __init__(self, mesh: LocalMesh, resources: Resources) -> None:
        """Prepare; `keep` gives it the resources."""
        self._mesh = mesh
        self._resources = resources

    async def keep(self) -> None:
        """Let the sidecars join, and wait until cancelled.

        Raises:
            InvalidResources: it refuses the resources.
            Unreachable: it is gone.
        """
        await asyncio.to_thread(give, self._mesh, self._resources)
        self._mesh.plane_ready.set()
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Leave it alone."""

    async def restart(self) -> None:
        """Leave it alone: whoever started it restarts it."""

    def status(self) -> AppStatus:
        """Return that it is there."""
        return AppStatus(NAME, NAME, "control-plane", "ready", None, None, None, 0, (), None, None)

    def close(self) -> None:
        """Close nothing."""


def give(mesh: LocalMesh, resources: Resources) -> None:
    """Take the roots of the control plane that is ready, and give it the resources.

    Raises:
        InvalidResources: it refuses them.
        TulleError: it cannot take them.
    """
    told = json.loads(mesh.home.server_file.read_bytes())
    mesh.home.roots.write_bytes(Path(told["roots_path"]).read_bytes())
    missing = [one for one in resources.implied if not mesh.plane.holds(one)]
    if missing or resources.written:
        mesh.plane.apply([*missing, *resources.written])


def withdraw(plane: Plane, services: Sequence[Object], workload: str) -> None:
    """Delete those of *services* that `tulle run` made, unless one besides *workload* is there.

    A control plane that is gone, or a Service that is not there any more, is no error.
    """
    for service in services:
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        path = f"/api/v1/namespaces/{namespace}/services/{name}"
        behind = (
            f"/apis/tulle.dev/v1alpha1/namespaces/{namespace}/workloads?labelSelector=app={name}"
        )
        with contextlib.suppress(TulleError):
            found = plane.call("GET", path)
            others = [
                one
                for one in plane.call("GET", behind)["items"]
                if one["metadata"]["name"] != workload and one.get("status", {}).get("connected")
            ]
            if RUN_ANNOTATION in found["metadata"].get("annotations", {}) and not others:
                plane.call("DELETE", path)
