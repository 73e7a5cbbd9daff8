"""What the tables of the kinds share: parse a text, get what was refused."""

from collections.abc import Callable

import pytest

from tulle.errors import InvalidResources
from tulle.resources.parse import parse_text

Refusals = Callable[[str], list[str]]


@pytest.fixture
def refusals() -> Refusals:
    """Return a function from a text to its violations, as `path: what; what is allowed`."""

    def parse(text: str) -> list[str]:
        try:
            parse_text(text)
        except InvalidResources as error:
            return [
                f"{v.path}: {v.message}" + (f"; {v.allowed}" if v.allowed else "")
                for v in error.violations
            ]
        return []

    return parse
