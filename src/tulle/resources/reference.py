"""The reference page of the resources: `python -m tulle.resources.reference [FILE]`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tulle.resources.registry import KINDS, Kind
from tulle.resources.schema import kind_schema

PAGE: Final = Path("docs/reference/resources.md")

_HEAD = """\
# Resources

Every object has `apiVersion`, `kind` and `metadata`; unknown keys are refused. Fields marked
**required** must be given where their parent is. Durations are written as in `500ms`, `30s` or
`1m30s`. This page is generated from the models: `python -m tulle.resources.reference`.
"""

_OMITTED = ("Accepted from Kubernetes, ignored.", "Set by the store")


def page() -> str:
    """Return the whole page."""
    parts = [_HEAD, *(_section(kind) for kind in KINDS.values()), _metadata()]
    return "\n".join(parts)


def _section(kind: Kind) -> str:
    schema = kind_schema(kind)
    top = schema["$defs"][kind.name]
    names = f"`{kind.plural}`" + "".join(f", `{short}`" for short in kind.short_names)
    lines = [
        f"## {kind.name}",
        "",
        top["description"],
        "",
        f"`apiVersion: {kind.api_versions[0]}`"
        + "".join(f" (or `{version}`)" for version in kind.api_versions[1:])
        + f" · on the command line {names}"
        + (" · namespaced" if kind.namespaced else " · not namespaced"),
        "",
    ]
    rows = list(_rows(schema, top["properties"].get("spec", {}), "spec"))
    return "\n".join([*lines, *_table(rows)])


def _metadata() -> str:
    schema = kind_schema(KINDS["HTTPRoute"])
    rows = list(_rows(schema, schema["$defs"]["ObjectMeta"], "metadata"))
    return "\n".join(["## metadata", "", "The same for every kind.", "", *_table(rows)])


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    if not rows:
        return ["No fields of its own.", ""]
    head = ["| field | type | meaning |", "|---|---|---|"]
    return [*head, *(f"| `{path}` | {type_} | {text} |" for path, type_, text in rows), ""]


def _rows(
    schema: dict[str, Any], node: dict[str, Any], path: str
) -> Iterator[tuple[str, str, str]]:
    """Yield path, type and meaning of every field below *node*, depth first."""
    node = _resolved(schema, node)
    required = node.get("required", ())
    for name, field in node.get("properties", {}).items():
        here = f"{path}.{name}"
        inner, suffix = _inner(schema, field)
        text = " ".join(field.get("description", "").split())
        if text.startswith(_OMITTED):
            continue
        if name in required:
            text = f"**required** {text}"
        if isinstance(default := field.get("default"), str | int | bool):
            text += f" Default: `{str(default).lower() if isinstance(default, bool) else default}`."
        yield here, _type(inner, suffix), text.replace("|", "\\|")
        yield from _rows(schema, inner, here + suffix)


def _inner(schema: dict[str, Any], field: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return what *field* holds, and how its path goes on: "", `[]` or `.<key>`."""
    node = _resolved(schema, field)
    if node.get("type") == "array":
        return _resolved(schema, node["items"]), "[]"
    values = node.get("additionalProperties")
    if isinstance(values, dict):
        return _resolved(schema, values), ".<key>"
    return node, ""


def _resolved(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Return *node* without references and without the alternative null."""
    given = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
    if len(given) == 1:
        node = given[0]
    if "$ref" in node:
        found: dict[str, Any] = schema["$defs"][node["$ref"].rpartition("/")[2]]
        return found
    return node


def _type(node: dict[str, Any], suffix: str) -> str:
    of = {"[]": "list of ", ".<key>": "map to ", "": ""}[suffix]
    if "enum" in node:
        return of + ", ".join(f"`{value}`" if value != "" else '`""`' for value in node["enum"])
    if "const" in node:
        return of + (f"`{node['const']}`" if node["const"] != "" else '`""`')
    if "properties" in node:
        return of + "object"
    if "minimum" in node:
        return f"{of}integer {node['minimum']} to {node['maximum']}"
    if "anyOf" in node:
        options = [option for option in node["anyOf"] if option.get("type") != "null"]
        return of + " or ".join(_type(option, "") for option in options)
    return of + str(node.get("type", "any"))


def main() -> None:
    """Write the page to the file named on the command line, or where it belongs."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
