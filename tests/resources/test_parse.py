"""Parsing: every violation of every document, at its line and column."""

import json

import pytest

from tulle.errors import InvalidResources, Violation
from tulle.resources.httproute import HTTPRoute
from tulle.resources.model import ANNOTATION_LENGTH_MAX, ANNOTATIONS_MAX, LABELS_MAX
from tulle.resources.parse import (
    SOURCE_ANNOTATION,
    attach_source,
    parse_object,
    parse_objects,
    parse_text,
    parse_texts,
    source_of,
)
from tulle.resources.registry import KINDS, Kind

WRONG = """\
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  ports:
  - port: 80
    appProtocl: http
  - port: 99999
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: HTTPRoute
metadata:
  name: Cart
  name: cart
spec:
  parentRefs:
  - {kind: Service, name: cart, port: "80"}
  rules:
  - backendRefs:
    - name: cart
---
kind: Servce
metadata: {name: web}
---
- 1
---
a: [
"""


def _violations(text: str) -> tuple[Violation, ...]:
    with pytest.raises(InvalidResources) as refused:
        parse_text(text, "shop.yaml")
    return refused.value.violations


def test_all_violations_of_all_documents_are_told_in_order() -> None:
    gateway = "gateway.networking.k8s.io"

    assert str(InvalidResources(_violations(WRONG))).splitlines() == [
        (
            "shop.yaml:7:5: Service shop/cart: spec.ports[0].appProtocl: unknown key; "
            'did you mean "appProtocol"?'
        ),
        "shop.yaml:8:11: Service shop/cart: spec.ports[1].port: 99999 is out of range; 1 to 65535",
        (
            f'shop.yaml:10:13: HTTPRoute default/Cart: apiVersion: "{gateway}/v1beta1" is not served '
            f"for HTTPRoute; one of {gateway}/v1"
        ),
        (
            'shop.yaml:13:9: HTTPRoute default/Cart: metadata.name: "Cart" is not allowed; '
            "lower-case letters, digits, '-' and '.', starting and ending with a letter or digit"
        ),
        (
            "shop.yaml:14:3: HTTPRoute default/Cart: metadata.name: "
            "duplicate key, first given in line 13; each key once"
        ),
        (
            'shop.yaml:17:39: HTTPRoute default/Cart: spec.parentRefs[0].port: "80" is a string; '
            "a whole number"
        ),
        "shop.yaml:20:7: HTTPRoute default/Cart: spec.rules[0].backendRefs[0].port: is required",
        (
            "shop.yaml:22:1: Servce web: apiVersion: is required; one of "
            f"{gateway}/v1, {gateway}/v1alpha2, {gateway}/v1alpha3, tulle.dev/v1alpha1, v1"
        ),
        'shop.yaml:22:7: Servce web: kind: "Servce" is not known; did you mean "Service"?',
        "shop.yaml:25:1: a list is not a resource; a mapping with kind",
        "shop.yaml:28:1: not YAML: did not find expected node content",
    ]


def test_a_violation_holds_its_parts() -> None:
    text = "{apiVersion: v1, kind: Namespace,\n metadata: {name: 7}}"

    assert _violations(text) == (
        Violation(
            resource="Namespace",
            path="metadata.name",
            message="7 is a number",
            allowed="a string",
            line=2,
            column=19,
            file="shop.yaml",
        ),
    )


def test_violations_of_several_files_are_told_together() -> None:
    with pytest.raises(InvalidResources) as refused:
        parse_texts([("a.yaml", "kind: X"), ("b.yaml", "kind: Y"), (None, b"\xff")])

    assert [v.file for v in refused.value.violations] == ["a.yaml"] * 2 + ["b.yaml"] * 2 + [None]


NAMESPACE = "{apiVersion: v1, kind: Namespace, metadata: {name: %s}}\n---\n"


def test_an_object_is_given_once() -> None:
    with pytest.raises(InvalidResources) as refused:
        parse_texts([("a.yaml", NAMESPACE % "a" + NAMESPACE % "b"), ("b.yaml", NAMESPACE % "b")])

    assert str(refused.value) == (
        "b.yaml:1:1: Namespace b: is given twice, first in a.yaml:3; each object once"
    )


def test_a_list_is_opened() -> None:
    text = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: a}}
- {apiVersion: v1, kind: Namespace, metadata: {name: B}}
- {apiVersion: v1, kind: Namespace, metadata: {name: c, c: d}}
"""
    found = [(v.resource, v.path, v.line, v.column) for v in _violations(text)]

    assert found == [
        ("Namespace B", "metadata.name", 6, 54),
        ("Namespace c", "metadata.c", 7, 57),
    ]
    assert len(parse_text(text.replace("B", "b").replace(", c: d", ""))) == 3


def test_a_namespace_is_given_to_objects_that_name_none() -> None:
    text = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1}]}}"

    assert parse_text(text)[0].resource.metadata.namespace == "default"
    (parsed,) = parse_texts([(None, text)], namespace="shop")
    assert parsed.resource.metadata.namespace == "shop"


def test_null_means_that_nothing_is_given() -> None:
    value = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "a", "labels": None},
        "spec": None,
    }

    assert parse_object(value).to_object() == {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "a"},
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null is not a resource; a mapping with kind"),
        ([], "a list is not a resource; a mapping with kind"),
        ({"kind": ["a"], "apiVersion": {}}, None),
        ({1: 2, "kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "a"}}, None),
    ],
)
def test_any_value_is_refused_by_violations(value: object, expected: str | None) -> None:
    with pytest.raises(InvalidResources) as refused:
        parse_object(value)

    assert refused.value.violations[0].line is None
    if expected:
        assert str(refused.value) == expected


def test_an_object_that_nests_too_deep_is_refused() -> None:
    deep: object = "x"
    for _ in range(200):
        deep = [deep]
    value = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "x": deep}}

    with pytest.raises(InvalidResources, match="Namespace a: is nested too deeply; at most 64"):
        parse_object(value)


def test_objects_of_the_api_are_checked_together() -> None:
    good = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}

    with pytest.raises(InvalidResources) as refused:
        parse_objects([good, {"kind": "Namespace"}, good, 7])

    assert [str(violation) for violation in refused.value.violations] == [
        "Namespace: apiVersion: is required; one of v1",
        "Namespace: metadata: is required",
        "Namespace a: is given twice; each object once",
        "7 is not a resource; a mapping with kind",
    ]


ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, annotations: {a: b}}
spec:
  rules:
  - name: one
    matches: [{path: {value: /a}}]
  -
    name: two
"""


def test_the_source_is_noted_and_read_back() -> None:
    (parsed,) = parse_text("\n" + ROUTE, "shop.yaml")

    resource = attach_source(parsed)

    assert json.loads(resource.metadata.annotations[SOURCE_ANNOTATION]) == {
        "file": "shop.yaml",
        "lines": {"": 2, "spec.rules[0]": 7, "spec.rules[1]": 10},
    }
    assert resource.metadata.annotations["a"] == "b"
    assert isinstance(resource, HTTPRoute)
    assert source_of(resource) == "shop.yaml:2"
    assert source_of(resource, "spec.rules[1]") == "shop.yaml:10"
    assert source_of(resource, "spec.rules[7]") == "shop.yaml:2"


def test_what_is_from_no_file_has_no_source() -> None:
    (parsed,) = parse_text(ROUTE)

    assert attach_source(parsed) is parsed.resource
    assert source_of(parsed.resource) is None


@pytest.mark.parametrize(
    ("metadata", "refused"),
    [
        ({"labels": {f"a{i}": "b" for i in range(LABELS_MAX)}}, ""),
        ({"labels": {f"a{i}": "b" for i in range(LABELS_MAX + 1)}}, "metadata.labels: 129 are"),
        ({"annotations": {f"a{i}": "b" for i in range(ANNOTATIONS_MAX)}}, ""),
        (
            {"annotations": {f"a{i}": "b" for i in range(ANNOTATIONS_MAX + 1)}},
            "metadata.annotations: 129 are",
        ),
        ({"annotations": {"a": "b" * (ANNOTATION_LENGTH_MAX - 1)}}, ""),
        ({"annotations": {"a": "b" * ANNOTATION_LENGTH_MAX}}, "metadata.annotations: 262145"),
    ],
    ids=["labels", "more labels", "annotations", "more annotations", "long", "too long"],
)
def test_metadata_is_bounded(metadata: dict[str, object], refused: str) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "a", **metadata},
    }

    if not refused:
        parse_object(body)
        return
    with pytest.raises(InvalidResources, match=refused):
        parse_object(body)


@pytest.mark.parametrize(
    "annotation", ["", "7", "[]", "{}", '{"file": "a"}', '{"file": "a", "lines": {}}', "[" * 9999]
)
def test_a_source_that_someone_else_wrote_counts_as_none(annotation: str) -> None:
    resource = parse_object(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "a", "annotations": {SOURCE_ANNOTATION: annotation}},
        }
    )

    assert source_of(resource) is None


def test_a_path_is_found_in_the_text() -> None:
    (parsed,) = parse_text(ROUTE, "shop.yaml")

    assert parsed.place("spec.rules[0].matches[0].path.value") == (7, 30)
    assert parsed.place("spec.rules[0].backendRefs[3]") == (6, 5)
    assert parsed.place("") == (1, 1)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_refuses_unknown_keys_at_every_level(kind: Kind) -> None:
    text = f"""
apiVersion: {kind.api_versions[0]}
kind: {kind.name}
metadata: {{name: a, nonsense: 1}}
spec: {{nonsense: 1}}
nonsense: 1
"""
    unknown = [v.path for v in _violations(text) if v.message == "unknown key"]

    assert unknown == ["metadata.nonsense", "spec.nonsense", "nonsense"]
