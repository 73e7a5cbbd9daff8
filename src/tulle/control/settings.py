"""What the control-plane process can be told, and the bounds it keeps by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one control plane: every queue, body, stream and memory has one."""

    body_bytes_max: int = 4 * 1024 * 1024
    """Largest request body; a batch of some thousand resources fits in it."""

    batch_resources_max: int = 5_000
    """Most resources in one `apply`, `delete` or `diff`."""

    json_depth_max: int = 64
    """Deepest nesting of a request body; resources need about fifteen."""

    watchers_max: int = 256
    """Most watch streams open at a time."""

    watch_s_max: float = 3600.0
    """Longest life of a watch, seconds; clients go on from the last revision they saw."""

    taps_max: int = 16
    """Most tap streams open at a time: each costs every sidecar work per request."""

    tap_backlog_max: int = 1_000
    """Most entries that wait for one slow tap reader; more are dropped, and counted to it."""

    tap_entries_max: int = 100_000
    """Most entries one tap may ask for."""

    tap_s_max: float = 3600.0
    """Longest life of a tap, seconds."""

    resolves_max: int = 64
    """Most questions to sidecars that wait for an answer at a time."""

    resolve_timeout_s: float = 5.0
    """How long a sidecar may take to answer a `resolve`; it computes, it does not connect."""

    reporters_max: int = 2_000
    """Most workloads whose traffic is remembered; the longest silent one goes first."""

    series_per_reporter_max: int = 2_000
    """Most series kept of one workload, over all restarts of its sidecar."""

    record_cache_bytes_max: int = 16 * 1024 * 1024
    """Most bytes of encoded records kept for the next subscriber."""

    departed_workloads_max: int = 1_000
    """Most disconnected workloads kept in the store; the longest gone is deleted first."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How `tulle server` runs."""

    data_dir: Path
    """Directory of the store, the CA and the socket; made with mode 0700."""

    socket: Path | None = None
    """Unix socket of the API; None means `api.sock` in the data directory."""

    listen: str | None = None
    """`HOST:PORT` of the API on TCP; None, the default, keeps it on the Unix socket alone."""

    token: str | None = field(default=None, repr=False)
    """Bearer token that requests on TCP must carry; required with *listen*."""

    hub: str = "127.0.0.1:0"
    """`HOST:PORT` that sidecars join and stream from; port 0 lets the system choose one."""

    trust_domain: str = "tulle.local"
    """Trust domain of every identity this control plane issues; fixed once the CA exists."""

    certificate_ttl: timedelta = timedelta(hours=24)
    """Life of a workload certificate, 10 s to 24 h; sidecars renew at half of it."""

    limits: Limits = field(default_factory=Limits)
    """Bounds of the process."""

    @property
    def socket_path(self) -> Path:
        """Where the API's Unix socket is."""
        return self.socket if self.socket is not None else self.data_dir / "api.sock"
