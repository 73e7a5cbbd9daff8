"""From text or plain objects to resources, or to every violation at once.

`parse_texts` is for files: violations tell file, line and column. `parse_objects` is for the
API: they tell the path. A check that relates several fields of one mapping runs when each of
these fields is right by itself; everything else is reported in one go.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from tulle.errors import InvalidResources, Violation
from tulle.resources.model import DEFAULT_NAMESPACE, Resource, ResourceKey
from tulle.resources.registry import KINDS, Kind
from tulle.resources.text import DEPTH_MAX, Document, MalformedText, Place, documents
from tulle.resources.violations import UNKNOWN_KEY, Location, located, path_text, shown, suggest

ValueT = TypeVar("ValueT")

SOURCE_ANNOTATION: Final = "tulle.dev/source"
"""Where the object was written: JSON of file and lines by path; set by the CLI on apply."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A resource and where it was written."""

    resource: Resource
    file: str | None
    places: Mapping[str, Place]
    """Line and column by path, as in `spec.rules[0]`; "" is the whole object."""

    def place(self, path: str) -> Place | None:
        """Return where *path* is, or the nearest thing around it; None for an unknown object."""
        while path and path not in self.places:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.places.get(path)


def parse_text(text: str | bytes, file: str | None = None) -> tuple[Parsed, ...]:
    """Return the resources of one YAML or JSON text; see `parse_texts`."""
    return parse_texts([(file, text)])


def parse_texts(
    sources: Iterable[tuple[str | None, str | bytes]], namespace: str = DEFAULT_NAMESPACE
) -> tuple[Parsed, ...]:
    """Return the resources of several texts, each with the file it is from.

    Objects of kind `List` are opened. *namespace* is given to objects that name none.

    Raises:
        InvalidResources: with every violation of every document, in the order of the text.
    """
    parser = _TextParser(namespace)
    for file, text in sources:
        parser.read(file, text)
    if parser.violations:
        raise InvalidResources(parser.violations)
    return tuple(parser.parsed)


def parse_object(value: object, namespace: str = DEFAULT_NAMESPACE) -> Resource:
    """Return the resource that the plain object *value* stands for; see `parse_objects`."""
    return parse_objects([value], namespace)[0]


def parse_each(
    values: Iterable[ValueT],
) -> tuple[list[Resource], list[tuple[ValueT, Violation]]]:
    """Return the resources of the objects that are right, and what is wrong with which other."""
    resources: list[Resource] = []
    wrong: list[tuple[ValueT, Violation]] = []
    for value in values:
        try:
            resources.append(parse_object(value))
        except InvalidResources as error:
            wrong += ((value, violation) for violation in error.violations)
    return resources, wrong


def parse_objects(
    values: Sequence[object], namespace: str = DEFAULT_NAMESPACE
) -> tuple[Resource, ...]:
    """Return the resources that plain objects, such as decoded JSON, stand for.

    Raises:
        InvalidResources: with every violation of every object.
    """
    resources: list[Resource] = []
    violations: list[Violation] = []
    seen: set[ResourceKey] = set()
    for value in values:
        resource, found = _resource(value, namespace)
        violations += [violation for _, violation in found]
        if resource is None:
            continue
        if resource.key in seen:
            violations.append(
                Violation(str(resource.key), "", "is given twice", "each object once")
            )
        seen.add(resource.key)
        resources.append(resource)
    if violations:
        raise InvalidResources(violations)
    return tuple(resources)


class _TextParser:
    """Reads texts one after another and gathers resources and violations."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.parsed: list[Parsed] = []
        self.violations: list[Violation] = []
        self._first: dict[ResourceKey, str] = {}

    def read(self, file: str | None, text: str | bytes) -> None:
        """Read all documents of one text."""
        try:
            for document in documents(text):
                self._document(file, document)
        except MalformedText as error:
            line, column = error.place or (None, None)
            self.violations.append(Violation("", "", str(error), "", line, column, file))

    def _document(self, file: str | None, document: Document) -> None:
        value = document.value
        roots: list[Location] = [()]
        if _is_list(value):
            roots = [("items", index) for index in range(len(value["items"]))]
        for root in roots:
            self._object(file, document, root, value["items"][root[1]] if root else value)

    def _object(self, file: str | None, document: Document, root: Location, value: object) -> None:
        resource, found = _resource(value, self.namespace)
        at = [
            (
                place,
                Violation(
                    _name(value, self.namespace),
                    path_text(problem.location[len(root) :]),
                    *problem[1:],
                ),
            )
            for place, problem in document.problems
            if problem.location[: len(root)] == root
        ]
        for location, violation in found:
            whole = (*root, *location)
            unknown = violation.message == UNKNOWN_KEY and whole in document.keys
            place = document.keys[whole] if unknown else document.place(whole)
            at.append((place, violation))
        for (line, column), violation in sorted(at, key=lambda pair: pair[0]):
            self.violations.append(violation._replace(line=line, column=column, file=file))
        if resource is None:
            return
        line, column = document.place(root)
        if first := self._first.get(resource.key):
            self.violations.append(
                Violation(
                    str(resource.key),
                    "",
                    f"is given twice, first in {first}",
                    "each object once",
                    line,
                    column,
                    file,
                )
            )
            return
        self._first[resource.key] = f"{file or 'line'}:{line}" if file else f"line {line}"
        size = len(root)
        places = {
            path_text(location[size:]): place
            for location, place in document.places.items()
            if location[:size] == root
        }
        self.parsed.append(Parsed(resource, file, places))


def _is_list(value: object) -> bool:
    return (
        isinstance(value, dict)
        and (value.get("apiVersion"), value.get("kind")) == ("v1", "List")
        and isinstance(value.get("items"), list)
    )


Found = list[tuple[Location, Violation]]


def _resource(value: object, namespace: str) -> tuple[Resource | None, Found]:
    """Return the resource of one object, or None with everything that is wrong with it."""
    if not isinstance(value, dict):
        violation = Violation("", "", f"{shown(value)} is not a resource", "a mapping with kind")
        return None, [((), violation)]
    name = _name(value, namespace)
    kind, found = _kind(value, name)
    if kind is None:
        return None, found
    try:
        cleaned = _without_nulls(value)
    except RecursionError:
        return None, [((), Violation(name, "", "is nested too deeply", f"at most {DEPTH_MAX}"))]
    if found:
        cleaned["apiVersion"] = kind.api_versions[0]
    metadata = cleaned.get("metadata")
    if kind.namespaced and isinstance(metadata, dict):
        cleaned["metadata"] = {"namespace": namespace, **metadata}
    try:
        resource = kind.model.model_validate(cleaned, by_alias=True, by_name=False)
    except ValidationError as error:
        return None, [*found, *located(kind.model, error, name)]
    return (None if found else resource), found


def _name(value: object, namespace: str) -> str:
    """Return `Kind namespace/name` as far as they are there."""
    if not isinstance(value, dict):
        return ""
    word, metadata = value.get("kind"), value.get("metadata")
    if not isinstance(metadata, dict):
        metadata = {}
    kind = KINDS.get(word) if isinstance(word, str) else None
    given = metadata.get("namespace", namespace if kind and kind.namespaced else None)
    name = "/".join(part for part in (given, metadata.get("name")) if isinstance(part, str))
    return f"{word} {name}".strip() if isinstance(word, str) else name


def _kind(value: dict[str, Any], name: str) -> tuple[Kind | None, Found]:
    """Return the kind that *value* claims to be, and what is wrong with the claim."""
    found: Found = []
    word, version = value.get("kind"), value.get("apiVersion")
    kind = KINDS.get(word) if isinstance(word, str) else None
    if word is None:
        found.append((("kind",), Violation(name, "kind", "is required", _one_of(KINDS))))
    elif kind is None:
        hint = suggest(word, list(KINDS)) if isinstance(word, str) else ""
        allowed = hint or _one_of(KINDS)
        message = f"{shown(word)} is not known"
        found.append((("kind",), Violation(name, "kind", message, allowed)))
    versions = (
        kind.api_versions if kind else sorted({v for k in KINDS.values() for v in k.api_versions})
    )
    if version is None:
        message = "is required"
    elif version not in versions:
        message = f"{shown(version)} is not served" + (f" for {kind.name}" if kind else "")
    else:
        return kind, found
    found.append((("apiVersion",), Violation(name, "apiVersion", message, _one_of(versions))))
    return kind, found


def _one_of(words: Iterable[str]) -> str:
    return f"one of {', '.join(words)}"


def _without_nulls(value: Any, depth: int = 0) -> Any:
    """Return *value* without keys whose value is null, which mean that nothing is given."""
    if depth > DEPTH_MAX:
        raise RecursionError
    if isinstance(value, dict):
        return {
            key: _without_nulls(item, depth + 1) for key, item in value.items() if item is not None
        }
    if isinstance(value, list):
        return [_without_nulls(item, depth + 1) for item in value]
    return value


def attach_source(parsed: Parsed) -> Resource:
    """Return the resource with its file and lines in the annotation `tulle.dev/source`.

    Noted are the object itself and its rules, which telemetry and `tulle resolve` name. One
    that is from no file stays as it is.
    """
    if parsed.file is None:
        return parsed.resource
    lines = {
        path: place[0]
        for path, place in parsed.places.items()
        if path == ""
        or (path.startswith("spec.rules[") and path.endswith("]") and path.count("[") == 1)
    }
    source = json.dumps({"file": parsed.file, "lines": lines}, separators=(",", ":"))
    metadata = parsed.resource.metadata
    annotations = {**metadata.annotations, SOURCE_ANNOTATION: source}
    return parsed.resource.model_copy(
        update={"metadata": metadata.model_copy(update={"annotations": annotations})}
    )


def source_of(resource: Resource, path: str = "") -> str | None:
    """Return `file:line` of *path* in *resource* as noted on apply, or None.

    A path that was not noted has the line of the object itself. The annotation is anyone's to
    write, so what is not of its form counts as not there.
    """
    text = resource.metadata.annotations.get(SOURCE_ANNOTATION)
    if text is None:
        return None
    try:
        source = json.loads(text)
        lines = source["lines"]
        place = f"{source['file']}:{int(lines.get(path, lines['']))}"
        place.encode()
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return place
