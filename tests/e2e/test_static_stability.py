"""The control plane dies: traffic goes on, sidecars start without it, and it comes back quietly."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.e2e.http_client import get
from tests.e2e.processes import eventually
from tests.e2e.security_support import EchoApp, Mesh, Port, Sidecar, running_mesh, shop_with
from tests.e2e.steady_load import Load

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

AWAY_SECONDS = 20

POLICY = """
apiVersion: tulle.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web-only, namespace: shop}
spec:
  rules: [{from: [{source: {serviceAccounts: [web]}}]}]
"""


@pytest.fixture
def app() -> Iterator[EchoApp]:
    with EchoApp() as app:
        yield app


@pytest.fixture
def mesh(tmp_path_factory: pytest.TempPathFactory, app: EchoApp) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("stability")) as mesh:
        mesh.apply(shop_with(80) + POLICY)
        for number in (1, 2):
            mesh.add(f"shop/cart-{number}", Port(8080, "http", app.address))
        mesh.add("shop/web-1", calls={"shop/cart": [80]})
        mesh.add("shop/spy-1", calls={"shop/cart": [80]})
        mesh.settle()
        yield mesh


def endpoints(mesh: Mesh) -> list[str]:
    record = mesh.plane.call("GET", "/tulle/v1/records/endpoints/shop/cart")
    return [one["workload"] for one in record["endpoints"]]


def kept(sidecar: Sidecar) -> dict[str, tuple[int, int]]:
    """The records that a sidecar keeps on disk: each is a new file when it is sent anew."""
    stats = {file.name: file.stat() for file in sidecar.records()}
    return {name: (found.st_ino, found.st_mtime_ns) for name, found in stats.items()}


def statuses(mesh: Mesh) -> dict[str, Any]:
    """The status of each workload, with the time since when it is so."""
    listed = mesh.plane.call("GET", "/apis/tulle.dev/v1alpha1/workloads")
    return {one["metadata"]["name"]: one["status"] for one in listed["items"]}


def in_sync(mesh: Mesh, sidecar: Sidecar) -> bool:
    records = mesh.proxy(sidecar.name)["records"]
    return len(records) >= 2 and all(one["in_sync"] for one in records)


@pytest.mark.timeout(AWAY_SECONDS + 100)
def test_nothing_fails_while_the_control_plane_is_away(mesh: Mesh, app: EchoApp) -> None:
    web, spy, cart = (mesh.sidecars[f"shop/{name}"] for name in ("web-1", "spy-1", "cart-2"))
    acknowledged = mesh.plane.call("GET", "/apis/tulle.dev/v1alpha1/authorizationpolicies")
    status_before = statuses(mesh)

    with Load(web.outbound(), per_second=200) as load:
        mesh.server.kill()
        began = time.monotonic()
        for sidecar in mesh.sidecars.values():
            sidecar.wait_event("disconnected")
        before = {name: kept(one) for name, one in mesh.sidecars.items()}
        restart_without_control_plane(cart)
        after_restart = load.requests
        denied = get(spy.outbound(), "/spy")
        restarted_caller = restart_without_control_plane(spy)
        still_denied = get(spy.outbound(), "/spy")
        eventually(
            lambda: time.monotonic() - began >= AWAY_SECONDS, "it was away", AWAY_SECONDS + 5
        )
        mesh.start_server()
        seen = watch_endpoints(mesh)

    assert load.failures == []
    assert load.requests > after_restart > 0
    assert [denied.status, still_denied.status, restarted_caller] == [403, 403, "cached"]
    assert seen == {("shop/cart-1", "shop/cart-2")}
    assert {name: kept(one) for name, one in mesh.sidecars.items()} == before
    assert statuses(mesh) == status_before
    again = mesh.plane.call("GET", "/apis/tulle.dev/v1alpha1/authorizationpolicies")
    assert again["items"] == acknowledged["items"]
    assert is_intact(mesh)
    assert get(web.outbound(), "/afterwards").status == 200


def restart_without_control_plane(sidecar: Sidecar) -> str:
    """Replace the process by one that has nothing but what is on disk; return how it joined."""
    old = sidecar.process.pid
    sidecar.end()
    sidecar.start(token=None)
    how: str = sidecar.wait_event("joined")["how"]
    eventually(lambda: sidecar.process.pid != old and sidecar.is_ready(), "it is ready")
    return how


def watch_endpoints(mesh: Mesh) -> set[tuple[str, ...]]:
    """Every set of endpoints from the first moment until all sidecars are back in sync."""
    seen = set()

    def all_back() -> bool:
        seen.add(tuple(endpoints(mesh)))
        return all(in_sync(mesh, one) for one in mesh.sidecars.values())

    eventually(all_back, "every sidecar is back")
    return seen


def is_intact(mesh: Mesh) -> bool:
    with closing(sqlite3.connect(f"file:{mesh.home / 'mesh.db'}?mode=ro", uri=True)) as database:
        answer: str = database.execute("PRAGMA integrity_check").fetchone()[0]
    return answer == "ok"


def test_a_change_made_while_a_sidecar_was_away_reaches_it(mesh: Mesh) -> None:
    spy, cart = mesh.sidecars["shop/spy-1"], mesh.sidecars["shop/cart-1"]
    assert get(spy.outbound(), "/closed").status == 403
    for one in (cart, mesh.sidecars["shop/cart-2"]):
        one.end()

    mesh.apply(shop_with(80) + POLICY.replace("[web]", "[web, spy]"))
    cart.start(token=None)
    mesh.settle()

    assert get(spy.outbound(), "/opened").status == 200
