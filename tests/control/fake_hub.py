"""A hub without sockets: it keeps subscriptions and sends the same frames as the engine's.

Sidecars are played by the test: `connect`, `subscribe`, `say`. What the hub would
write to them is kept per peer in `sent`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import queue
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tulle.control.clock import Clock


class HeldClock:
    """Both clocks, moved by the test alone."""

    def __init__(self) -> None:
        self._seconds = 1000.0
        self._start = datetime(2026, 11, 23, tzinfo=UTC) - timedelta(seconds=self._seconds)
        self.clock = Clock(
            lambda: self._seconds, lambda: self._start + timedelta(seconds=self._seconds)
        )

    def advance(self, seconds: float) -> None:
        """Move both clocks."""
        self._seconds += seconds


async def give_way() -> None:
    """Let everything that can run on the loop run once."""
    turned = asyncio.Event()
    asyncio.get_running_loop().call_soon(turned.set)
    await turned.wait()


def workload(name: str, account: str, listen: int = 41234) -> dict[str, Any]:
    """What the sidecar of a workload says of it; its app label is its account."""
    return {
        "namespace": "shop",
        "name": name,
        "service_account": account,
        "labels": {"app": account},
        "zone": None,
        "address": "127.0.0.1",
        "ports": [{"port": 8080, "protocol": "http", "listen": listen}],
    }


def make_csr() -> str:
    """A signing request for a new P-256 key, which asks for no name."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = request.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


@dataclass
class FakePeer:
    """One connection, and all that was written to it."""

    id: int
    names: set[str] = field(default_factory=set)
    sent: list[tuple[Any, ...]] = field(default_factory=list)
    goodbye: str | None = None


class FakeHub:
    """Behaves as the engine's hub does towards the control plane."""

    def __init__(self) -> None:
        self.records: dict[str, tuple[str, bytes] | None] = {}
        self.peers: dict[int, FakePeer] = {}
        self.replies: dict[int, tuple[int, dict[str, Any]]] = {}
        self.identity: tuple[str, str, str] | None = None
        self._ids = itertools.count(1)
        self._events: queue.Queue[tuple[str, bytes] | None] = queue.Queue()
        self._stopped = False

    # -- what the control plane calls --

    def address(self) -> str:
        return "127.0.0.1:7643"

    def set_identity(self, chain_pem: str, key_pem: str, roots_pem: str) -> None:
        self.identity = (chain_pem, key_pem, roots_pem)

    def publish(self, name: str, version: str, data: bytes) -> None:
        if self._subscribers(name):
            self.records[name] = (version, data)
        for peer in self._subscribers(name):
            peer.sent.append(("record", name, version, data))

    def withdraw(self, name: str) -> None:
        if self._subscribers(name):
            self.records[name] = None
        for peer in self._subscribers(name):
            peer.sent.append(("absent", name))

    def forget(self, name: str) -> None:
        self.records.pop(name, None)

    def next_event(self, timeout_ms: int) -> tuple[str, bytes] | None:
        if self._stopped:
            return None
        try:
            return self._events.get(timeout=timeout_ms / 1000) if timeout_ms else self._next_now()
        except queue.Empty:
            return None

    def reply(self, request_id: int, status: int, body: bytes) -> bool:
        self.replies[request_id] = (status, json.loads(body))
        return True

    def send(self, peer: int, kind: str, body: bytes) -> bool:
        if peer not in self.peers:
            return False
        self.peers[peer].sent.append((kind, json.loads(body)))
        return True

    def disconnect(self, peer: int, reason: str) -> bool:
        if peer not in self.peers:
            return False
        self.peers[peer].goodbye = reason
        self.drop(peer, reason)
        return True

    def stats(self) -> bytes:
        return b"{}"

    def stop(self) -> None:
        self._stopped = True
        self._events.put(None)

    # -- what the test plays --

    def ask(self, kind: str, **fields: Any) -> int:
        """A join, renew or last_report; the answer is in `replies` under the returned id."""
        request_id = next(self._ids)
        self.emit(kind, request_id=request_id, **fields)
        return request_id

    def connect(self, identity: str, workload: dict[str, Any]) -> FakePeer:
        """A sidecar opens its stream and says hello."""
        peer = FakePeer(next(self._ids))
        self.peers[peer.id] = peer
        hello = {"workload": workload, "pid": 4242, "version": "0.1.0", "admin": "127.0.0.1:9901"}
        self.emit("connected", peer=peer.id, identity=identity, hello=hello)
        return peer

    def subscribe(self, peer: FakePeer, name: str, version: str | None = None) -> None:
        """A sidecar asks for a record, naming the version it holds."""
        peer.names.add(name)
        if name not in self.records:
            self.emit("subscribed", name=name)
            return
        record = self.records[name]
        if record is None:
            peer.sent.append(("absent", name))
        elif record[0] == version:
            peer.sent.append(("unchanged", name))
        else:
            peer.sent.append(("record", name, *record))

    def unsubscribe(self, peer: FakePeer, name: str) -> None:
        """A sidecar gives a record up."""
        peer.names.discard(name)
        if not self._subscribers(name):
            self.records.pop(name, None)
            self.emit("unsubscribed", name=name)

    def say(self, peer: FakePeer, kind: str, **fields: Any) -> None:
        """A sidecar sends a frame."""
        self.emit(kind, peer=peer.id, **fields)

    def drop(self, peer_id: int, reason: str = "connection lost") -> None:
        """A sidecar's stream ends."""
        peer = self.peers.pop(peer_id)
        self.emit("disconnected", peer=peer.id, reason=reason)
        for name in list(peer.names):
            self.unsubscribe(peer, name)

    def emit(self, kind: str, **fields: Any) -> None:
        """Queue an event as the engine would."""
        self._events.put((kind, json.dumps(fields).encode()))

    def drain(self) -> list[tuple[str, dict[str, Any]]]:
        """Take every event that waits, for tests that hand them over themselves."""
        events = []
        while (found := self._next_now()) is not None:
            events.append((found[0], json.loads(found[1])))
        return events

    def _next_now(self) -> tuple[str, bytes] | None:
        try:
            return self._events.get_nowait()
        except queue.Empty:
            return None

    def _subscribers(self, name: str) -> list[FakePeer]:
        return [peer for peer in self.peers.values() if name in peer.names]
