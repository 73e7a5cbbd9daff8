"""Label selectors as Kubernetes writes them in a query."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from tulle.control.bodies import BadBody

Selects = Callable[[Mapping[str, str]], bool]

REQUIREMENTS_MAX = 64

_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_./]{0,315}[A-Za-z0-9])?"
_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_REQUIREMENT = re.compile(
    rf"\s*(?P<absent>!)?\s*(?P<key>{_KEY})\s*((?P<op>==?|!=)\s*(?P<value>{_VALUE}))?\s*"
)


def parse_selector(text: str) -> Selects:
    """Return the test that `key=value`, `key!=value`, `key` and `!key`, with commas, describe.

    Raises:
        BadBody: *text* is something else.
    """
    parts = text.split(",") if text.strip() else []
    if len(parts) > REQUIREMENTS_MAX:
        raise BadBody(f"labelSelector: {len(parts)} requirements; at most {REQUIREMENTS_MAX}")
    tests = [_requirement(part) for part in parts]
    return lambda labels: all(test(labels) for test in tests)


def _requirement(text: str) -> Selects:
    found = _REQUIREMENT.fullmatch(text)
    if found is None or (found["absent"] and found["op"]):
        raise BadBody(f"labelSelector: '{text}' is not one of key=value, key!=value, key, !key")
    key, value = found["key"], found["value"]
    if found["absent"]:
        return lambda labels: key not in labels
    if found["op"] is None:
        return lambda labels: key in labels
    if found["op"] == "!=":
        return lambda labels: labels.get(key) != value
    return lambda labels: labels.get(key) == value
