"""The PROXY protocol, version 2, spoken with HAProxy on the way in and on the way out."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.http_client import connect, get, read_until, status_of
from tests.e2e.mesh import APPS, SHOWN, Namespace, Workload
from tests.e2e.processes import Process, eventually, reserve_port

pytestmark = pytest.mark.e2e

POLICIES = """
apiVersion: tulle.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: told}
spec:
  targetRefs: [{group: "", kind: Service, name: told}]
  proxyProtocol: V2
---
apiVersion: tulle.dev/v1alpha1
kind: PeerAuthentication
metadata: {name: all}
spec: {mtls: {mode: PERMISSIVE}}
"""


@pytest.fixture(scope="module")
def web(shop: Namespace) -> Workload:
    """A caller of `told`, a HAProxy which hears of it by the PROXY protocol."""
    shop.service("told", "tcp")
    shop.apply(POLICIES)
    web = shop.add("web", outbound=("told",))
    shop.add("told-1", SHOWN)
    shop.settle()
    return web


@pytest.fixture
def balancer(shop: Namespace, web: Workload, tmp_path: Path) -> Iterator[str]:
    """A HAProxy before the sidecar of `told`, which tells it of its clients."""
    with reserve_port() as port:
        address = "{}:{}".format(*port.getsockname())
        environment = {
            "PORT": address.rpartition(":")[2],
            "TO": shop.workloads["told-1"].inbound,
        }
        command = ("haproxy", "-f", str(APPS / "balancer.cfg"))
        process = Process(command, tmp_path / "balancer.log", environment)
        eventually(lambda: is_listening(address), "the balancer listens")
        yield address
        process.kill()


def is_listening(address: str) -> bool:
    try:
        connect(address).close()
    except OSError:
        return False
    return True


def test_a_program_is_told_who_calls_through_the_mesh(shop: Namespace, web: Workload) -> None:
    with connect(web.outbound(f"{shop.name}/told")) as connection:
        own = "{}:{}".format(*connection.getsockname())
        connection.sendall(b"GET / HTTP/1.1\r\nHost: told\r\n\r\n")
        assert status_of(read_until(connection, b"\r\n\r\n")) == 200
        assert connection.recv(100).decode() == own


def test_a_program_is_told_who_calls_a_balancer_before_the_mesh(balancer: str) -> None:
    with connect(balancer) as connection:
        own = "{}:{}".format(*connection.getsockname())
        connection.sendall(b"GET / HTTP/1.1\r\nHost: told\r\n\r\n")
        assert status_of(read_until(connection, b"\r\n\r\n")) == 200
        assert connection.recv(100).decode() == own


def test_a_plain_caller_that_says_nothing_of_itself_is_refused(
    shop: Namespace, web: Workload
) -> None:
    with pytest.raises(OSError):
        get(shop.workloads["told-1"].inbound, "/")
