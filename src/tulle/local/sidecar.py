"""Keep the sidecar of one replica running, and know what it says."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tulle
from tulle.errors import StartError, TulleError
from tulle.local.backoff import Backoff
from tulle.local.child import Child, Launch, start
from tulle.local.output import LogFile
from tulle.local.paths import Home
from tulle.local.plan import DRAIN_SECONDS, Replica, sidecar_settings
from tulle.local.plane import Plane
from tulle.local.ports import Ports
from tulle.local.shared import Seat, SharedProcess

ROOT = str(Path(tulle.__file__).parents[1])
BOOT = "import sys; sys.path.append({root!r}); from tulle.sidecar.launch import main; main({args})"

STOP_SECONDS = DRAIN_SECONDS + 2.0

UPGRADE_SECONDS = 30.0
"""How long a new process may take until it serves; the old one serves meanwhile."""

GIVE_UP_SECONDS = 2.0
"""How long a new sidecar that does not come to serve gets to end."""

Event = Mapping[str, Any]


def host_command(settings: Path, token_fd: int | None) -> list[str]:
    """Return the command line of a sidecar: a bare interpreter, without the CLI before it."""
    boot = BOOT.format(root=ROOT, args=f"{str(settings)!r}, {token_fd}")
    return [sys.executable, "-I", "-S", "-c", boot]


@dataclass(frozen=True, slots=True)
class LocalMesh:
    """What every sidecar of one run shares."""

    home: Home
    ports: Ports
    plane: Plane
    plane_ready: asyncio.Event
    hub: str
    """Where sidecars reach the control plane; the same address over its restarts."""
    run: str
    """The id that marks all processes of this run."""
    settings: Mapping[str, str]
    """`trust_domain` and `access_log`."""
    transparent: bool = False
    """Whether the sidecar intercepts what is sent from this network namespace."""
    shared: SharedProcess | None = None
    """The process of all sidecars; None where each has its own."""


class Sidecar:
    """The sidecar of one replica, started again whenever it ends."""

    def __init__(
        self, replica: Replica, mesh: LocalMesh, on_event: Callable[[Event], None]
    ) -> None:
        """Prepare; `keep` starts it. *on_event* gets what it says."""
        self.wanted = asyncio.Event()
        """While it is not set, a sidecar that has ended stays so."""
        self.wanted.set()
        self.listening = asyncio.Event()
        self.joined = asyncio.Event()
        self.serving = asyncio.Event()
        """Set while it accepts connections, and shall."""
        self.quiet = asyncio.Event()
        """Set when nothing comes in any more."""
        self.addresses: dict[str, Any] = {}
        self.child: Child | Seat | None = None
        self.error: str | None = None
        self._replica = replica
        self._mesh = mesh
        self._on_event = on_event
        self._has_joined = False
        self._asked = False
        self._left: list[Child | Seat] = []
        """Processes that were succeeded, and drain."""
        self._listen: dict[str, int] = {}
        self._log = LogFile(mesh.home.logs / f"{replica.name}.sidecar.log")

    async def keep(self) -> None:
        """Run the sidecar until cancelled."""
        backoff = Backoff()
        while True:
            await self.wanted.wait()
            began = time.monotonic()
            self._write_settings()
            token = asyncio.ensure_future(self._hand_token(self._begin()))
            try:
                code = await self._last_code()
            finally:
                token.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await token
            self.listening.clear()
            self.joined.clear()
            self.serving.clear()
            self._move_busy_ports()
            if self._asked:
                self._asked = False
                backoff.reset()
                continue
            reason = self.error or f"its sidecar exited with code {code}"
            self._on_event({"event": "sidecar-ended", "error": reason})
            await asyncio.sleep(backoff.next_delay(time.monotonic() - began))

    async def upgrade(self) -> None:
        """Start a new process that takes over from the running one, which drains and ends.

        Raises:
            StartError: there is none, or the new one did not come to serve; the old one goes on.
        """
        name, old = self._replica.name, self.child
        if old is None or not self.serving.is_set():
            raise StartError(f"{name}: its sidecar does not serve yet; see: tulle ps")
        self.serving.clear()
        self.error = None
        new = self._start_beside(old)
        serves = asyncio.ensure_future(self.serving.wait())
        ended = asyncio.ensure_future(new.wait())
        try:
            async with asyncio.timeout(UPGRADE_SECONDS):
                await asyncio.wait((serves, ended), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            self.error = f"it did not serve within {UPGRADE_SECONDS:.0f} s"
        finally:
            serves.cancel()
            ended.cancel()
        if self.serving.is_set():
            self.child = new
            self._left = [*(one for one in self._left if one.running), old]
            return
        await new.stop(GIVE_UP_SECONDS)
        if old.running:
            self.serving.set()
        raise StartError(f"{name}: the new sidecar failed, the old one goes on: {self.error}")

    async def drain_inbound(self) -> None:
        """Let what others ask of the app end; the app can still call, but starts with the next."""
        if self.child is None or not self.serving.is_set():
            return
        self.serving.clear()
        self.quiet.clear()
        if isinstance(self.child, Seat):
            self.child.quiet()
        else:
            self.child.signal(signal.SIGUSR1)
        quiet = asyncio.ensure_future(self.quiet.wait())
        ended = asyncio.ensure_future(self.child.wait())
        await asyncio.wait(
            (quiet, ended), timeout=STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        quiet.cancel()
        ended.cancel()

    async def stop(self, grace_seconds: float = STOP_SECONDS) -> None:
        """Let it drain and end; kill it after the grace. `keep` starts another one."""
        children = [one for one in (self.child, *self._left) if one is not None and one.running]
        if children:
            self._asked = True
            await asyncio.gather(*(one.stop(grace_seconds) for one in children))

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def _begin(self) -> Callable[[str], None]:
        """Start it; return what hands it its token, "" for none."""
        folder = self._mesh.home.sidecar(self._replica.name)
        if self._mesh.shared is not None:
            self.child = seat = self._mesh.shared.add(self._replica.name, folder, self._on_line)
            return lambda token: seat.join(self._mesh.home.roots, token)
        reader, writer = os.pipe()
        try:
            self.child = self._start(reader)
        except StartError:
            os.close(writer)
            raise
        finally:
            os.close(reader)

        def hand(token: str) -> None:
            with contextlib.suppress(BrokenPipeError):  # it ended; `keep` sees that too
                os.write(writer, token.encode())
            os.close(writer)

        return hand

    def _start_beside(self, old: Child | Seat) -> Child | Seat:
        """Start the one that takes over from *old*, with the certificate that is kept."""
        if not isinstance(old, Seat) or self._mesh.shared is None:
            return self._start(None)
        name = self._replica.name
        folder = self._mesh.home.sidecar(name)
        seat = self._mesh.shared.add(name, folder, self._on_line, succeeds=old)
        seat.join(self._mesh.home.roots, "")
        return seat

    def _start(self, reader: int | None) -> Child:
        name = f"{self._replica.name}.sidecar"
        settings = self._mesh.home.sidecar(self._replica.name) / "settings.json"
        launch = Launch(
            name=name,
            command=host_command(settings, reader),
            environment=dict(os.environ),
            directory=self._mesh.home.directory,
            run=self._mesh.run,
            pass_fds=() if reader is None else (reader,),
        )
        return start(launch, self._on_line)

    async def _last_code(self) -> int:
        """Return how the process ended that nobody has succeeded."""
        while True:
            child = self.child
            assert child is not None  # noqa: S101  # `keep` has started it
            code = await child.wait()
            if child is self.child:
                return code

    def _write_settings(self) -> None:
        names = ["proxy", "admin", *(f"outbound/{n}" for n in range(len(self._replica.outbound)))]
        if self._replica.workload_port is not None:
            names.append("inbound")
        for name in names:
            if name not in self._listen:
                self._listen[name] = self._mesh.ports.take(f"{self._replica.name} {name}")
        settings = sidecar_settings(
            self._replica, self._mesh.home, self._mesh.hub, self._listen, self._mesh.settings
        )
        if self._mesh.transparent:
            settings["transparent"] = {"outbound_only": True}
        if self._mesh.shared is not None:
            settings.pop("roots_pem_path")  # it comes with the token
            settings["workers"] = self._mesh.shared.workers
        folder = self._mesh.home.sidecar(self._replica.name)
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "settings.json").write_text(json.dumps(settings, indent=1))

    def _move_busy_ports(self) -> None:
        """Choose again where somebody else listens by now; the app learns it by a restart."""
        for name, port in list(self._listen.items()):
            self._mesh.ports.give_back(port)
            self._listen[name] = self._mesh.ports.take(f"{self._replica.name} {name}")

    async def _hand_token(self, hand: Callable[[str], None]) -> None:
        """Give *hand* a token as soon as there is one; "" for a known sidecar, or at the end."""
        token = ""
        try:
            while not (self._has_joined and not self._mesh.plane_ready.is_set()):
                await self._mesh.plane_ready.wait()
                try:
                    token = await asyncio.to_thread(
                        self._mesh.plane.new_token,
                        self._replica.namespace,
                        self._replica.service_account,
                    )
                except TulleError as error:
                    self._on_event({"event": "no-token", "error": str(error)})
                    await asyncio.sleep(1)
                    continue
                return
        finally:
            hand(token)

    def _on_line(self, line: str) -> None:
        self._log.write(line)
        try:
            event = json.loads(line)
        except ValueError:  # a traceback, or something else that is not an event
            return
        match event.get("event"):
            case "listening":
                self.addresses = event["addresses"]
                self.listening.set()
            case "joined":
                self._has_joined = True
                self.error = None
                self.joined.set()
            case "serving":
                self.serving.set()
            case "inbound-drained":
                self.quiet.set()
            case "failed":
                self.error = event["error"]
        self._on_event(event)
