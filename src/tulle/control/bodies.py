"""Request bodies, read within bounds: size, nesting, and JSON or YAML that is one object."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

from tulle.errors import TulleError

if TYPE_CHECKING:
    from starlette.requests import Request

JSON_TYPES = {
    "application/json",
    "application/apply-patch+json",
    "",
}
YAML_TYPES = {"application/yaml", "application/apply-patch+yaml", "application/x-yaml"}


class BadBody(TulleError):
    """The body, or a parameter of the request, is not what the call takes."""


class BodyTooLarge(TulleError):
    """The body has more bytes than the control plane takes."""


class UnsupportedBody(TulleError):
    """The body is of a media type that the call does not take."""


async def read_object(request: Request, bytes_max: int, depth_max: int) -> dict[str, Any]:
    """Read the one object that the body holds.

    Raises:
        BodyTooLarge: it has more than *bytes_max* bytes.
        UnsupportedBody: it is neither JSON nor YAML.
        BadBody: it does not parse, is no object, or nests deeper than *depth_max*.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in JSON_TYPES | YAML_TYPES:
        raise UnsupportedBody(f"content-type: '{media}' is not taken; application/json is")
    content = await _read(request, bytes_max)
    value = _parse_yaml(content, depth_max) if media in YAML_TYPES else _parse_json(content)
    if not isinstance(value, dict):
        raise BadBody("body: must be one object")
    if _depth(value) > depth_max:
        raise BadBody(f"body: is nested deeper than {depth_max}")
    return value


async def _read(request: Request, bytes_max: int) -> bytes:
    too_large = f"body: has more than {bytes_max} bytes"
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > bytes_max:
        raise BodyTooLarge(too_large)
    parts = []
    length = 0
    async for part in request.stream():
        length += len(part)
        if length > bytes_max:
            raise BodyTooLarge(too_large)
        parts.append(part)
    return b"".join(parts)


def _parse_json(content: bytes) -> Any:
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
        if b"\\ud" in content.lower():  # an escape may be half a character: no UTF-8 has it
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadBody(f"body: is not JSON: {error}") from error
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _parse_yaml(content: bytes, depth_max: int) -> Any:
    try:
        # Aliases would let a small body unfold into a huge object; libyaml builds nested values
        # on the C stack, so that deep ones would end the process.
        depth = 0
        for event in yaml.parse(content, yaml.CSafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise BadBody("body: YAML aliases are not taken")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > depth_max:
                raise BadBody(f"body: is nested deeper than {depth_max}")
        return yaml.load(content, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadBody(f"body: is not YAML: {error}") from error


def _depth(value: Any) -> int:
    """Nesting of objects and lists, without recursion."""
    deepest = 0
    open_values = [(value, 1)]
    while open_values:
        current, depth = open_values.pop()
        if isinstance(current, dict):
            children: Any = current.values()
        elif isinstance(current, list):
            children = current
        else:
            continue
        deepest = max(deepest, depth)
        open_values.extend((child, depth + 1) for child in children)
    return deepest
