"""Waiting for real processes: by looking, with a bound, never by a fixed sleep."""

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

Found = TypeVar("Found")

WAIT_SECONDS = 15.0


def eventually(look: Callable[[], Found], what: str) -> Found:
    """Return the first true value of *look*; fail the test if none comes."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.02)
    pytest.fail(f"still not so after {WAIT_SECONDS:.0f} s: {what}")


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[[Callable[[], object], str], object]:
    """The function above."""
    return eventually
