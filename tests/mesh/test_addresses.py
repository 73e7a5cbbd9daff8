"""Virtual addresses: every Service has its own, and keeps it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tulle.errors import InvalidResources, StoreError
from tulle.mesh import addresses
from tulle.mesh.addresses import addresses_of, missing_addresses, with_addresses
from tulle.mesh.change import Delete, Put
from tulle.mesh.mesh import Mesh
from tulle.mesh.store import Store
from tulle.resources.model import ObjectName, ResourceKey
from tulle.resources.parse import parse_text
from tulle.resources.service import VIRTUAL_IPV4, VIRTUAL_IPV6, Service, ServiceStatus
from tulle.sidecar.rules import VIRTUAL


def service(name: str, spec: str = "") -> Service:
    text = (
        f"{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, "
        f"spec: {{ports: [{{port: 80}}]{spec}}}}}"
    )
    parsed = parse_text(text)[0].resource
    assert isinstance(parsed, Service)
    return parsed


def commit(store: Store, *changes: Put | Delete) -> Mesh:
    store.commit(with_addresses(Mesh.of(store.list().resources), changes))
    return Mesh.of(store.list().resources)


def given(mesh: Mesh, name: str) -> Sequence[str]:
    found = mesh.service(ObjectName("shop", name))
    assert found is not None
    return addresses_of(found)


def test_every_service_has_its_own_address_of_both_ip_versions(store: Store) -> None:
    mesh = commit(store, *(Put(service(f"s{number}")) for number in range(500)))

    all_given = [given(mesh, f"s{number}") for number in range(500)]
    assert len({v4 for v4, _ in all_given}) == len({v6 for _, v6 in all_given}) == 500


def test_an_address_outlives_changes_restarts_and_other_services(
    store: Store, tmp_path: Path
) -> None:
    first = given(commit(store, Put(service("cart"))), "cart")
    commit(store, Put(service("cart", ", sessionAffinity: None")))
    commit(store, *(Put(service(f"s{number}")) for number in range(50)))
    taken = ServiceStatus(addresses=given(Mesh.of(store.list().resources), "s1"))
    stolen = service("cart").model_copy(update={"status": taken})
    commit(store, Put(stolen, mode="status"))
    store.close()

    again = Store(tmp_path / "store.db")
    assert given(Mesh.of(again.list().resources), "cart") == first
    again.close()


def test_names_that_begin_at_the_same_place_get_different_ones(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zlib.crc32", lambda _: addresses.NUMBERS_MAX - 1)

    mesh = commit(store, Put(service("a")), Put(service("b")), Put(service("c")))

    found = [given(mesh, name)[0] for name in "abc"]
    assert found == ["240.240.255.254", "240.240.0.1", "240.240.0.2"]


def test_when_all_are_given_a_further_service_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "NUMBERS_MAX", 2)
    mesh = commit(store, Put(service("a")), Put(service("b")))

    with pytest.raises(StoreError, match="all 2 addresses are given"):
        commit(store, Put(service("c")))
    gone = commit(store, Delete(ResourceKey("Service", "shop", "a")))
    assert given(commit(store, Put(service("c"))), "c") == given(mesh, "a")
    assert gone.service(ObjectName("shop", "a")) is None


def test_what_an_earlier_version_wrote_gets_an_address(store: Store) -> None:
    store.commit([Put(service("cart"))])

    mesh = commit(store, *missing_addresses(Mesh.of(store.list().resources)))

    assert len(given(mesh, "cart")) == 2
    assert missing_addresses(mesh) == []


CASES = [
    (", clusterIP: 10.0.0.7, clusterIPs: [10.0.0.7, 'FD00::07']", ("10.0.0.7", "fd00::7")),
    (", clusterIP: None", ()),
    (", type: ExternalName, externalName: a.example", ()),
]


@pytest.mark.parametrize(("spec", "expected"), CASES, ids=["asked", "headless", "external"])
def test_a_cluster_ip_counts_more(store: Store, spec: str, expected: tuple[str, ...]) -> None:
    assert given(commit(store, Put(service("cart", spec))), "cart") == expected


def test_a_cluster_ip_has_one_owner(store: Store) -> None:
    asked = ", clusterIP: 10.0.0.7"
    commit(store, Put(service("cart", asked)))
    commit(store, Put(service("cart", f"{asked}, sessionAffinity: None")))

    with pytest.raises(InvalidResources, match=r"10.0.0.7 is the cluster IP of Service shop/cart"):
        commit(store, Put(service("thief", asked)))
    with pytest.raises(InvalidResources, match="shop/a"):
        commit(store, *(Put(service(name, ", clusterIP: 10.0.0.8")) for name in "ab"))


def test_the_sidecar_routes_what_is_given() -> None:
    assert (str(VIRTUAL_IPV4), str(VIRTUAL_IPV6)) == VIRTUAL
