"""How long to wait before a crashed process is started again."""

FIRST_SECONDS = 0.2
LAST_SECONDS = 10.0
"""A crash loop costs six starts a minute at most."""

STABLE_SECONDS = 10.0
"""A process that ran this long starts anew with the first delay."""


class Backoff:
    """Delays that double with each crash, and start over after a good run."""

    def __init__(self) -> None:
        """Begin with the first delay."""
        self._crashes = 0

    def next_delay(self, ran_seconds: float) -> float:
        """Return how long to wait after a run of *ran_seconds*."""
        if ran_seconds >= STABLE_SECONDS:
            self._crashes = 0
        delay: float = min(FIRST_SECONDS * 2**self._crashes, LAST_SECONDS)
        self._crashes += 1
        return delay

    def reset(self) -> None:
        """Forget the crashes: the user asked for a new start."""
        self._crashes = 0
