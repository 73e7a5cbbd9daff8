"""Bytes through two sidecars: Redis as programs use it, a server that speaks first, weights."""

import re
import socket
from collections import Counter

import pytest

from tests.e2e.http_client import connect, get, read_exactly, read_until, status_of
from tests.e2e.mesh import BANNER, REDIS, WORKLOAD_PORT, Namespace, Workload
from tests.e2e.processes import eventually
from tests.e2e.statistics import follows

pytestmark = pytest.mark.e2e

BIG = bytes(range(256)) * 4096 * 5
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: banner}
spec:
  parentRefs: [{group: "", kind: Service, name: banner}]
  rules:
    - backendRefs:
        - {group: tulle.dev, kind: ServiceVersion, name: banner.v1, port: 80, weight: 80}
        - {group: tulle.dev, kind: ServiceVersion, name: banner.v2, port: 80, weight: 20}
"""

UNDECLARED = "---".join(
    f"""
apiVersion: v1
kind: Service
metadata: {{name: any-{name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: {WORKLOAD_PORT}}}]
"""
    for name in ("cache", "banner")
)


@pytest.fixture(scope="module")
def web(shop: Namespace) -> Workload:
    """A caller of `cache`, a Redis, and of `banner` in two versions."""
    for service in ("cache", "banner", "empty"):
        shop.service(service, "tcp")
    shop.apply(UNDECLARED)
    services = ("cache", "banner", "empty", "any-cache", "any-banner")
    web = shop.add("web", outbound=services)
    shop.add("cache-1", REDIS)
    shop.add("banner-1", BANNER, version="v1")
    shop.add("banner-2", BANNER, version="v2")
    shop.settle()
    return web


@pytest.fixture
def redis(shop: Namespace, web: Workload) -> socket.socket:
    """A connection to `cache`."""
    return connect(web.outbound(f"{shop.name}/cache"))


def command(*words: bytes) -> bytes:
    """Return a command in Redis' protocol."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def reply(connection: socket.socket) -> object:
    """Return one value of Redis' protocol."""
    line = read_until(connection, b"\r\n")[:-2]
    kind, rest = line[:1], line[1:]
    if kind == b"*":
        return [reply(connection) for _ in range(int(rest))]
    if kind == b"$":
        return None if rest == b"-1" else read_exactly(connection, int(rest) + 2)[:-2]
    return int(rest) if kind == b":" else rest


def test_values_are_set_and_got(redis: socket.socket) -> None:
    with redis:
        redis.sendall(command(b"SET", b"key", b"value"))
        assert reply(redis) == b"OK"
        redis.sendall(command(b"GET", b"key"))
        assert reply(redis) == b"value"
        redis.sendall(command(b"GET", b"nothing"))
        assert reply(redis) is None


def test_a_pipeline_is_answered_in_order(redis: socket.socket) -> None:
    with redis:
        redis.sendall(command(b"DEL", b"count") + command(b"INCR", b"count") * 2000)
        reply(redis)

        assert [reply(redis) for _ in range(2000)] == list(range(1, 2001))


def test_a_big_value_comes_back_whole(redis: socket.socket) -> None:
    with redis:
        redis.sendall(command(b"SET", b"big", BIG))
        assert reply(redis) == b"OK"
        redis.sendall(command(b"GET", b"big"))
        assert reply(redis) == BIG


def test_a_subscriber_hears_what_another_connection_publishes(
    shop: Namespace, web: Workload, redis: socket.socket
) -> None:
    with redis, connect(web.outbound(f"{shop.name}/cache")) as publisher:
        redis.sendall(command(b"SUBSCRIBE", b"news"))
        assert reply(redis) == [b"subscribe", b"news", 1]
        for number in range(20):
            publisher.sendall(command(b"PUBLISH", b"news", b"%d" % number))
            assert reply(publisher) == 1
            assert reply(redis) == [b"message", b"news", b"%d" % number]


def test_a_server_may_speak_first_and_either_side_may_end_first(
    shop: Namespace, web: Workload
) -> None:
    with connect(web.outbound(f"{shop.name}/banner")) as connection:
        assert read_until(connection, b"\n") in {b"banner-1\n", b"banner-2\n"}
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        assert read_exactly(connection, 10) == b"last words"
        assert connection.recv(1) == b""


def test_what_nobody_declared_is_found_out_and_a_server_that_speaks_first_is_not_held(
    shop: Namespace, web: Workload
) -> None:
    with connect(web.outbound(f"{shop.name}/any-cache")) as connection:
        connection.sendall(command(b"PING"))
        assert reply(connection) == b"PONG"
    with connect(web.outbound(f"{shop.name}/any-banner")) as connection:
        assert read_until(connection, b"\n") in {b"banner-1\n", b"banner-2\n"}


def test_connect_reaches_a_tcp_service_through_the_proxy(web: Workload) -> None:
    with connect(web.proxy) as tunnel:
        tunnel.sendall(b"CONNECT cache:80 HTTP/1.1\r\nHost: cache:80\r\n\r\n")
        assert status_of(read_until(tunnel, b"\r\n\r\n")) == 200
        tunnel.sendall(command(b"PING"))
        assert reply(tunnel) == b"PONG"


def test_connections_are_divided_by_weight(shop: Namespace, web: Workload) -> None:
    shop.apply(ROUTE)
    counts: Counter[str] = Counter()
    for _ in range(300):
        with connect(web.outbound(f"{shop.name}/banner")) as connection:
            counts[read_until(connection, b"\n").decode().strip()] += 1

    assert follows(counts, {"banner-1": 80, "banner-2": 20})


def test_without_an_endpoint_the_connection_is_closed(shop: Namespace, web: Workload) -> None:
    with connect(web.outbound(f"{shop.name}/empty")) as connection:
        assert connection.recv(1) == b""


def test_a_dead_replica_is_gone_round(shop: Namespace, web: Workload) -> None:
    """Connecting to it fails, and the next endpoint takes the connection."""
    shop.delete("TCPRoute", "banner", "gateway.networking.k8s.io/v1")
    shop.workloads["banner-1"].stop()
    for _ in range(30):
        with connect(web.outbound(f"{shop.name}/banner")) as connection:
            assert read_until(connection, b"\n") == b"banner-2\n"


def test_connections_and_bytes_are_counted(shop: Namespace, web: Workload) -> None:
    def total(name: str) -> int:
        text = get(web.admin, "/metrics").body.decode()
        lines = re.findall(
            rf'^{name}\{{.*service="{shop.name}/cache".*\}} (\d+)$', text, re.MULTILINE
        )
        return sum(map(int, lines))

    opened, sent = total("tulle_tcp_connections_opened_total"), total("tulle_tcp_sent_bytes_total")
    with connect(web.outbound(f"{shop.name}/cache")) as connection:
        connection.sendall(command(b"PING"))
        assert reply(connection) == b"PONG"
        assert total("tulle_tcp_connections_opened_total") == opened + 1
        assert total("tulle_tcp_sent_bytes_total") == sent + len(command(b"PING"))
    closed = "tulle_tcp_connections_closed_total"
    eventually(lambda: total(closed) == opened + 1, "the connection is counted as closed")
