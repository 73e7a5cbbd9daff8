"""From what a validator finds to Violations that name a path, what is wrong and what is allowed.

A check over several fields reports into `Problems`, so that one model validator may find many
things, each at its own path. Everything else is pydantic's own error list, put into words here.
"""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from tulle.errors import Violation

Location = tuple[str | int, ...]

UNKNOWN_KEY = "unknown key"
PROBLEMS = "problems"
"""The error type that carries several located problems in its context."""


class Problem(NamedTuple):
    """Something wrong at a place inside the value that is looked at."""

    location: Location
    """Keys as users write them, and indexes."""
    message: str
    allowed: str


class Problems:
    """Located problems of one value, found by a check over several of its fields."""

    def __init__(self) -> None:
        """Start with none."""
        self._found: list[Problem] = []

    def add(self, location: Location, message: str, allowed: str = "") -> None:
        """Note that at *location* there is something wrong."""
        self._found.append(Problem(location, message, allowed))

    def raise_any(self) -> None:
        """Raise all that was noted, if anything was.

        Raises:
            PydanticCustomError: something was noted; its context holds everything.
        """
        if self._found:
            raise PydanticCustomError(PROBLEMS, "inconsistent", {"found": self._found})


def path_text(location: Sequence[str | int]) -> str:
    """Return *location* as users read it: `spec.rules[0].matches[1].path`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.replace("_", "").replace("-", "").isalnum():
            path += f'["{part}"]'
        else:
            path += f".{part}" if path else part
    return path


def suggest(word: str, known: Sequence[str]) -> str:
    """Return `did you mean "…"?` for the known word nearest to *word*, or ""."""
    lower = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return f'did you mean "{lower[near[0]]}"?' if near else ""


def located(
    model: type[BaseModel], error: ValidationError, resource: str
) -> Iterator[tuple[Location, Violation]]:
    """Yield each problem of *error*, found while *model* was made, with its location."""
    details = error.errors(include_url=False)
    for detail in details:
        if detail["type"] == "too_short" and _has_inner(detail, details):
            continue  # pydantic does not count the items that are wrong themselves
        for location, message, allowed in _problems(model, detail):
            yield location, Violation(resource, path_text(location), message, allowed)


def _has_inner(outer: ErrorDetails, details: Sequence[ErrorDetails]) -> bool:
    size = len(outer["loc"])
    return any(len(d["loc"]) > size and d["loc"][:size] == outer["loc"] for d in details)


def _problems(model: type[BaseModel], detail: ErrorDetails) -> Iterator[tuple[Location, str, str]]:
    location: Location = detail["loc"]
    context: Mapping[str, Any] = detail.get("ctx", {})
    match detail["type"]:
        case "problems":
            for where, message, allowed in context["found"]:
                yield (*location, *where), message, allowed
        case "value":
            yield _without_key_mark(location), context["message"], context["allowed"]
        case "extra_forbidden":
            yield location, *_unknown_key(model, location)
        case kind:
            words = _in_words(kind, detail["input"], context) or (detail["msg"].lower(), "")
            yield _without_key_mark(location), *words


def _without_key_mark(location: Location) -> Location:
    """Drop the mark that pydantic puts behind a mapping's key that is itself wrong."""
    return location[:-1] if location and location[-1] == "[key]" else location


def _unknown_key(model: type[BaseModel], location: Location) -> tuple[str, str]:
    known = keys_at(model, location[:-1])
    hint = suggest(str(location[-1]), known)
    return UNKNOWN_KEY, hint or f"one of {', '.join(known)}"


def keys_at(model: type[BaseModel], location: Location) -> list[str]:
    """Return the keys that the object at *location* may have, as users write them."""
    current: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int) or current is None:
            continue
        current = next(
            (
                inner_model(field.annotation)
                for name, field in current.model_fields.items()
                if (field.alias or name) == part
            ),
            None,
        )
    if current is None:
        return []
    return [field.alias or name for name, field in current.model_fields.items()]


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """Return the model that *annotation* speaks of: itself, or inside a tuple or an option."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        if (found := inner_model(argument)) is not None:
            return found
    return None


_EXPECTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "float_type": "a number",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}


def _in_words(kind: str, value: Any, context: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return message and allowed for pydantic's error *kind*; None leaves it to pydantic."""
    if kind == "missing":
        return "is required", ""
    if kind == "literal_error":
        choices = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        hint = suggest(value, choices.split(", ")) if isinstance(value, str) else ""
        return f"{shown(value)} is not known", f"one of {choices}" + (f" ({hint})" if hint else "")
    if kind == "too_long":
        return f"{len(value)} are too many", f"at most {context['max_length']}"
    if kind == "too_short":
        return f"{context['actual_length']} are too few", f"at least {context['min_length']}"
    if kind == "none_required":
        return f"{shown(value)} does not belong here", "nothing"
    if kind in _EXPECTED:
        return f"{shown(value)} is {_sort(value)}", _EXPECTED[kind]
    return None


def _sort(value: Any) -> str:
    match value:
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case _:
            return "not allowed"


def shown(value: Any) -> str:
    """Return *value* as a message quotes it: strings in quotes, containers by their kind."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"' if len(value) <= 80 else f'"{value[:77]}…"'
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case None:
            return "null"
        case _:
            return str(value)
