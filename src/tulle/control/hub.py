"""The way to the engine's hub: the only module of the control plane that imports the engine.

The hub ends every sidecar's TLS connection and keeps the subscriptions; it hands
events up and takes records down. `HubLoop` is one thread that waits for events
and gives them, in batches and in order, to the event loop, which owns all state
of the control plane. The thread takes the next batch only when the loop has
handled the last one, so what waits is bounded by the hub's own queue.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tulle.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BATCH_EVENTS_MAX = 256
"""Most events handed to the loop at once, so that API requests get their turn."""

WAIT_MS = 500
"""How long the thread waits inside the hub before it looks whether it should stop."""

log = logging.getLogger(__name__)

Command = Literal["tap", "untap", "resolve"]
"""What is sent to a peer besides records."""


@dataclass(frozen=True, slots=True)
class HubEvent:
    """One thing a sidecar did, as the hub tells it."""

    kind: str
    """join, renew, last_report, connected, disconnected, status, subscribed, unsubscribed, ack, nack,
    report, tap or resolved."""

    body: dict[str, Any]
    """The event's fields; their names depend on *kind*."""


class Hub(Protocol):
    """What the control plane needs from `tulle._engine.Hub`; tests bring one of their own."""

    def address(self) -> str:
        """`host:port` sidecars connect to."""
        ...

    def set_identity(self, chain_pem: str, key_pem: str, roots_pem: str) -> None:
        """Serve with this certificate and accept clients under these roots from now on."""
        ...

    def publish(self, name: str, version: str, data: bytes) -> None:
        """Keep the record and send it to every subscriber of *name*."""
        ...

    def withdraw(self, name: str) -> None:
        """Keep that there is no such record, and tell every subscriber of *name*."""
        ...

    def forget(self, name: str) -> None:
        """Drop what is kept of *name*; the next subscriber makes a `subscribed` event."""
        ...

    def next_event(self, timeout_ms: int) -> tuple[str, bytes] | None:
        """Wait for the next event; None when there was none in time."""
        ...

    def reply(self, request_id: int, status: int, body: bytes) -> bool:
        """Answer a join, renew or last_report; False when it does not wait any more."""
        ...

    def send(self, peer: int, kind: Command, body: bytes) -> bool:
        """Send a tap, untap or resolve; False when the peer is gone or its queue is full."""
        ...

    def disconnect(self, peer: int, reason: str) -> bool:
        """Say goodbye to a peer and close its stream; False when it is gone."""
        ...

    def stats(self) -> bytes:
        """JSON of the hub's own counters."""
        ...

    def stop(self) -> None:
        """Close the port and every stream; `next_event` returns None from then on."""
        ...


def open_hub(listen: str) -> Hub:
    """Bind the engine's hub to *listen*, a `host:port`.

    Raises:
        StartError: the address is in use or not ours.
    """
    # The engine's threads start here and not where this module is imported.
    from tulle._engine import EngineError  # noqa: PLC0415
    from tulle._engine import Hub as EngineHub  # noqa: PLC0415

    try:
        return EngineHub(listen)
    except EngineError as error:
        raise StartError(f"{error}; choose another address with --hub") from error


class HubLoop:
    """The thread between the hub and the event loop."""

    def __init__(
        self,
        hub: Hub,
        handle: Callable[[Sequence[HubEvent]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Hand batches to *handle* in the running loop; *failed* hears if the thread dies."""
        self._hub = hub
        self._handle = handle
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hub-events", daemon=True)

    def start(self) -> None:
        """Begin to take events."""
        self._thread.start()

    async def stop(self) -> None:
        """Stop the hub and wait until the thread has ended."""
        self._stopping.set()
        self._hub.stop()
        # The thread may be waiting for the loop to handle its last batch.
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                batch = self._next_batch()
                if batch and not self._stopping.is_set():
                    asyncio.run_coroutine_threadsafe(self._deliver(batch), self._loop).result()
        except BaseException as error:  # noqa: BLE001  the loop decides what a dead hub means
            if not self._stopping.is_set():
                self._loop.call_soon_threadsafe(self._failed, error)

    async def _deliver(self, batch: Sequence[HubEvent]) -> None:
        self._handle(batch)

    def _next_batch(self) -> list[HubEvent]:
        """Wait for one event, then take those that already wait behind it."""
        batch: list[HubEvent] = []
        found = self._hub.next_event(WAIT_MS)
        while found is not None:
            kind, body = found
            batch.append(HubEvent(kind, json.loads(body)))
            found = self._hub.next_event(0) if len(batch) < BATCH_EVENTS_MAX else None
        return batch
