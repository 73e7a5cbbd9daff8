"""Shapes that several records share."""

from typing import TypeAlias

Pairs: TypeAlias = tuple[tuple[str, str], ...]
"""Name and value, in the order they were written."""

Strings: TypeAlias = tuple[str, ...]
