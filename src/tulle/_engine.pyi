"""The compiled part of Tulle: the sidecar's data plane and the control plane's port.

Everything crosses as bytes of JSON, except where a type says otherwise. Methods may be called
from any thread, and give up the GIL while they wait.
"""

from typing import Literal, final

__all__ = ["Engine", "EngineError", "Hub", "Threads"]

class EngineError(Exception):
    """The engine refused what it was given, or could not do what it was asked."""

@final
class Threads:
    """Threads that carry the traffic of several workloads; they end with the last of them."""

    def __new__(cls, workers: int) -> Threads:
        """Start *workers* threads for traffic and one for all else.

        Raises:
            EngineError: The system has no more threads.
        """

    def wait(self, seen: int, timeout_ms: int) -> int:
        """Wait until some engine has an event, and return what to give the next call as *seen*."""

@final
class Engine:
    """The data plane of one workload, on threads of its own or on those of several.

    Order of use: make it (listeners are bound, nothing is accepted), `join` or `set_identity`,
    `apply` what is known already, `start`, then `next_event` until `drained`. Where an engine of
    the same `state_dir` runs, its listeners are taken over; it goes on until this one is started.
    """

    def __new__(cls, settings: bytes, threads: Threads | None = None) -> Engine:
        """Bind the listeners that *settings* name. *threads* None: it gets its own.

        Raises:
            EngineError: The settings are wrong, or an address is taken, or *threads* serve as many
                workloads as they can.
        """

    def addresses(self) -> bytes:
        """Where the listeners are: `{"inbound", "outbound", "proxy", "admin"}`."""

    def join(
        self, token: str | None, roots_pem: str | None, timeout_s: float
    ) -> Literal["joined", "cached"]:
        """Get a certificate from the control plane, or take the one on disk.

        Without *token*, or when the control plane cannot be reached, a certificate kept from
        before is used as long as it is valid: `cached`.

        Raises:
            EngineError: The control plane refused, or there is no certificate.
        """

    def enter(self, token: str | None, roots_pem: str | None, timeout_s: float) -> None:
        """Join and then start, without waiting for it.

        The event `joined` tells of success, `failed` of what hindered it.

        Raises:
            EngineError: It was stopped.
        """

    def start(self) -> None:
        """Start to accept connections, and to follow the control plane if there is one."""

    def apply(self, name: str, data: bytes) -> None:
        """Put a record in force.

        Raises:
            EngineError: The record is wrong; the one before it stays.
        """

    def set_identity(self, chain_pem: str, key_pem: str, roots_pem: str) -> None:
        """Use this certificate from the next handshake on."""

    def next_event(self, timeout_ms: int) -> bytes | None:
        """Wait for the next event, `{"event": "ready", ...}`; `None` after the timeout."""

    def stats(self) -> bytes:
        """Return counters and sizes."""

    def resolve(self, request: bytes) -> bytes:
        """Return what would be done with a described request, step by step."""

    def drain_inbound(self) -> None:
        """Stop to take requests for the application; `inbound-drained` tells that none is left.

        What the application calls is carried until `drain`.
        """

    def drain(self) -> None:
        """Stop accepting and finish what is under way; the event `drained` tells the end."""

    def stop(self) -> None:
        """Close everything now and wait until nothing of it is left."""

@final
class Hub:
    """The control plane's mTLS port, on a thread of its own.

    Nobody is let in before `set_identity`. What happens at the port comes out of `next_event`,
    in order; what sidecars shall know goes into `publish`.
    """

    def __new__(cls, listen: str) -> Hub:
        """Bind *listen*, an IP address and a port; port 0 takes any.

        Raises:
            EngineError: The address is not one, or is taken.
        """

    def address(self) -> str:
        """Return where the port is bound."""

    def set_identity(self, chain_pem: str, key_pem: str, roots_pem: str) -> None:
        """Present this certificate and trust these roots, from the next connection on.

        Raises:
            EngineError: The texts do not make an identity.
        """

    def publish(self, name: str, version: str, data: bytes) -> None:
        """Give every subscriber of *name* this version.

        Without subscribers nothing is kept: the next one leads to `subscribed`.

        Raises:
            EngineError: The record is larger than a frame may be.
        """

    def withdraw(self, name: str) -> None:
        """Tell every subscriber of *name* that there is no such record."""

    def forget(self, name: str) -> None:
        """Drop the bytes of *name* without telling anybody; the next subscriber asks for it."""

    def next_event(self, timeout_ms: int) -> tuple[str, bytes] | None:
        """Wait for the next event, its kind and body.

        `None` after the timeout; at once when the hub has stopped and all events were taken.
        """

    def reply(self, request_id: int, status: int, body: bytes) -> bool:
        """Answer a `join`, `renew` or `last_report`. False when it does not wait any more."""

    def send(self, peer: int, kind: Literal["tap", "untap", "resolve"], body: bytes) -> bool:
        """Send a command to a peer. False when it is gone, or has too many unread.

        Raises:
            EngineError: *kind* is unknown, or *body* is larger than a frame may be.
        """

    def disconnect(self, peer: int, reason: str) -> bool:
        """Say goodbye to a peer and close its connection. False when it is gone."""

    def stats(self) -> bytes:
        """Return counters and sizes."""

    def stop(self) -> None:
        """Say goodbye to all peers, close the port and wait for its thread."""
