"""The operations of the OpenAPI document that are not about one resource."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from tulle.control import shapes

Json = dict[str, Any]


def _object(**properties: Json) -> Json:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(item: Json) -> Json:
    return {"type": "array", "items": item}


TEXT: Json = {"type": "string"}
TEXT_OR_NULL: Json = {"type": ["string", "null"]}
COUNT: Json = {"type": "integer", "minimum": 0}
NUMBER: Json = {"type": "number"}
NUMBER_OR_NULL: Json = {"type": ["number", "null"]}
FLAG: Json = {"type": "boolean"}
OBJECT: Json = {"type": "object"}
OBJECT_OR_NULL: Json = {"type": ["object", "null"]}

MEASURED: Json = {
    "requests": COUNT,
    "success": COUNT,
    "success_rate": NUMBER_OR_NULL,
    "rps": NUMBER,
    "p50_ms": NUMBER_OR_NULL,
    "p99_ms": NUMBER_OR_NULL,
    "bytes_in": COUNT,
    "bytes_out": COUNT,
    "retries": COUNT,
    "mtls": FLAG,
    "protocol": TEXT,
}

PROXY = _object(
    workload=TEXT,
    identity=TEXT_OR_NULL,
    connected=FLAG,
    ready=FLAG,
    draining=FLAG,
    pid={"type": ["integer", "null"]},
    admin=TEXT_OR_NULL,
    version=TEXT_OR_NULL,
    rss_bytes={"type": ["integer", "null"]},
    cpu_s=NUMBER_OR_NULL,
    records=_list(
        _object(
            name=TEXT, version=TEXT_OR_NULL, held=TEXT_OR_NULL, in_sync=FLAG, error=TEXT_OR_NULL
        )
    ),
)

CALL_SCHEMAS: Json = {
    "Violation": _object(
        resource=TEXT,
        path=TEXT,
        message=TEXT,
        allowed=TEXT,
        line={"type": ["integer", "null"]},
        column={"type": ["integer", "null"]},
    ),
    "Edge": _object(
        source=TEXT_OR_NULL,
        source_identity=TEXT_OR_NULL,
        service=TEXT_OR_NULL,
        destination=TEXT_OR_NULL,
        destination_identity=TEXT_OR_NULL,
        **MEASURED,
    ),
    "StatRow": _object(name=TEXT, route=TEXT_OR_NULL, **MEASURED),
    "Proxy": PROXY,
    "Applied": _object(kind=TEXT, namespace=TEXT, name=TEXT, action=TEXT),
    "Change": _object(
        kind=TEXT,
        namespace=TEXT,
        name=TEXT,
        action=TEXT,
        before=OBJECT_OR_NULL,
        after=OBJECT_OR_NULL,
    ),
    "Token": _object(
        id=TEXT,
        namespace=TEXT,
        service_account=TEXT,
        service=TEXT_OR_NULL,
        expires=TEXT,
        uses_left=COUNT,
    ),
}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _call(
    summary: str,
    answer: Json,
    *,
    body: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    path: tuple[tuple[str, str], ...] = (),
    media: str = "application/json",
    code: str = "200",
) -> Json:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": at}}
        for name, at in path
    ]
    if query is not None:
        parameters.extend(_query_parameters(query))
    operation: Json = {
        "summary": summary,
        "parameters": parameters,
        "responses": {
            code: {"description": "As asked for.", "content": {media: {"schema": answer}}}
        },
    }
    if body is not None:
        schema = _inlined(body)
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _query_parameters(query: type[BaseModel]) -> list[Json]:
    return [
        {"name": name, "in": "query", "schema": _without_null(schema)}
        for name, schema in _inlined(query)["properties"].items()
    ]


def _without_null(schema: Json) -> Json:
    """A parameter that may be left out; in a query there is no null."""
    if "anyOf" not in schema:
        return schema
    (only,) = (choice for choice in schema["anyOf"] if choice != {"type": "null"})
    return dict(only)


def _inlined(model: type[BaseModel]) -> Json:
    """The JSON Schema of a small model, with what it refers to written out."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inline(definitions[node["$ref"].rpartition("/")[2]])
            return {key: inline(value) for key, value in node.items()}
        return [inline(item) for item in node] if isinstance(node, list) else node

    inlined: Json = inline(schema)
    return inlined


LABEL = ("namespace", shapes.LABEL_PATTERN)
NAME = ("name", shapes.NAME_PATTERN)
APPLIED = _object(results=_list(_ref("Applied")), revision=COUNT)
RESOLVED = _object(
    steps=_list(OBJECT),
    outcome=TEXT,
    code={"type": ["integer", "null"]},
    reason=TEXT_OR_NULL,
)

CALLS: tuple[tuple[str, str, Json], ...] = (
    (
        "/tulle/v1/apply",
        "post",
        _call("Apply a batch, all or none.", APPLIED, body=shapes.ApplyBody),
    ),
    ("/tulle/v1/delete", "post", _call("Delete a batch.", APPLIED, body=shapes.DeleteBody)),
    (
        "/tulle/v1/diff",
        "post",
        _call(
            "Tell what an apply would change.",
            _object(changes=_list(_ref("Change"))),
            body=shapes.DiffBody,
        ),
    ),
    (
        "/tulle/v1/edges",
        "get",
        _call("Who talks to whom.", _object(edges=_list(_ref("Edge"))), query=shapes.EdgesQuery),
    ),
    (
        "/tulle/v1/stat",
        "get",
        _call("Traffic received.", _object(rows=_list(_ref("StatRow"))), query=shapes.StatQuery),
    ),
    (
        "/tulle/v1/tap",
        "get",
        _call("Live requests.", OBJECT, query=shapes.TapQuery, media="application/x-ndjson"),
    ),
    (
        "/tulle/v1/resolve",
        "post",
        _call("Explain a described request.", RESOLVED, body=shapes.ResolveBody),
    ),
    ("/tulle/v1/proxies", "get", _call("All sidecars.", _object(proxies=_list(_ref("Proxy"))))),
    (
        "/tulle/v1/proxies/{namespace}/{name}",
        "get",
        _call("One sidecar.", _ref("Proxy"), path=(LABEL, NAME)),
    ),
    (
        "/tulle/v1/records/trust/{name}",
        "get",
        _call("The trust record.", OBJECT, path=(NAME,)),
    ),
    (
        "/tulle/v1/records/{kind}/{namespace}/{name}",
        "get",
        _call(
            "A record as sidecars get it.",
            OBJECT,
            path=(("kind", "^(service|endpoints|workload)$"), LABEL, NAME),
        ),
    ),
    (
        "/tulle/v1/tokens",
        "post",
        _call(
            "Make a join token.",
            _object(token=TEXT, id=TEXT, expires=TEXT),
            body=shapes.TokenBody,
            code="201",
        ),
    ),
    ("/tulle/v1/tokens", "get", _call("All tokens.", _object(tokens=_list(_ref("Token"))))),
    (
        "/tulle/v1/tokens/{id}",
        "delete",
        _call("Revoke a token.", _ref("Status"), path=(("id", "^[0-9a-f]{1,64}$"),)),
    ),
    (
        "/tulle/v1/ca/bundle",
        "get",
        _call("The root certificates.", TEXT, media="application/x-pem-file"),
    ),
    ("/livez", "get", _call("Whether the process lives.", TEXT, media="text/plain")),
    ("/readyz", "get", _call("Whether it serves.", TEXT, media="text/plain")),
    ("/version", "get", _call("The version that runs.", _object(version=TEXT))),
    ("/openapi.json", "get", _call("This document.", OBJECT)),
)
