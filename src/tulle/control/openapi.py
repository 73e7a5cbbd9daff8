"""The OpenAPI 3.1 document: resource schemas from the models, operations from the tables here.

The document is built when it is first asked for. A test holds that it names
exactly the operations the application routes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import tulle
from tulle.control.openapi_calls import CALL_SCHEMAS, CALLS
from tulle.control.shapes import LABEL_PATTERN as NAMESPACE_PATTERN
from tulle.control.shapes import NAME_PATTERN
from tulle.resources.registry import KINDS, Kind

Json = dict[str, Any]

FAILURES = {
    "400": "The request cannot be read.",
    "401": "The token is missing or wrong; only on TCP.",
    "404": "There is no such object.",
    "409": "It is there already, or has changed since it was read.",
    "410": "The revision is no longer kept; list again.",
    "413": "The body is too large.",
    "415": "The body is neither JSON nor YAML.",
    "422": "The object is refused; every violation is told.",
    "429": "As many as may be are open.",
    "503": "No sidecar that could answer is connected.",
    "504": "A sidecar did not answer in time.",
}


def base_path(kind: Kind, version: str) -> str:
    """The path that all operations of a kind's version begin with."""
    return f"/apis/{kind.group}/{version}" if kind.group else f"/api/{version}"


def document() -> Json:
    """Return the whole document."""
    paths: dict[str, Json] = {}
    for kind in KINDS.values():
        for version in kind.versions:
            paths.update(_kind_paths(kind, version))
    for path, method, operation in CALLS:
        paths.setdefault(path, {})[method] = _with_failures(copy.deepcopy(operation))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tulle control plane",
            "version": tulle.__version__,
            "description": "Resources in the shape of Kubernetes' API, and what a mesh knows.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # On the Unix socket nothing is needed: its file mode lets the owner alone in.
        "security": [{}, {"token": []}],
    }


def _schemas() -> Json:
    models: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (kind.model, "validation") for kind in KINDS.values()
    ]
    _, generated = models_json_schema(models, ref_template="#/components/schemas/{model}")
    schemas: Json = {**generated["$defs"], **CALL_SCHEMAS, "Status": _status_schema()}
    for kind in KINDS.values():
        schemas[kind.name]["required"] = ["apiVersion", "kind", "metadata", *_spec(schemas, kind)]
        schemas[f"{kind.name}List"] = _list_schema(kind)
        schemas[f"{kind.name}Event"] = _event_schema(kind)
    return schemas


def _spec(schemas: Json, kind: Kind) -> list[str]:
    return ["spec"] if "spec" in schemas[kind.name].get("required", []) else []


def _status_schema() -> Json:
    return {
        "type": "object",
        "required": ["apiVersion", "kind", "status", "message", "reason", "code"],
        "properties": {
            "apiVersion": {"const": "v1"},
            "kind": {"const": "Status"},
            "status": {"enum": ["Success", "Failure"]},
            "message": {"type": "string"},
            "reason": {"type": "string"},
            "code": {"type": "integer"},
            "details": {"type": "object"},
            "violations": {"type": "array", "items": {"$ref": "#/components/schemas/Violation"}},
        },
    }


def _list_schema(kind: Kind) -> Json:
    return {
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"const": f"{kind.name}List"},
            "metadata": {
                "type": "object",
                "required": ["resourceVersion"],
                "properties": {"resourceVersion": {"type": "string"}},
            },
            "items": {"type": "array", "items": _ref(kind.name)},
        },
    }


def _event_schema(kind: Kind) -> Json:
    return {
        "type": "object",
        "required": ["type", "object"],
        "properties": {
            "type": {"enum": ["ADDED", "MODIFIED", "DELETED", "ERROR"]},
            "object": {"anyOf": [_ref(kind.name), _ref("Status"), {"type": "object"}]},
        },
    }


def _kind_paths(kind: Kind, version: str) -> Iterator[tuple[str, Json]]:
    base = base_path(kind, version)
    scope = [_path_parameter("namespace", NAMESPACE_PATTERN)] if kind.namespaced else []
    collection = f"{base}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else None
    if collection is not None:
        yield f"{base}/{kind.plural}", {"get": _list_operation(kind, "all namespaces", [])}
    collection = collection or f"{base}/{kind.plural}"
    place = "a namespace" if kind.namespaced else "the mesh"
    yield (
        collection,
        {
            "get": _list_operation(kind, place, scope),
            "post": _write(kind, f"Create a {kind.name}.", scope, {"201": "Created."}),
        },
    )
    named = [*scope, _path_parameter("name", NAME_PATTERN)]
    changed = {"200": "Changed, or unchanged.", "201": "Created."}
    yield (
        f"{collection}/{{name}}",
        {
            "get": _operation(f"Read a {kind.name}.", named, {"200": _ok(kind.name)}),
            "put": _write(kind, f"Replace a {kind.name} that is as it was read.", named, changed),
            "patch": _write(kind, f"Apply a {kind.name}: create or replace.", named, changed),
            "delete": _operation(f"Delete a {kind.name}.", named, {"200": _ok("Status")}),
        },
    )
    yield (
        f"{collection}/{{name}}/status",
        {
            "get": _operation(f"Read a {kind.name}.", named, {"200": _ok(kind.name)}),
            "put": _write(
                kind, f"Replace the status of a {kind.name}.", named, {"200": "Changed."}
            ),
        },
    )


def _list_operation(kind: Kind, place: str, parameters: list[Json]) -> Json:
    query = [
        _query("watch", "Stream changes after resourceVersion as JSON lines.", {"type": "boolean"}),
        _query(
            "resourceVersion", "Where a watch begins.", {"type": "string", "pattern": "^[0-9]*$"}
        ),
        _query("labelSelector", "`key=value`, `key!=value`, `key` or `!key`, with commas."),
        _query("timeoutSeconds", "End a watch after this time.", {"type": "integer", "minimum": 1}),
    ]
    return _operation(
        f"List or watch {kind.plural} of {place}.",
        [*parameters, *query],
        {
            "200": {
                "description": "The list, or the stream of changes.",
                "content": {
                    "application/json": {"schema": _ref(f"{kind.name}List")},
                    "application/x-ndjson": {"schema": _ref(f"{kind.name}Event")},
                },
            }
        },
    )


def _write(kind: Kind, summary: str, parameters: list[Json], answers: dict[str, str]) -> Json:
    operation = _operation(
        summary,
        parameters,
        {code: _ok(kind.name, text) for code, text in answers.items()},
    )
    content = {"application/json": {"schema": _ref(kind.name)}}
    return {**operation, "requestBody": {"required": True, "content": content}}


def _operation(summary: str, parameters: list[Json], answers: Json) -> Json:
    return _with_failures({"summary": summary, "parameters": parameters, "responses": answers})


def _with_failures(operation: Json) -> Json:
    failures = {code: _ok("Status", text) for code, text in FAILURES.items()}
    return {**operation, "responses": {**failures, **operation["responses"]}}


def _ok(schema: str, description: str = "As asked for.") -> Json:
    return {
        "description": description,
        "content": {"application/json": {"schema": _ref(schema)}},
    }


def _ref(schema: str) -> Json:
    return {"$ref": f"#/components/schemas/{schema}"}


def _path_parameter(name: str, pattern: str) -> Json:
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query(name: str, description: str, schema: Json | None = None) -> Json:
    return {
        "name": name,
        "in": "query",
        "description": description,
        "schema": schema or {"type": "string"},
    }
