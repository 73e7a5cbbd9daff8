"""A change goes to the sidecars that use what it is about, and to no other."""

from collections.abc import Iterator

import pytest

from tests.e2e.processes import eventually
from tests.e2e.security_support import Mesh, Sidecar, running_mesh

pytestmark = pytest.mark.e2e

SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80, appProtocol: http}}]
"""

POLICY = """
apiVersion: tulle.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: cart}]
  timeouts: {request: 3s}
"""

CALLS = {
    "a": ["shop/cart"],
    "b": ["shop/cart", "shop/catalog"],
    "c": ["shop/catalog"],
    "d": ["shop/payments"],
    "e": [],
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("fan")) as mesh:
        mesh.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")
        mesh.apply("---".join(SERVICE.format(name=n) for n in ("cart", "catalog", "payments")))
        for name, services in CALLS.items():
            mesh.add(f"shop/{name}", calls={service: [80] for service in services})
        mesh.settle()
        yield mesh


def held(mesh: Mesh, sidecar: Sidecar) -> dict[str, str]:
    """What a sidecar holds: the version of each record, as it acknowledged it."""
    return {one["name"]: one["held"] for one in mesh.proxy(sidecar.name)["records"]}


def kept(sidecar: Sidecar) -> dict[str, int]:
    """The files of its records: each is a new one when it is sent anew."""
    return {file.name: file.stat().st_ino for file in sidecar.records()}


def all_kept(mesh: Mesh) -> bool:
    """Whether every record that a sidecar holds is on its disk."""
    return all(len(kept(one)) == len(held(mesh, one)) for one in mesh.sidecars.values())


def test_each_sidecar_holds_what_it_calls(mesh: Mesh) -> None:
    for name, services in CALLS.items():
        expected = {"trust/tulle.local", f"workload/shop/{name}"}
        expected |= {f"{kind}/{one}" for one in services for kind in ("service", "endpoints")}
        assert set(held(mesh, mesh.sidecars[f"shop/{name}"])) == expected


def test_a_change_reaches_its_subscribers_alone(mesh: Mesh) -> None:
    eventually(lambda: all_kept(mesh), "all is on disk")
    files = {name: kept(one) for name, one in mesh.sidecars.items()}
    versions = {name: held(mesh, one) for name, one in mesh.sidecars.items()}

    mesh.apply(POLICY)

    def written_by() -> set[str]:
        return {name for name, one in mesh.sidecars.items() if kept(one) != files[name]}

    eventually(lambda: written_by() == {"shop/a", "shop/b"}, "both callers of cart keep it")
    for name, one in mesh.sidecars.items():
        now, before = held(mesh, one), versions[name]
        changed = {record for record in now if now[record] != before[record]}
        assert changed == ({"service/shop/cart"} if "shop/cart" in CALLS[one.name[5:]] else set())


def test_a_change_that_compiles_to_the_same_is_not_sent(mesh: Mesh) -> None:
    mesh.apply(POLICY)
    version = mesh.record("shop/a", "service/shop/cart")["version"]

    mesh.apply(POLICY.replace("3s", "3000ms"))

    assert mesh.record("shop/a", "service/shop/cart")["version"] == version


def test_a_service_that_is_deleted_leaves_no_sidecar_behind(mesh: Mesh) -> None:
    reference = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "payments", "namespace": "shop"},
    }

    mesh.plane.call("POST", "/tulle/v1/delete", {"resources": [reference]})
    mesh.settle()

    assert set(held(mesh, mesh.sidecars["shop/d"])) == {"trust/tulle.local", "workload/shop/d"}
    assert "STALE" not in mesh.tulle("proxy", "list", "-n", "shop").stdout
