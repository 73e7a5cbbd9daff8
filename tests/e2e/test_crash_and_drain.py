"""Replicas that end under load, by a crash or in order: no request of a caller fails."""

import itertools
import json
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.http_client import get
from tests.e2e.load import at_rate
from tests.e2e.mesh import HTTP, Mesh, Namespace, Workload
from tests.e2e.processes import eventually

pytestmark = pytest.mark.e2e

RATE = 500
SECONDS = 5.0


number = itertools.count()


@pytest.fixture
def pair(mesh: Mesh) -> Iterator[Namespace]:
    """A caller `web` of `cart`, which has two replicas; new for each test."""
    shop = mesh.namespace(f"pair-{next(number)}")
    shop.service("cart")
    for name, app in (("web", None), ("cart-1", HTTP), ("cart-2", HTTP)):
        shop.add(name, app, access_log="errors")
    shop.settle()
    yield shop
    shop.stop()


def kill_app(shop: Namespace, workload: Workload) -> None:
    """The program alone."""
    workload.app.kill()


def kill_both(shop: Namespace, workload: Workload) -> None:
    """The program and its sidecar."""
    workload.stop()


def kill_sidecar(shop: Namespace, workload: Workload) -> None:
    """The sidecar alone."""
    workload.sidecar.kill()


def drain(shop: Namespace, workload: Workload) -> None:
    """The sidecar is asked to end, and the program ends after it."""
    assert shop.drain(workload) == 0
    workload.app.kill()


@pytest.mark.parametrize("end", [kill_app, kill_both, kill_sidecar, drain])
def test_the_end_of_one_of_two_replicas_fails_no_request(
    pair: Namespace, end: Callable[[Namespace, Workload], None]
) -> None:
    web, cart = pair.workloads["web"], pair.workloads["cart-1"]
    get(web.proxy, "http://cart/")

    result = at_rate(web.proxy, "http://cart/", RATE, SECONDS, lambda: end(pair, cart))

    assert result.outcomes == {"200": RATE * SECONDS}, web.access_log()[:5]
    assert set(result.apps) == {"cart-1", "cart-2"}
    assert (retries(web) > 0) == (end is not drain)
    eventually(lambda: pair.endpoints("cart") == ["cart-2"], "the other replica is left alone")


def retries(web: Workload) -> int:
    """Return how many tries after the first the caller's sidecar has made."""
    text = get(web.admin, "/metrics").body.decode()
    counts = re.findall(r"^tulle_request_retries_total\{.*\} (\d+)$", text, re.MULTILINE)
    return sum(map(int, counts))


def test_without_retries_the_same_crash_is_seen(pair: Namespace) -> None:
    """What the test above proves is not true of any mesh."""
    web = pair.workloads["web"]
    pair.apply(
        """
        apiVersion: tulle.dev/v1alpha1
        kind: BackendTrafficPolicy
        metadata: {name: cart}
        spec:
          targetRefs: [{group: "", kind: Service, name: cart}]
          retry: {on: []}
        """
    )

    result = at_rate(web.proxy, "http://cart/", RATE, 1.0, pair.workloads["cart-1"].app.kill)

    assert result.outcomes["503 app-unreachable"] > 0
    assert retries(web) == 0


def test_a_replica_that_drains_finishes_what_it_has_begun(pair: Namespace) -> None:
    """Its endpoint goes at once; the open request is answered, and only then the sidecar ends."""
    web = pair.workloads["web"]
    pair.service("single")
    single = pair.add("single-1", HTTP)
    pair.settle()
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(get, web.proxy, "http://single/do/slow/1500")
        eventually(lambda: "/do/slow/1500" in told(single), "the request has begun")
        single.sidecar.signal(signal.SIGTERM)
        eventually(lambda: pair.endpoints("single") == [], "the endpoint is gone")
        assert not answer.done()
        assert single.sidecar.running

        assert answer.result().status == 200
    assert single.sidecar.wait() == 0
    assert get(web.proxy, "http://single/").reason == "no-healthy-endpoint"


def test_what_a_sidecar_carries_last_is_counted(pair: Namespace) -> None:
    web, carts = pair.workloads["web"], [pair.workloads[name] for name in ("cart-1", "cart-2")]
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(get, web.proxy, "http://cart/do/slow/1500")
        eventually(lambda: any("/do/slow/1500" in told(cart) for cart in carts), "it has begun")
        assert pair.drain(web) == 0
        assert answer.result().status == 200

    def counted() -> list[int]:
        printed = pair.mesh.tulle("edges", "-n", pair.name, "-o", "json").stdout
        rows = json.loads(printed)["items"]
        return [row["requests"] for row in rows if row["source"] == f"{pair.name}/web"]

    eventually(lambda: counted() == [1], "the last report has come")


def told(workload: Workload) -> dict[str, int]:
    """Return how often the program was asked for each path."""
    paths = get(workload.app_address, "/do/told").json()["paths"]
    assert isinstance(paths, dict)
    return paths


def test_a_replica_that_comes_late_takes_its_share(pair: Namespace) -> None:
    web = pair.workloads["web"]
    pair.add("cart-3", HTTP)
    pair.settle()

    result = at_rate(web.proxy, "http://cart/", RATE, 1.0, lambda: None)

    assert result.outcomes == {"200": RATE}
    assert set(result.apps) == {"cart-1", "cart-2", "cart-3"}
