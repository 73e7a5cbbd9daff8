"""BackendTrafficPolicy and route timeouts in force: time limits, retries, breakers, balancing."""

import itertools
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.e2e.http_client import Answer, Client, call, get
from tests.e2e.load import at_once, in_turn
from tests.e2e.mesh import HTTP, Namespace, Workload
from tests.e2e.processes import eventually

pytestmark = pytest.mark.e2e

CARTS = ("cart-1", "cart-2", "cart-3")

unique = itertools.count()


@pytest.fixture(scope="module")
def web(shop: Namespace) -> Workload:
    """A caller of `cart`, which has three replicas, and of `one`, which has one."""
    shop.service("cart")
    shop.service("one")
    web = shop.add("web")
    for name in (*CARTS, "one-1"):
        shop.add(name, HTTP)
    shop.settle()
    return web


def policy(shop: Namespace, service: str, spec: str) -> None:
    """Put a policy for *service* in force, in place of the one before."""
    shop.apply(
        f"""
        apiVersion: tulle.dev/v1alpha1
        kind: BackendTrafficPolicy
        metadata: {{name: {service}}}
        spec: {{targetRefs: [{{group: "", kind: Service, name: {service}}}], {spec}}}
        """
    )


def add_service(shop: Namespace) -> str:
    """Return the name of a new service with one replica: nothing is counted for it yet."""
    name = f"new{next(unique)}"
    shop.service(name)
    shop.add(f"{name}-1", HTTP)
    shop.settle()
    return name


def tries(shop: Namespace, workload: str, path: str) -> int:
    """Return how often the program was asked for *path*."""
    told = get(shop.workloads[workload].app_address, "/do/told").json()
    return int(told["paths"].get(path, 0))


def become(shop: Namespace, workload: str, query: str = "") -> None:
    """Change how a program answers from now on; without *query* it is as before."""
    get(shop.workloads[workload].app_address, f"/do/become?{query}")


def flaky(failures: int, code: int) -> str:
    """Return a path that nobody has asked for yet and that fails so often."""
    return f"/do/flaky/{failures}/{code}?n={next(unique)}"


def timed(web: Workload, url: str) -> tuple[Answer, float]:
    """Return the answer and how long it took."""
    start = time.monotonic()
    answer = get(web.proxy, url)
    return answer, time.monotonic() - start


def test_a_request_timeout_covers_all_tries(shop: Namespace, web: Workload) -> None:
    policy(
        shop,
        "one",
        "timeouts: {request: 500ms, perTry: 200ms}, retry: {on: [timeout], attempts: 10}",
    )
    before = tries(shop, "one-1", "/do/hang")

    answer, seconds = timed(web, "http://one/do/hang")

    assert answer.status == 504
    assert answer.reason in {"request-timeout", "try-timeout"}
    assert 0.5 <= seconds < 1.5
    assert tries(shop, "one-1", "/do/hang") - before >= 2


def test_a_policys_timeout_counts_from_the_end_of_an_upload(shop: Namespace, web: Workload) -> None:
    policy(shop, "one", "timeouts: {request: 300ms}")

    def slowly() -> Iterator[bytes]:
        for _ in range(8):
            time.sleep(0.1)
            yield b"x" * 1000

    uploaded = call(web.proxy, "POST", "http://one/echo", slowly())
    start = time.monotonic()
    hung = call(web.proxy, "POST", "http://one/do/hang", slowly())

    assert (uploaded.status, uploaded.json()["length"]) == (200, 8000)
    assert (hung.status, hung.reason) == (504, "request-timeout")
    assert time.monotonic() - start >= 0.8 + 0.3


def test_a_try_timeout_alone_ends_a_try_that_is_not_made_again(
    shop: Namespace, web: Workload
) -> None:
    policy(shop, "one", "timeouts: {perTry: 200ms}")
    before = tries(shop, "one-1", "/do/hang")

    answer, seconds = timed(web, "http://one/do/hang")

    assert (answer.status, answer.reason) == (504, "try-timeout")
    assert 0.2 <= seconds < 1.2
    assert tries(shop, "one-1", "/do/hang") - before == 1


def test_a_routes_timeouts_come_before_the_policys(shop: Namespace, web: Workload) -> None:
    policy(shop, "one", "timeouts: {request: 10s}")
    shop.apply(
        """
        apiVersion: gateway.networking.k8s.io/v1
        kind: HTTPRoute
        metadata: {name: one}
        spec:
          parentRefs: [{group: "", kind: Service, name: one}]
          rules: [{backendRefs: [{name: one, port: 80}], timeouts: {request: 300ms}}]
        """
    )
    answer, seconds = timed(web, "http://one/do/hang")
    with pytest.raises(Exception, match="IncompleteRead"):
        get(web.proxy, "http://one/do/trickle/2000")  # the body counts, too (GEP-1742)
    in_time = get(web.proxy, "http://one/do/trickle/10")
    shop.delete("HTTPRoute", "one", "gateway.networking.k8s.io/v1")

    assert (answer.status, answer.reason) == (504, "request-timeout")
    assert 0.3 <= seconds < 1.3
    assert in_time.body == b"abcd"


def test_a_connection_that_does_not_open_is_given_up_in_time(
    shop: Namespace, web: Workload
) -> None:
    """A stopped process still accepts in its backlog, but its handshake never ends."""
    policy(shop, "one", "timeouts: {connect: 300ms, request: 700ms}, retry: {attempts: 1}")
    sidecar = shop.workloads["one-1"].sidecar
    get(web.proxy, "http://one/")
    sidecar.freeze()
    try:
        kept = get(web.proxy, "http://one/")
        new, seconds = timed(web, "http://one/")
    finally:
        sidecar.thaw()

    assert (kept.status, kept.reason) == (504, "request-timeout")
    assert (new.status, new.reason) in {(503, "connect-failed"), (504, "request-timeout")}
    assert 0.6 <= seconds < 2.0  # two tries, each with a connection of its own
    eventually(lambda: get(web.proxy, "http://one/").status == 200, "it answers again")


RETRIES = [
    ("{on: [5xx]}", 1, 500, 200),
    ("{on: [5xx]}", 2, 503, 200),
    ("{on: [5xx]}", 3, 500, 500),
    ("{on: [5xx], attempts: 4}", 4, 500, 200),
    ("{on: [gateway-error]}", 1, 503, 200),
    ("{on: [gateway-error]}", 1, 500, 500),
    ("{on: [connect-failure], codes: [429]}", 1, 429, 200),
    ("{on: [connect-failure], codes: [429]}", 1, 500, 500),
    ("{on: [connect-failure, reset, unavailable]}", 1, 503, 503),
]


@pytest.mark.parametrize(("retry", "failures", "code", "status"), RETRIES)
def test_what_is_asked_for_is_tried_again(
    shop: Namespace, web: Workload, retry: str, failures: int, code: int, status: int
) -> None:
    policy(shop, "one", f"retry: {retry}, outlierDetection: {{disabled: true}}")

    answer = get(web.proxy, f"http://one{flaky(failures, code)}")

    assert answer.status == status


@pytest.mark.parametrize(("method", "expected"), [("GET", 3), ("PUT", 3), ("POST", 1)])
def test_a_broken_connection_is_tried_again_only_if_that_is_safe(
    shop: Namespace, web: Workload, method: str, expected: int
) -> None:
    policy(shop, "one", "retry: {attempts: 2}, outlierDetection: {disabled: true}")
    before = tries(shop, "one-1", "/do/reset")

    answer = call(web.proxy, method, "http://one/do/reset", b"" if method == "GET" else b"body")

    assert (answer.status, answer.reason) == (502, "reset")
    assert tries(shop, "one-1", "/do/reset") - before == expected


def test_a_body_is_sent_again_whole(shop: Namespace, web: Workload) -> None:
    policy(shop, "one", "retry: {on: [5xx]}, outlierDetection: {disabled: true}")
    become(shop, "one-1")

    answer = call(web.proxy, "PUT", f"http://one{flaky(2, 503)}", b"x" * 50_000)

    assert answer.status == 200
    told = get(shop.workloads["one-1"].app_address, "/do/told").json()
    assert told["bytes_read"] >= 150_000


BUDGETS = [(0, 0, 0, 0), (20, 0, 10, 10), (100, 0, 50, 100)]


@pytest.mark.parametrize(("percent", "rate", "least", "most"), BUDGETS)
def test_retries_add_no_more_load_than_the_budget(
    shop: Namespace, web: Workload, percent: int, rate: int, least: int, most: int
) -> None:
    """A budget belongs to a service's callers as a sidecar sees them, so each row has its own."""
    service = add_service(shop)
    policy(
        shop,
        service,
        f"retryBudget: {{percent: {percent}, minPerSecond: {rate}}}, "
        "retry: {on: [5xx], attempts: 2, backoff: {base: 1ms, max: 1ms}}, "
        "outlierDetection: {disabled: true}",
    )
    with Client(web.proxy) as client:
        statuses = {client.get(f"http://{service}/do/status/503").status for _ in range(50)}

    assert statuses == {503}
    retries = tries(shop, f"{service}-1", "/do/status/503") - 50
    assert least <= retries <= most


LIMITS = [
    ("{requests: 2}", 5, {"200": 2, "503 request-limit": 3}),
    ("{connections: 1, pending: 1}", 4, {"200": 2, "503 pending-limit": 2}),
    ("{connections: 3, pending: 10}", 6, {"200": 6}),
]


@pytest.mark.parametrize(("limits", "count", "expected"), LIMITS)
def test_what_is_beyond_a_limit_is_refused_at_once(
    shop: Namespace, web: Workload, limits: str, count: int, expected: dict[str, int]
) -> None:
    service = add_service(shop)
    policy(shop, service, f"limits: {limits}")
    get(web.proxy, f"http://{service}/")

    result = at_once(web.proxy, f"http://{service}/do/slow/400", count)

    assert result.outcomes == expected
    assert get(web.proxy, f"http://{service}/").status == 200


def test_a_replica_that_fails_is_left_out_and_comes_back(shop: Namespace, web: Workload) -> None:
    policy(
        shop,
        "cart",
        "loadBalancer: {type: RoundRobin}, outlierDetection: "
        "{consecutiveFailures: 3, baseEjection: 1s, maxEjection: 1s}",
    )
    become(shop, "cart-1", "status=500")
    with Client(web.proxy) as client:
        # Round robin reaches it every third time: three failures are in the first nine.
        first = Counter(client.get("http://cart/").status for _ in range(9))
        ejected_at = time.monotonic()
        later = Counter(client.get("http://cart/").status for _ in range(60))
        in_time = time.monotonic() - ejected_at < 0.9
        become(shop, "cart-1")

        assert first == {200: 6, 500: 3}
        assert in_time, "this machine is too slow to see an ejection of a second"
        assert later == {200: 60}
        eventually(lambda: client.get("http://cart/").app == "cart-1", "it is back")
        after = Counter(client.get("http://cart/").app for _ in range(30))
    assert after == {"cart-1": 10, "cart-2": 10, "cart-3": 10}


def test_never_more_than_the_share_is_left_out(shop: Namespace, web: Workload) -> None:
    policy(
        shop,
        "cart",
        "loadBalancer: {type: RoundRobin}, outlierDetection: "
        "{consecutiveFailures: 1, baseEjection: 500ms, maxEjectedPercent: 50}",
    )
    for name in CARTS:
        become(shop, name, "status=500")
    with Client(web.proxy) as client:
        apps = Counter(client.get("http://cart/").app for _ in range(30))
    for name in CARTS:
        become(shop, name)
    wait_for_all(web)

    # One of three is at most half of them; the two others go on, failing as they are.
    assert min(apps.values()) == 1
    assert len(apps) == 3


def wait_for_all(web: Workload) -> None:
    """Wait until no replica of `cart` is left out any more."""
    with Client(web.proxy) as client:
        eventually(
            lambda: {client.get("http://cart/").app for _ in range(6)} == set(CARTS), "all are back"
        )


SLOW_SHARES = [("RoundRobin", 0.30, 0.37), ("LeastRequest", 0.0, 0.22), ("PeakEWMA", 0.0, 0.22)]


@pytest.mark.parametrize(("balancer", "least", "most"), SLOW_SHARES)
def test_a_slow_replica_gets_what_the_balancer_gives_it(
    shop: Namespace, web: Workload, balancer: str, least: float, most: float
) -> None:
    policy(
        shop, "cart", f"loadBalancer: {{type: {balancer}}}, outlierDetection: {{disabled: true}}"
    )
    become(shop, "cart-1", "delay_ms=50")
    become(shop, "cart-2", "delay_ms=5")
    become(shop, "cart-3", "delay_ms=5")

    result = in_turn(web.proxy, "http://cart/", workers=12, count=20)

    for name in CARTS:
        become(shop, name)
    assert result.outcomes == {"200": 240}
    assert least <= result.apps["cart-1"] / 240 <= most


def test_round_robin_is_even(shop: Namespace, web: Workload) -> None:
    policy(shop, "cart", "loadBalancer: {type: RoundRobin}")

    result = in_turn(web.proxy, "http://cart/", workers=1, count=90)

    assert result.apps == {"cart-1": 30, "cart-2": 30, "cart-3": 30}
