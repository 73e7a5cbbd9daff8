"""JSON Schema: agrees with the parser, and describes every field."""

from typing import Any

import jsonschema
import pytest

from tulle.resources.parse import parse_object
from tulle.resources.registry import KINDS, Kind
from tulle.resources.schema import bundle, kind_schema

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "cart", "namespace": "shop"},
    "spec": {"selector": {"app": "cart"}, "ports": [{"port": 80, "targetPort": "web"}]},
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_field_is_described(kind: Kind) -> None:
    silent = [
        f"{name}.{field}"
        for name, definition in kind_schema(kind)["$defs"].items()
        for field, value in definition.get("properties", {}).items()
        if field not in ("apiVersion", "kind") and not value.get("description")
    ]

    assert silent == []


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_the_schema_of_a_kind_is_one(kind: Kind) -> None:
    jsonschema.Draft202012Validator.check_schema(kind_schema(kind))


def test_the_bundle_accepts_what_the_parser_accepts() -> None:
    validator = jsonschema.Draft202012Validator(bundle())

    assert validator.is_valid(SERVICE)
    assert parse_object(SERVICE).to_object() == SERVICE


@pytest.mark.parametrize(
    "change",
    [
        {"apiVersion": "v2"},
        {"kind": "Svc"},
        {"extra": 1},
        {"metadata": {}},
        {"metadata": {"name": "A"}},
        {"spec": {"ports": [{"port": 0}]}},
        {"spec": {"ports": [{"port": 1, "protocol": "tcp"}]}},
        {"spec": {"port": 1}},
    ],
)
def test_the_bundle_refuses_what_the_parser_refuses(change: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(bundle())

    assert not validator.is_valid(SERVICE | change)


@pytest.mark.parametrize("missing", ["apiVersion", "kind", "metadata"])
def test_type_and_metadata_must_be_there(missing: str) -> None:
    value = {key: part for key, part in SERVICE.items() if key != missing}

    assert not jsonschema.Draft202012Validator(bundle()).is_valid(value)
