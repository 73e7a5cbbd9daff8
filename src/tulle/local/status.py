"""What the runner tells about each process it keeps, to its own terminal and to others."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

State = Literal[
    "waiting",
    "starting",
    "running",
    "ready",
    "not-ready",
    "backoff",
    "failed",
    "done",
    "stopping",
    "stopped",
]

SETTLED: frozenset[State] = frozenset({"running", "ready", "failed", "done", "backoff"})
"""States in which nothing more is to be waited for without the user."""

BROKEN: frozenset[State] = frozenset({"failed", "backoff"})
"""States that need the user."""


@dataclass(frozen=True, slots=True)
class AppStatus:
    """One replica of an app, or the control plane."""

    name: str
    app: str
    kind: Literal["app", "control-plane"]
    state: State
    reason: str | None
    """Why it is in this state, for a state that needs a reason."""
    pid: int | None
    uptime_s: float | None
    restarts: int
    ports: tuple[int, ...]
    mesh: str | None
    """`namespace/service`; None for what serves nothing."""
    sidecar_pid: int | None

    def to_json(self) -> dict[str, object]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, object]) -> "AppStatus":
        """Return what `to_json` was called on, after a way through JSON."""
        return cls(**{**data, "ports": tuple(json.loads(json.dumps(data["ports"])))})  # type: ignore[arg-type]
