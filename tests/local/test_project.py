"""tulle.yaml: every mistake at once, each at its line; and what the good ones mean."""

from pathlib import Path

import pytest

from tulle.errors import InvalidResources, NotFound
from tulle.local.project import (
    Project,
    find_project,
    home_of,
    load_project,
    providers,
    select_apps,
)
from tulle.local.starter import STARTER

PATH = Path("/project/tulle.yaml")


def load(text: str) -> Project:
    return load_project(PATH, text)


WRONG = [
    ("apps: [1]", ["tulle.yaml:1:1: apps: a list is not"]),
    ("[]", ["tulle.yaml:1:1: is not one mapping"]),
    ("apps: {web: {command: [a}}", ["tulle.yaml:1:"]),
    (
        "apps:\n  web:\n    command: a\n    enviroment: {}\n",
        ['tulle.yaml:4:5: apps.web.enviroment: unknown key; did you mean "environment"?'],
    ),
    (
        "apps:\n  web: {}\n  cart:\n    command: []\n    port: 99999\n",
        [
            "tulle.yaml:2:3: apps.web.command: is required",
            "tulle.yaml:4:5: apps.cart.command: is not a command",
            "tulle.yaml:5:11: apps.cart.port:",
        ],
    ),
    (
        "apps:\n  web:\n    command: a\n    port: 80\n    replicas: 2\n",
        ["tulle.yaml:5:15: apps.web.replicas: 2 replicas cannot all listen on port 80"],
    ),
    (
        "apps:\n  a: {command: a, port: 80}\n  b: {command: b, port: 80}\n",
        ['tulle.yaml:3:25: apps.b.port: 80 is the port of "a" already'],
    ),
    (
        "apps:\n  a: {command: a, dependsOn: [b]}\n  b: {command: b, dependsOn: [a]}\n",
        ["tulle.yaml:2:19: apps.a.dependsOn: waits for itself: a → b → a"],
    ),
    (
        "apps:\n  a: {command: a, dependsOn: ['b c']}\n",
        ['tulle.yaml:2:31: apps.a.dependsOn[0].service: "b c" is not a service'],
    ),
    (
        "resources: [gone.yaml]\napps:\n  a: {command: a}\n",
        ['tulle.yaml:1:13: resources[0]: "gone.yaml" does not exist'],
    ),
    ("apps:\n  a: {command: a}\n  a: {command: b}\n", ["tulle.yaml:3:3: apps.a: duplicate key"]),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_all_that_is_wrong_is_told_with_its_place(text: str, expected: list[str]) -> None:
    with pytest.raises(InvalidResources) as caught:
        load(text)

    told = [str(violation) for violation in caught.value.violations]
    assert len(told) == len(expected), told
    for line, start in zip(told, expected, strict=True):
        assert line.startswith(start)


def test_an_app_is_a_service_of_its_name_unless_told_otherwise() -> None:
    project = load(
        "mesh: {namespace: shop}\n"
        "apps:\n"
        "  web: {command: a}\n"
        "  v1: {command: a, service: catalog, namespace: goods}\n"
        "  load: {command: a, service: null}\n"
    )

    assert [project.service(app) for app in project.manifest.apps] == ["web", "catalog", None]
    assert project.namespace("web") == "shop"
    assert project.namespace("v1") == "goods"


def test_a_ring_of_calls_is_allowed_where_nobody_waits() -> None:
    project = load(
        "apps:\n"
        "  a: {command: a, dependsOn: [b]}\n"
        "  b: {command: b, dependsOn: [{service: a, condition: started}]}\n"
    )

    assert list(project.manifest.apps) == ["a", "b"]


def test_naming_an_app_starts_what_it_waits_for_too() -> None:
    project = load(
        "apps:\n"
        "  redis: {command: a}\n"
        "  other: {command: a}\n"
        "  cart: {command: a, dependsOn: ['redis:6379']}\n"
    )

    assert select_apps(project, ("cart",)) == ["redis", "cart"]
    assert select_apps(project, ()) == ["redis", "other", "cart"]
    with pytest.raises(NotFound, match='no app "crat"; did you mean "cart"'):
        select_apps(project, ("crat",))


def test_a_dependency_names_namespace_service_and_port() -> None:
    project = load("apps:\n  a: {command: a, dependsOn: [b, x/b, 'b:1', 'x/b:2']}\n")

    targets = [one.target("home") for one in project.manifest.apps["a"].depends_on]
    assert targets == [("home", "b", None), ("x", "b", None), ("home", "b", 1), ("x", "b", 2)]
    assert providers(project, targets[0]) == []


def test_the_starter_is_a_right_project() -> None:
    assert list(load(STARTER).manifest.apps) == ["hello", "caller"]


def test_the_nearest_project_above_is_found(tmp_path: Path) -> None:
    (tmp_path / "tulle.yaml").write_text(STARTER)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)

    assert find_project(below) == tmp_path / "tulle.yaml"
    assert home_of(below) == tmp_path / ".tulle"
    with pytest.raises(NotFound, match="tulle init"):
        find_project(tmp_path.parent, tmp_path / "other.yaml")
