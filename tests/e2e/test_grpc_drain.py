"""A gRPC replica that drains under load: calls in flight end well, later ones go elsewhere."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.e2e.mesh import GRPC, Namespace, Workload
from tests.e2e.processes import eventually

pytestmark = pytest.mark.e2e

CALLERS = 4
CALL_SECONDS = 15
ROUND_ROBIN = """
apiVersion: tulle.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: calls}
spec: {targetRefs: [{group: "", kind: Service, name: calls}], loadBalancer: {type: RoundRobin}}
"""


@pytest.fixture(scope="module")
def web(shop: Namespace) -> Workload:
    """A caller of `calls`, which has two replicas."""
    shop.service("calls", "grpc")
    web = shop.add("web", outbound=("calls",))
    for name in ("calls-1", "calls-2"):
        shop.add(name, GRPC)
    shop.settle()
    shop.apply(ROUND_ROBIN)
    return web


@pytest.fixture
def channel(shop: Namespace, web: Workload) -> Iterator[grpc.Channel]:
    """A connection by the local address that stands for `calls`."""
    with grpc.insecure_channel(web.outbound(f"{shop.name}/calls")) as channel:
        yield channel


def test_a_drain_under_load_fails_no_call_and_open_streams_go_on(
    shop: Namespace, channel: grpc.Channel
) -> None:
    unary = channel.unary_unary("/test.Calls/Unary")
    stopped = threading.Event()

    seen: set[str] = set()

    def call_until_stopped() -> int:
        count = 0
        while not stopped.is_set():
            _, call = unary.with_call(b"x", timeout=CALL_SECONDS)
            seen.add(dict(call.initial_metadata())["x-app"])
            count += 1
        return count

    with ThreadPoolExecutor(CALLERS) as threads:
        callers = [threads.submit(call_until_stopped) for _ in range(CALLERS)]
        try:
            eventually(lambda: seen == {"calls-1", "calls-2"}, "both replicas answer")
            slow = [channel.unary_unary("/test.Calls/Slow").future(b"s") for _ in range(4)]
            drained = shop.workloads["calls-1"]
            assert shop.drain(drained) == 0
            eventually(lambda: shop.endpoints("calls") == ["calls-2"], "one replica is left")
        finally:
            stopped.set()

    assert [future.result(CALL_SECONDS) for future in slow] == [b"s"] * 4
    assert all(caller.result() > 0 for caller in callers)
