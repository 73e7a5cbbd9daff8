"""An object, its model and the object again are the same, for every kind."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tulle.resources.parse import parse_object, parse_text
from tulle.resources.registry import KINDS

_name = st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
_port = st.integers(1, 65535)
_labels = st.dictionaries(_name, _name, max_size=3)
_duration = st.sampled_from(["1ms", "500ms", "1s", "1m30s", "007s"])
_text = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12)


def _fields(required: dict[str, Any], **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


def _list(
    items: st.SearchStrategy[Any], most: int = 3, **more: Any
) -> st.SearchStrategy[list[Any]]:
    return st.lists(items, max_size=most, **more)


_parents = _list(
    _fields(
        {"group": st.just(""), "kind": st.just("Service"), "name": _name},
        namespace=_name,
    ),
    unique_by=lambda ref: ref["name"],
)
_backend = _fields({"name": _name, "port": _port}, namespace=_name, weight=st.integers(0, 10**6))
_version = st.builds(
    lambda service, version, port: {
        "group": "tulle.dev",
        "kind": "ServiceVersion",
        "name": f"{service}.{version}",
        "port": port,
    },
    _name,
    _name,
    _port,
)
_header_modifier = _fields(
    {"set": st.just([{"name": "X-A", "value": "b"}])},
    add=st.just([{"name": "X-B", "value": "b c"}]),
    remove=st.just(["X-C"]),
)
_filters = st.builds(
    lambda modifier: [{"type": "RequestHeaderModifier", "requestHeaderModifier": modifier}],
    _header_modifier,
)
_http_match = _fields(
    {},
    path=_fields({"value": st.sampled_from(["/", "/a", "/a/b"])}, type=st.just("Exact")),
    headers=_list(_fields({"name": _name, "value": _text})),
    queryParams=_list(_fields({"name": _name, "value": _text})),
    method=st.sampled_from(["GET", "POST"]),
)
_http_rule = _fields(
    {},
    matches=_list(_http_match),
    filters=_filters,
    backendRefs=_list(_backend | _version),
    timeouts=_fields({}, request=st.just("0s"), backendRequest=_duration),
    retry=_fields({}, codes=_list(st.integers(400, 599)), attempts=st.integers(1, 10)),
)
_grpc_rule = _fields(
    {},
    matches=_list(_fields({}, method=_fields({"service": st.just("a.B")}, method=st.just("C")))),
    backendRefs=_list(_backend),
)
_selector = _fields({}, matchLabels=_labels)
_targets = _list(_fields({"name": _name}), unique_by=lambda ref: ref["name"])

SPECS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "Namespace": _fields({}),
    "Service": _fields(
        {"ports": st.builds(lambda n, t: [{"port": n, "targetPort": t}], _port, _port | _name)},
        selector=_labels,
        clusterIP=st.just("None"),
    ),
    "Workload": _fields(
        {"address": st.ip_addresses().map(str)},
        serviceAccount=_name,
        ports=st.builds(lambda a, b: [{"port": a, "listen": b}], _port, _port),
    ),
    "HTTPRoute": _fields({}, parentRefs=_parents, rules=_list(_http_rule, min_size=1)),
    "GRPCRoute": _fields({}, parentRefs=_parents, rules=_list(_grpc_rule, min_size=1)),
    "TLSRoute": _fields(
        {
            "hostnames": st.just(["*.example.com", "a.example.com"]),
            "rules": st.builds(lambda b: [{"backendRefs": [b]}], _backend),
        },
        parentRefs=_parents,
    ),
    "TCPRoute": _fields(
        {"rules": st.builds(lambda b: [{"backendRefs": [b]}], _backend)}, parentRefs=_parents
    ),
    "BackendTrafficPolicy": _fields(
        {"targetRefs": st.builds(lambda name: [{"name": name}], _name)},
        timeouts=_fields({}, connect=_duration, perTry=_duration),
        retry=_fields({}, on=st.just(["5xx"]), backoff=_fields({}, base=_duration)),
        outlierDetection=_fields({}, disabled=st.booleans()),
    ),
    "PeerAuthentication": _fields(
        {},
        selector=_selector,
        portLevelMtls=st.dictionaries(_port.map(str), st.just({"mode": "DISABLE"}), max_size=2),
    ),
    "AuthorizationPolicy": _fields(
        {},
        targetRefs=_targets,
        action=st.sampled_from(["ALLOW", "DENY"]),
        rules=_list(
            _fields(
                {},
                **{"from": st.just([{"source": {"principals": ["*"]}}])},
                to=st.just([{"operation": {"paths": ["/a*"]}}]),
            )
        ),
    ),
}


def _object(kind: str, spec: dict[str, Any], labels: dict[str, str], name: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": labels}
    if KINDS[kind].namespaced:
        metadata["namespace"] = "shop"
    return {
        "apiVersion": KINDS[kind].api_versions[-1],
        "kind": kind,
        "metadata": metadata,
        "spec": spec,
    }


_objects = st.sampled_from(list(KINDS)).flatmap(
    lambda kind: st.builds(_object, st.just(kind), SPECS[kind], _labels, _name)
)


@given(_objects)
def test_an_object_comes_back_as_it_was_written(value: dict[str, Any]) -> None:
    resource = parse_object(value)

    assert resource.to_object() == value
    assert parse_object(resource.to_object()) == resource


@given(_objects)
def test_yaml_and_json_say_the_same(value: dict[str, Any]) -> None:
    resource = parse_object(value)

    (from_yaml,) = parse_text(yaml.safe_dump(value, allow_unicode=True))
    (from_json,) = parse_text(json.dumps(value, indent="\t"))

    assert from_yaml.resource == from_json.resource == resource


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn(kind: str) -> None:
    assert kind in SPECS
