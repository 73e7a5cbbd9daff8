"""The two clocks of the control plane, as a value that tests hold in their hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Clock:
    """Time for waits and time for certificates and people."""

    monotonic: Callable[[], float]
    """Seconds that never go back: leases, windows, renewals."""

    now: Callable[[], datetime]
    """The date, in UTC."""


SYSTEM_CLOCK = Clock(time.monotonic, lambda: datetime.now(UTC))
