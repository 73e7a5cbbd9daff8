"""One control-plane process on one data directory, from the lock to SIGTERM.

Order of the start: lock, store and CA, sockets, hub, API; server.json is written
when all of it serves. Order of the end: streams are told, requests finish, the
hub closes, server.json goes, the lock is free. Sidecars need none of it meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn

from tulle.control.app import make_app
from tulle.control.clock import SYSTEM_CLOCK
from tulle.control.datadir import (
    bind_tcp,
    bind_unix,
    locked,
    remove_server_file,
    write_server_file,
)
from tulle.control.hub import Hub, HubLoop, open_hub
from tulle.control.plane import ControlPlane, open_plane
from tulle.control.settings import Limits, ServerSettings
from tulle.errors import SettingsError, TulleError

__all__ = ["Limits", "ServerSettings", "run"]

GRACEFUL_S = 3
"""How long requests and streams may take to end after SIGTERM."""

TICK_S = 0.25
"""How often leases and renewals are looked at; a lease ends at most this late."""

log = logging.getLogger(__name__)


class Crashed(TulleError):
    """A part of the control plane died, and the process ends rather than run without it."""


def run(settings: ServerSettings) -> None:
    """Serve until SIGTERM or SIGINT; returns after a clean stop.

    Raises:
        DataDirInUse: another server runs on the data directory.
        SettingsError: a setting cannot work.
        Crashed: the hub or the store failed while serving.
    """
    if settings.listen is not None and not settings.token:
        raise SettingsError("listen: needs a token; without one the API stays on its Unix socket")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    os.umask(0o077)
    with locked(settings.data_dir):
        asyncio.run(_serve(settings))


class ApiServer(uvicorn.Server):
    """Uvicorn in our event loop: signals are ours, and it says when it serves."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the sockets, then tell."""
        await super().startup(sockets=sockets)
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: `_serve` hears them."""
        yield


@dataclass(slots=True)
class Ending:
    """Why the process ends, once it is known that it does."""

    error: BaseException | None = None


async def _serve(settings: ServerSettings) -> None:
    hub = open_hub(settings.hub)
    try:
        plane = open_plane(settings, hub, SYSTEM_CLOCK)
    except BaseException:
        hub.stop()
        raise
    try:
        await _serve_plane(settings, plane, hub)
    finally:
        plane.close()


async def _serve_plane(settings: ServerSettings, plane: ControlPlane, hub: Hub) -> None:
    loop = asyncio.get_running_loop()
    ending = Ending()

    def stop() -> None:
        plane.closing.set()
        server.should_exit = True

    def crash(error: BaseException) -> None:
        ending.error = error
        stop()

    def started() -> None:
        roots_path = settings.data_dir / "roots.pem"
        roots_path.write_text(plane.roots_pem())
        facts = {
            "socket": str(settings.socket_path.absolute()),
            "hub": hub.address(),
            "pid": os.getpid(),
            "roots_path": str(roots_path.absolute()),
        }
        write_server_file(settings.data_dir, facts)
        log.info("serving: %s", facts)

    sockets = _bind(settings)
    config = uvicorn.Config(
        make_app(plane, settings.token if settings.listen else None),
        http="h11",
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACEFUL_S,
    )
    server = ApiServer(config, started)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    events = HubLoop(hub, plane.handle, crash)
    events.start()
    ticking = asyncio.create_task(_tick(plane, crash))
    # What was made so far lives as long as the process: never look at it again.
    gc.freeze()
    try:
        await server.serve(sockets=sockets)
    finally:
        ticking.cancel()
        await events.stop()
        remove_server_file(settings.data_dir)
        settings.socket_path.unlink(missing_ok=True)
    if ending.error is not None:
        raise Crashed(f"the control plane stopped: {ending.error}") from ending.error


def _bind(settings: ServerSettings) -> list[socket.socket]:
    sockets = [bind_unix(settings.socket_path)]
    if settings.listen is not None:
        try:
            sockets.append(bind_tcp(settings.listen))
        except TulleError:
            sockets[0].close()
            raise
    return sockets


async def _tick(plane: ControlPlane, crash: Callable[[BaseException], None]) -> None:
    try:
        while True:
            await asyncio.sleep(TICK_S)
            plane.tick()
    except Exception as error:  # noqa: BLE001  whatever it is, the process must not go on
        crash(error)
