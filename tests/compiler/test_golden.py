"""What each case of tests/golden compiles to; the engine reads the same files.

`TULLE_GOLDEN=write pytest tests/compiler/test_golden.py` renews them: read the diff.
"""

import os
from pathlib import Path

import pytest

from tulle.compiler.compile import compile_record, compile_trust, record_names
from tulle.mesh.mesh import Mesh, WorkloadState
from tulle.record import decode, encode
from tulle.resources.model import Resource
from tulle.resources.parse import attach_source, parse_text
from tulle.resources.workload import Workload

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/resources.yaml"))
TRUST = compile_trust("tulle.local", ["root"])


def resources_of(case: str) -> list[Resource]:
    """Return the resources of a case, as applied from a file called after it."""
    text = (GOLDEN / case / "resources.yaml").read_text()
    return [attach_source(parsed) for parsed in parse_text(text, f"{case}.yaml")]


def mesh_of(resources: list[Resource]) -> Mesh:
    """Return the mesh of *resources*; what a Workload's status says is its state."""
    states = {
        each.object_name: WorkloadState(
            ready=each.status.ready, draining=each.status.draining, connected=each.status.connected
        )
        for each in resources
        if isinstance(each, Workload) and each.status is not None
    }
    return Mesh.of(resources, states)


def compiled(mesh: Mesh) -> dict[str, bytes]:
    """Return the file name and content of every record of *mesh* but that of trust."""
    files = {}
    for name in record_names(mesh, TRUST):
        record = compile_record(mesh, TRUST, name)
        assert record is not None
        files[name.replace("/", ".") + ".json"] = encode(record) + b"\n"
    del files["trust.tulle.local.json"]
    return files


@pytest.mark.parametrize("case", CASES)
def test_golden_records(case: str) -> None:
    files = compiled(mesh_of(resources_of(case)))
    folder = GOLDEN / case
    if os.environ.get("TULLE_GOLDEN") == "write":
        for old in folder.glob("*.json"):
            old.unlink()
        for name, data in files.items():
            (folder / name).write_bytes(data)

    assert files == {path.name: path.read_bytes() for path in folder.glob("*.json")}


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_resources_does_not_matter(case: str) -> None:
    resources = resources_of(case)

    assert compiled(mesh_of(resources[::-1])) == compiled(mesh_of(resources))


@pytest.mark.parametrize(
    "path", sorted(GOLDEN.glob("*/*.json")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_golden_record_is_read_back(path: Path) -> None:
    data = path.read_bytes()

    assert encode(decode(data)) + b"\n" == data


def test_there_are_cases() -> None:
    assert len(CASES) >= 13


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "service",
        "service/shop",
        "service/shop/none",
        "service/shop/cart/more",
        "endpoints/shop/none",
        "workload/shop/none",
        "trust/other",
        "route/shop/cart",
        "service//cart",
        "\ud800/\ud800/\ud800",
    ],
)
def test_a_name_of_nothing_has_no_record(name: str) -> None:
    assert compile_record(mesh_of(resources_of("plain")), TRUST, name) is None


def test_the_order_of_roots_does_not_matter() -> None:
    assert compile_trust("d", ["b", "a", "b"]) == compile_trust("d", ["a", "b"])
