"""The wiring of the control plane: which part hears which event, in one event loop.

Everything here runs on the loop's thread: the state of the parts needs no locks,
and every change of the store passes through `commit`, which publishes what
follows from it before anyone hears that it was made.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tulle.compiler.compile import compile_trust
from tulle.control.admission import Admission
from tulle.control.conditions import Conditions
from tulle.control.leases import Leases
from tulle.control.peers import Peer, Peers, check_owner, parse_hello, parse_workload
from tulle.control.publisher import Publisher
from tulle.control.resolve import Resolver
from tulle.control.tap import Taps
from tulle.control.telemetry import Telemetry, parse_report
from tulle.control.workloads import Workloads, timestamp
from tulle.errors import NotPermitted, StoreError, TulleError
from tulle.identity.authority import CertificateAuthority
from tulle.identity.spiffe import SpiffeId
from tulle.identity.tokens import JoinTokens
from tulle.mesh.addresses import missing_addresses, with_addresses
from tulle.mesh.change import Delete, Put
from tulle.mesh.mesh import Mesh, WorkloadState
from tulle.mesh.select import services_of
from tulle.mesh.store import BATCH_MAX, Commit, Store
from tulle.resources.aside import applied
from tulle.resources.workload import Workload

if TYPE_CHECKING:
    from tulle.control.clock import Clock
    from tulle.control.hub import Hub, HubEvent
    from tulle.control.settings import ServerSettings
    from tulle.mesh.change import Outcome
    from tulle.resources.model import ResourceKey

SYSTEM_NAMESPACE = "tulle-system"
CONTROL_PLANE = "control-plane"
"""The control plane's own service account; sidecars expect its identity at the hub."""

TOKENS_SWEEP_S = 60.0
"""How often expired tokens are removed from the store; they are refused at once anyway."""

log = logging.getLogger(__name__)


class ControlPlane:
    """All parts of one control plane; made by `open_plane`."""

    def __init__(
        self,
        settings: ServerSettings,
        hub: Hub,
        store: Store,
        authority: CertificateAuthority,
        clock: Clock,
    ) -> None:
        limits = settings.limits
        self.settings = settings
        self.limits = limits
        self.store = store
        self.authority = authority
        self.clock = clock
        self.closing = asyncio.Event()
        """Set when the process ends: streams end themselves."""
        self.peers = Peers()
        self.telemetry = Telemetry(limits.reporters_max, limits.series_per_reporter_max)
        self.taps = Taps(hub, limits.taps_max, limits.tap_backlog_max)
        self.resolver = Resolver(hub, limits.resolves_max, limits.resolve_timeout_s)
        self.tokens = JoinTokens(store.documents("token"), clock.now)
        trust = compile_trust(authority.trust_domain, authority.roots_pem)
        self.publisher = Publisher(hub, load_mesh(store), trust, limits.record_cache_bytes_max)
        leases = Leases(limits.departed_workloads_max)
        self.workloads = Workloads(self.commit, lambda: self.mesh, leases, clock)
        self.conditions = Conditions(self.commit, lambda: self.mesh)
        self._hub = hub
        self._admission = Admission(
            hub, authority, self.tokens, self.workloads, settings.certificate_ttl
        )
        self._handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            "join": self._join,
            "renew": self._renew,
            "connected": self._connected,
            "disconnected": self._disconnected,
            "status": self._status,
            "subscribed": self._subscribed,
            "unsubscribed": self._unsubscribed,
            "ack": self._ack,
            "nack": self._nack,
            "report": self._report,
            "last_report": self._last_report,
            "tap": self._tap,
            "resolved": self._resolved,
        }
        self._listeners: set[Callable[[], None]] = set()
        self._renew_at: datetime = clock.now()
        self._sweep_at = clock.monotonic()
        self._tell_aside()
        self.workloads.restore()
        self._give_addresses()
        self._renew_own_identity()

    @property
    def mesh(self) -> Mesh:
        """The mesh at the store's revision."""
        return self.publisher.mesh

    def roots_pem(self) -> str:
        """The root certificates, in one text."""
        return self.authority.bundle_pem

    def commit(self, changes: Sequence[Put | Delete], *, dry_run: bool = False) -> Commit:
        """Write all changes or none, and publish the records they touch.

        With *dry_run* nothing is written or published, but everything is decided.

        Raises:
            Conflict, NotFound, AlreadyExists, StoreError: nothing was changed.
            InvalidResources: a Service asks for another's cluster IP; nothing was changed.
        """
        commit = self.store.commit(with_addresses(self.mesh, changes), dry_run=dry_run)
        made = [outcome for outcome in commit.outcomes if outcome.action != "unchanged"]
        if made and not dry_run:
            after = next_mesh(self.mesh, made, commit.revision)
            differences = [(applied(outcome.before), applied(outcome.after)) for outcome in made]
            self.publisher.change(after, differences)
            self.conditions.changed(after, differences)
            self._keep_connected(outcome.key for outcome in made)
            for listener in list(self._listeners):
                listener()
        return commit

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call *listener* after every change; the result ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def handle(self, events: Sequence[HubEvent]) -> None:
        """Handle what sidecars did, in order, then write what it came to.

        An event that shows a mistake of ours costs that event, and a trace in the log.
        """
        for event in events:
            try:
                self._handlers[event.kind](event.body)
            except Exception:
                log.exception("an event was not handled: %s", event.kind)
        self.workloads.flush()

    def tick(self) -> None:
        """Do what time asks for: leases, conditions, the hub's certificate, old tokens."""
        for workload in self.workloads.tick():
            self.peers.forget(workload)
        self.workloads.flush()
        self.conditions.flush(timestamp(self.clock.now()))
        if self.clock.now() >= self._renew_at:
            self._renew_own_identity()
        if self.clock.monotonic() >= self._sweep_at:
            self._sweep_at = self.clock.monotonic() + TOKENS_SWEEP_S
            try:
                self.tokens.forget_expired()
            except StoreError:
                log.exception("expired tokens wait to be removed")

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def _tell_aside(self) -> None:
        """Say what is stored and not applied: a replacement or a deletion ends that."""
        for aside in self.mesh.aside.values():
            for violation in aside.violations:
                log.warning(
                    "%s: set aside, replace it or delete it: %s", self.store.path, violation
                )

    def _give_addresses(self) -> None:
        """Give an address to each Service that an earlier version has written without one."""
        missing = missing_addresses(self.mesh)
        for start in range(0, len(missing), BATCH_MAX):
            self.commit(missing[start : start + BATCH_MAX])

    def _keep_connected(self, changed: Iterable[ResourceKey]) -> None:
        """Register a workload anew that was deleted while its sidecar is connected."""
        for key in changed:
            if key.kind != "Workload" or self.mesh.holds(key):
                continue
            peer = self.peers.of(str(key.object_name))
            if peer is not None and peer.connected:
                self.workloads.connected(peer.workload)
                self.workloads.status(peer.workload, ready=peer.ready, draining=peer.draining)

    def _renew_own_identity(self) -> None:
        """Serve the hub with a fresh certificate; the next is due at half of its life."""
        own = SpiffeId(self.authority.trust_domain, SYSTEM_NAMESPACE, CONTROL_PLANE)
        ttl = self.settings.certificate_ttl
        svid, key_pem = self.authority.issue(own, ttl)
        self._hub.set_identity(svid.chain_pem, key_pem, self.authority.bundle_pem)
        self._renew_at = self.clock.now() + ttl / 2

    def _join(self, body: dict[str, Any]) -> None:
        self._admission.join(body["request_id"], body["body"])

    def _renew(self, body: dict[str, Any]) -> None:
        self._admission.renew(body["request_id"], body["identity"], body["body"])

    def _connected(self, body: dict[str, Any]) -> None:
        peer_id, identity = body["peer"], body["identity"]
        try:
            peer = parse_hello(peer_id, identity, body["hello"])
            check_owner(peer.workload, SpiffeId.parse(identity))
            self.workloads.connected(peer.workload)
        except (TulleError, ValueError) as error:
            log.warning("a sidecar with identity %s is refused: %s", identity, error)
            self._hub.disconnect(peer_id, f"refused: {error}")
            return
        replaced = self.peers.add(peer)
        if replaced is not None:
            self._hub.disconnect(replaced.id, "replaced by a newer connection")
        self.taps.connected(peer_id)

    def _disconnected(self, body: dict[str, Any]) -> None:
        peer = self.peers.remove(body["peer"])
        if peer is not None:
            self.workloads.disconnected(peer.workload, draining=peer.draining)

    def _status(self, body: dict[str, Any]) -> None:
        peer = self.peers.get(body["peer"])
        if peer is not None:
            peer.ready, peer.draining = body["ready"], body["draining"]
            self.workloads.status(peer.workload, ready=peer.ready, draining=peer.draining)

    def _subscribed(self, body: dict[str, Any]) -> None:
        self.publisher.subscribed(body["name"])

    def _unsubscribed(self, body: dict[str, Any]) -> None:
        self.publisher.unsubscribed(body["name"])

    def _ack(self, body: dict[str, Any]) -> None:
        peer = self.peers.get(body["peer"])
        if peer is not None:
            peer.acknowledged(body["name"], body["version"])

    def _nack(self, body: dict[str, Any]) -> None:
        peer = self.peers.get(body["peer"])
        if peer is not None:
            log.warning("%s refuses %s: %s", peer.workload.key, body["name"], body["error"])
            peer.refused(body["name"], body["version"], body["error"])

    def _report(self, body: dict[str, Any]) -> None:
        peer = self.peers.get(body["peer"])
        if peer is None:
            return
        try:
            report = parse_report(body["report"])
        except ValueError as error:
            log.warning("a report of %s is ignored: %s", peer.workload.key, error)
        else:
            self.telemetry.take(peer.workload.key, report, self.clock.monotonic())

    def _last_report(self, body: dict[str, Any]) -> None:
        """Count what a sidecar answered while its successor had the stream; tell it so."""
        said = body["body"]
        try:
            workload = parse_workload(said.get("workload"))
            check_owner(workload, SpiffeId.parse(body["identity"]))
            peer = self.peers.of(workload.key)
            if peer is not None and peer.identity != body["identity"]:
                raise NotPermitted(f"{workload.key} is of {peer.identity}")
            report = parse_report(said.get("report"))
        except (TulleError, ValueError) as error:
            log.warning("a last report of %s is refused: %s", body["identity"], error)
            answer = json.dumps({"error": str(error)}).encode()
            self._hub.reply(body["request_id"], 400, answer)
        else:
            self.telemetry.take_last(workload.key, report, self.clock.monotonic())
            self._hub.reply(body["request_id"], 200, b"{}")

    def _tap(self, body: dict[str, Any]) -> None:
        tap_filter = self.taps.filter(body["id"])
        peer = self.peers.get(body["peer"])
        if tap_filter is None or peer is None:
            return
        serves = tap_filter.service is None or self._serves(peer, tap_filter.service)
        self.taps.entry(body["id"], body["entry"], serves=serves)

    def _serves(self, peer: Peer, service: str) -> bool:
        own = self.mesh.workload(peer.workload.object_name)
        return own is not None and any(
            str(found.object_name) == service for found in services_of(self.mesh, own)
        )

    def _resolved(self, body: dict[str, Any]) -> None:
        self.resolver.answered(body["id"], body["result"])


def open_plane(settings: ServerSettings, hub: Hub, clock: Clock) -> ControlPlane:
    """Open what is in the data directory, make what is not, and put it together.

    Raises:
        IdentityError: the CA's files are damaged or of another trust domain.
        StoreError: the store cannot be opened.
        SettingsError: the certificate's life is not allowed.
    """
    authority = CertificateAuthority(settings.data_dir / "ca", settings.trust_domain, clock.now)
    store = Store(settings.data_dir / "mesh.db", clock=lambda: timestamp(clock.now()))
    try:
        return ControlPlane(settings, hub, store, authority, clock)
    except BaseException:
        store.close()
        raise


def load_mesh(store: Store) -> Mesh:
    """The mesh of all that is in the store."""
    listing = store.list()
    states = {
        found.object_name: state_of(found)
        for found in listing.resources
        if isinstance(found, Workload)
    }
    return Mesh.of(listing.resources, states, listing.revision)


def next_mesh(mesh: Mesh, made: Sequence[Outcome], revision: int) -> Mesh:
    """The mesh after what was made; a workload's state is what its status says."""
    last = {outcome.key: outcome.after for outcome in made}
    return mesh.with_changes(
        put=[after for after in last.values() if after is not None],
        removed=[key for key, after in last.items() if after is None],
        states={
            key.object_name: state_of(after) if isinstance(after, Workload) else None
            for key, after in last.items()
            if key.kind == "Workload"
        },
        revision=revision,
    )


def state_of(workload: Workload) -> WorkloadState:
    """The state that a workload's status tells of; without one it is not running."""
    status = workload.status
    if status is None:
        return WorkloadState()
    return WorkloadState(status.ready, status.draining, status.connected)
