"""What tests of the mesh share: a store with a clock that the test turns, and small resources."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tulle.mesh.store import Store
from tulle.resources.model import Resource
from tulle.resources.parse import parse_text


class Clock:
    """Tells the time that the test sets."""

    def __init__(self) -> None:
        self.now = "2026-01-01T00:00:00Z"

    def __call__(self) -> str:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """A new store that keeps ten revisions."""
    opened = Store(tmp_path / "store.db", clock=clock, history_max=10)
    yield opened
    opened.close()


@pytest.fixture
def resources() -> Callable[[str], list[Resource]]:
    """Return a function from a text to its resources."""
    return lambda text: [parsed.resource for parsed in parse_text(text)]


@pytest.fixture
def service() -> Callable[..., Resource]:
    """Return a function that makes a Service of namespace shop."""

    def make(name: str = "cart", port: int = 80, more: str = "") -> Resource:
        text = (
            f"{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop{more}}}, "
            f"spec: {{ports: [{{port: {port}}}]}}}}"
        )
        return parse_text(text)[0].resource

    return make
