"""From YAML or JSON text to plain values that remember where they stood.

YAML 1.2's core schema is read, not 1.1's: `on`, `yes` and dates are strings. Keys are strings,
each once. Nothing is constructed but plain values, and what a text may grow to is bounded.

The parser's events are read, not its tree: the tree is built by recursion in C, which a deeply
nested text of a few hundred kilobytes drives into a crash of the process.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import yaml

from tulle.resources.violations import Location, Problem

TEXT_BYTES_MAX: Final = 4 * 1024 * 1024
"""A mesh of some thousand objects; more is better applied in several files."""
VALUES_MAX: Final = 400_000
"""Values of one document, counting what aliases repeat."""
DEPTH_MAX: Final = 64
"""No resource nests deeper than about twenty."""
LIBRARY_DEPTH: Final = "exceeded maximum nesting depth"
"""What the YAML library says at its own, higher bound, which its look-ahead may reach first."""
DIGITS_MAX: Final = 40

Place = tuple[int, int]
"""Line and column, from 1."""

_TAG: Final = "tag:yaml.org,2002:"
_PLAIN: Final = (
    ("null", re.compile(r"|~|null|Null|NULL")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("int", re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")),
    ("float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")),
    ("float", re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")),
)
"""What a plain scalar without a tag is: the first that fits, else a string."""


@dataclass(slots=True)
class Document:
    """One document: its value, where each part of it stood, and what is wrong with its form."""

    value: Any
    places: dict[Location, Place]
    """Of a key with a scalar, the scalar's; of another key, the key's."""
    keys: dict[Location, Place]
    """Of every key, the key's own."""
    problems: list[tuple[Place, Problem]] = field(default_factory=list)

    def place(self, location: Location) -> Place:
        """Return where *location* is, or the nearest thing around it that was written."""
        while location and location not in self.places:
            location = location[:-1]
        return self.places[location]


class MalformedText(Exception):
    """The text ends being YAML at `place`."""

    def __init__(self, message: str, place: Place | None) -> None:
        """Keep what is wrong and where."""
        super().__init__(message)
        self.place = place


def documents(text: str | bytes) -> Iterator[Document]:
    """Yield each document that is not empty.

    Raises:
        MalformedText: from here on the text is not YAML, or larger than a bound.
    """
    if len(text) > TEXT_BYTES_MAX:
        raise MalformedText(f"the text is larger than {TEXT_BYTES_MAX >> 20} MiB", None)
    try:
        plain = text.decode() if isinstance(text, bytes) else text
        plain.encode()
    except UnicodeError as error:
        raise MalformedText("the text is not UTF-8", None) from error
    if plain.lstrip().startswith(("{", "[")):
        plain = plain.replace("\t", " ")  # JSON may be indented with tabs, which YAML is not
    try:
        for event in (events := yaml.parse(plain, Loader=yaml.CSafeLoader)):
            if isinstance(event, yaml.DocumentStartEvent):
                document = _Reader(events).read()
                if document.value is not None:
                    yield document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else None
        if error.problem == LIBRARY_DEPTH:
            raise MalformedText(f"nested deeper than {DEPTH_MAX}", place) from error
        raise MalformedText(f"not YAML: {error.problem}", place) from error
    except yaml.reader.ReaderError as error:
        raise MalformedText(f"not YAML: {error.reason}", None) from error


class _Anchored(NamedTuple):
    """What an alias repeats."""

    value: Any
    size: int
    depth: int


class _Reader:
    """Turns the events of one document into plain values."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self.events = events
        self.document = Document(None, {}, {})
        self.anchors: dict[str, _Anchored] = {}
        self.size = 0
        self.deepest = 0

    def read(self) -> Document:
        first = next(self.events)
        self.document.places[()] = _place(first)
        self.document.value = self._value(first, ())
        return self.document

    def _value(self, event: yaml.Event, location: Location) -> Any:
        depth = len(location)
        if isinstance(event, yaml.AliasEvent):
            return self._repeated(event, depth)
        self._grow(1, depth, event)
        outside, self.deepest = self.deepest, depth
        size = self.size
        match event:
            case yaml.MappingStartEvent():
                value: Any = self._mapping(location)
            case yaml.SequenceStartEvent():
                value = self._sequence(location)
            case yaml.ScalarEvent():
                value = self._scalar(event, location)
            case _:
                raise AssertionError(f"YAML's grammar has no {event} here")
        if event.anchor is not None:
            anchored = _Anchored(value, self.size - size + 1, self.deepest - depth)
            self.anchors[event.anchor] = anchored
        self.deepest = max(outside, self.deepest)
        return value

    def _repeated(self, event: yaml.AliasEvent, depth: int) -> Any:
        anchored = self.anchors.get(event.anchor or "")
        if anchored is None:
            raise MalformedText(
                f'no value before this has the anchor "{event.anchor}"', _place(event)
            )
        self._grow(anchored.size, depth + anchored.depth, event)
        return anchored.value

    def _grow(self, size: int, depth: int, event: yaml.Event) -> None:
        self.size += size
        self.deepest = max(self.deepest, depth)
        if self.size > VALUES_MAX:
            raise MalformedText(f"more than {VALUES_MAX} values, aliases included", _place(event))
        if depth > DEPTH_MAX:
            raise MalformedText(f"nested deeper than {DEPTH_MAX}", _place(event))

    def _sequence(self, location: Location) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            here = (*location, len(items))
            self.document.places[here] = _place(event)
            items.append(self._value(event, here))
        return items

    def _mapping(self, location: Location) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(key := next(self.events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                self._problem(key, location, "a key is not a plain word", "a string")
                self._value(key, (*location, ""))
                self._value(next(self.events), (*location, ""))
                continue
            here = (*location, key.value)
            value = next(self.events)
            if key.value in mapping:
                line = self.document.keys[here][0]
                self._problem(
                    key, here, f"duplicate key, first given in line {line}", "each key once"
                )
                self._value(value, (*location, ""))
                continue
            self.document.keys[here] = _place(key)
            self.document.places[here] = _place(
                value if isinstance(value, yaml.ScalarEvent) else key
            )
            mapping[key.value] = self._value(value, here)
        return mapping

    def _scalar(self, event: yaml.ScalarEvent, location: Location) -> Any:
        text: str = event.value
        match _kind(event):
            case "str":
                return text
            case "null":
                return None
            case "bool" if text.lower() in ("true", "false"):
                return text.lower() == "true"
            case "int" if len(text) > DIGITS_MAX:
                self._problem(event, location, "the number is too long", f"{DIGITS_MAX} digits")
            case "int" | "float" | "bool" as kind:
                try:
                    return {"int": _integer, "float": _float}[kind](text)
                except (ValueError, KeyError):
                    self._problem(event, location, f'"{text}" is no {kind}', "a plain value")
            case tag:
                self._problem(event, location, f'tag "{tag}" is not allowed', "plain values")
        return None

    def _problem(self, event: yaml.Event, location: Location, message: str, allowed: str) -> None:
        self.document.problems.append((_place(event), Problem(location, message, allowed)))


def _kind(event: yaml.ScalarEvent) -> str:
    """Return what a scalar is by its tag, or by how it is written."""
    if event.tag is not None and event.tag != "!":
        return str(event.tag).removeprefix(_TAG)
    if not event.implicit[0]:
        return "str"
    return next((kind for kind, pattern in _PLAIN if pattern.fullmatch(event.value)), "str")


def _integer(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _place(event: yaml.Event) -> Place:
    assert event.start_mark is not None, "a parser marks each event"  # noqa: S101
    return event.start_mark.line + 1, event.start_mark.column + 1
