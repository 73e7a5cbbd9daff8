"""The catalogue of kinds: complete, without clashes, found by any of its names."""

import pkgutil

import pytest

import tulle.resources
from tulle.resources.registry import KINDS, Kind, find_kind, find_plural


def test_every_module_of_a_kind_is_in_the_catalogue() -> None:
    modules = {module.name for module in pkgutil.iter_modules(tulle.resources.__path__)}
    shared = {
        "aside",
        "filters",
        "model",
        "parse",
        "policy",
        "reference",
        "registry",
        "route",
        "schema",
        "text",
        "values",
        "violations",
    }

    assert modules - shared == {name.lower() for name in KINDS}


def test_no_name_means_two_kinds() -> None:
    names = [
        name
        for kind in KINDS.values()
        for name in (kind.name.lower(), kind.plural, *kind.short_names)
    ]

    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_kind_and_its_model_agree(kind: Kind) -> None:
    fields = kind.model.model_fields

    assert fields["kind"].default == kind.name == kind.model.__name__
    assert fields["api_version"].default == kind.api_versions[0]
    assert "status" in fields


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("svc", "Service"),
        ("services", "Service"),
        ("Service", "Service"),
        ("httproute", "HTTPRoute"),
        ("AuthorizationPolicies", "AuthorizationPolicy"),
        ("pod", None),
        ("", None),
    ],
)
def test_a_kind_is_found_by_any_of_its_names(word: str, name: str | None) -> None:
    found = find_kind(word)

    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("group", "version", "plural", "name"),
    [
        ("", "v1", "services", "Service"),
        ("gateway.networking.k8s.io", "v1alpha2", "tcproutes", "TCPRoute"),
        ("gateway.networking.k8s.io", "v1alpha2", "httproutes", None),
        ("tulle.dev", "v1", "workloads", None),
        ("tulle.dev", "v1alpha1", "services", None),
    ],
)
def test_an_api_path_names_a_kind(group: str, version: str, plural: str, name: str | None) -> None:
    found = find_plural(group, version, plural)

    assert (found.name if found else None) == name
