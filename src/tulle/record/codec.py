"""Records as canonical bytes, and back.

The shape of the dataclasses is the shape of the JSON: every field is always there,
`null` when empty, and a trailing underscore in a Python name (`from_`) is dropped.
Equal records have equal bytes, and the version is the hash of the bytes. Reading is
as strict as the engine's: an unknown, missing or repeated key, or a value of another
type, is refused.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

from tulle.record.name import Record

VERSION_CHARS = 16


class RecordFormatError(ValueError):
    """The bytes are no record; the message starts with the path of what is wrong."""


def encode(record: Record) -> bytes:
    """Return the canonical bytes of *record*."""
    return json.dumps(
        _to_json(record), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


def version(data: bytes) -> str:
    """Return the version of a record with the canonical bytes *data*."""
    return hashlib.sha256(data).hexdigest()[:VERSION_CHARS]


def decode(data: bytes) -> Record:
    """Return the record that *data* holds.

    Raises:
        RecordFormatError: *data* is no JSON, or not exactly the shape of a record.
    """
    try:
        value = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (json.JSONDecodeError, UnicodeDecodeError) as cause:
        raise RecordFormatError(f"record: not JSON: {cause}") from cause
    return cast("Record", _read(value, Record, "record"))


def json_name(field_name: str) -> str:
    """Return the JSON key of a dataclass field."""
    return field_name.rstrip("_")


def _to_json(value: object) -> object:
    if is_dataclass(value):
        return {json_name(f.name): _to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RecordFormatError("record: a key is repeated in an object")
    return found


def _no_constant(name: str) -> object:
    raise RecordFormatError(f"record: {name} is not JSON")


def _read(value: object, expected: Any, path: str) -> object:
    return _reader(expected)(value, path)


_Reader: TypeAlias = Callable[[object, str], object]


@cache
def _reader(expected: Any) -> _Reader:
    """Return the function that reads a JSON value as the type *expected*."""
    origin = get_origin(expected)
    if origin is Literal:
        return _literal_reader(get_args(expected))
    if origin is tuple:
        return _tuple_reader(get_args(expected))
    if origin is dict:
        return _read_labels
    if origin in (Union, UnionType):
        return _union_reader(get_args(expected))
    if is_dataclass(expected):
        return _object_reader(cast("type", expected))
    return _scalar_reader(expected)


def _scalar_reader(expected: type) -> _Reader:
    def read(value: object, path: str) -> object:
        if type(value) is not expected:
            raise RecordFormatError(f"{path}: {value!r} is not a value of {expected.__name__}")
        return value

    return read


def _literal_reader(allowed: tuple[object, ...]) -> _Reader:
    def read(value: object, path: str) -> object:
        if not isinstance(value, str) or value not in allowed:
            raise RecordFormatError(f"{path}: {value!r} is not one of {list(allowed)}")
        return value

    return read


def _tuple_reader(arguments: tuple[Any, ...]) -> _Reader:
    def read(value: object, path: str) -> object:
        if not isinstance(value, list):
            raise RecordFormatError(f"{path}: {value!r} is not a list")
        if arguments[1:] == (...,):
            types = (arguments[0],) * len(value)
        elif len(value) == len(arguments):
            types = arguments
        else:
            raise RecordFormatError(f"{path}: has {len(value)} items; exactly {len(arguments)}")
        pairs = zip(value, types, strict=True)
        return tuple(_read(item, kind, f"{path}[{at}]") for at, (item, kind) in enumerate(pairs))

    return read


def _read_labels(value: object, path: str) -> object:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise RecordFormatError(f"{path}: {value!r} is not an object of strings")
    return value


def _union_reader(members: tuple[Any, ...]) -> _Reader:
    """Read `X | None`, or one of several dataclasses told apart by their last, fixed field."""
    if NoneType in members:
        (other,) = (member for member in members if member is not NoneType)
        return lambda value, path: None if value is None else _read(value, other, path)
    tag = json_name(fields(members[0])[-1].name)
    by_tag = {fields(member)[-1].default: member for member in members}

    def read(value: object, path: str) -> object:
        if not isinstance(value, dict) or not isinstance(value.get(tag), str):
            raise RecordFormatError(f"{path}: is not an object with a {tag!r}")
        if value[tag] not in by_tag:
            raise RecordFormatError(f"{path}.{tag}: {value[tag]!r} is not one of {list(by_tag)}")
        return _read(value, by_tag[value[tag]], path)

    return read


def _object_reader(shape: type) -> _Reader:
    types = get_type_hints(shape)
    names = {json_name(f.name): f.name for f in fields(shape)}

    def read(value: object, path: str) -> object:
        if not isinstance(value, dict):
            raise RecordFormatError(f"{path}: {value!r} is not an object")
        if unknown := value.keys() - names.keys():
            raise RecordFormatError(f"{path}: unknown field {min(unknown)!r}")
        if missing := names.keys() - value.keys():
            raise RecordFormatError(f"{path}: field {min(missing)!r} is missing")
        return shape(
            **{name: _read(value[key], types[name], f"{path}.{key}") for key, name in names.items()}
        )

    return read
