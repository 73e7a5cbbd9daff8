"""Namespace: its label decides about requests that no policy speaks of."""

from collections.abc import Callable

import pytest

from tulle.resources.namespace import Namespace
from tulle.resources.parse import parse_text


def _namespace(metadata: str) -> str:
    return f"{{apiVersion: v1, kind: Namespace, metadata: {{{metadata}}}}}"


@pytest.mark.parametrize(
    ("labels", "decision"),
    [
        ("{}", "allow"),
        ("{tulle.dev/default-authorization: allow}", "allow"),
        ("{tulle.dev/default-authorization: deny}", "deny"),
    ],
)
def test_the_label_gives_the_default(labels: str, decision: str) -> None:
    (parsed,) = parse_text(_namespace(f"name: shop, labels: {labels}"))

    assert isinstance(parsed.resource, Namespace)
    assert parsed.resource.default_authorization == decision


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        pytest.param("name: shop", [], id="the least"),
        pytest.param(
            "name: shop, labels: {tulle.dev/default-authorization: refuse}",
            [
                (
                    'metadata.labels["tulle.dev/default-authorization"]: '
                    '"refuse" is not known; allow or deny'
                )
            ],
            id="an unknown default",
        ),
        pytest.param(
            "name: shop, namespace: shop",
            ['metadata.namespace: "shop" does not belong here; nothing'],
            id="in a namespace",
        ),
        pytest.param("labels: {}", ["metadata.name: is required"], id="no name"),
        pytest.param(
            "name: a.b",
            [
                (
                    'metadata.name: "a.b" is not allowed; lower-case letters, digits and '
                    "'-', starting and ending with a letter or digit"
                )
            ],
            id="a dotted name",
        ),
    ],
)
def test_wrong_metadata(
    metadata: str, expected: list[str], refusals: Callable[[str], list[str]]
) -> None:
    assert refusals(_namespace(metadata)) == expected
