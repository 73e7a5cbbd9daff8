"""One control plane for all tests here, and a namespace for each module."""

import os

# Before grpc is imported: its fork handlers run in every child that the tests start, where they
# write to its output and may hang.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


from collections.abc import Iterator

import pytest

from tests.e2e.mesh import Mesh, Namespace


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A control plane."""
    running = Mesh(tmp_path_factory.mktemp("mesh"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def shop(mesh: Mesh, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """An empty namespace, named after the module."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    namespace = mesh.namespace(name)
    yield namespace
    namespace.stop()
