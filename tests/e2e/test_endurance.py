"""Ten thousand idle connections, and mixed traffic for long: what both leave behind."""

import json
import os
import resource
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import grpc
import pytest
from websockets.sync.client import connect as connect_websocket

from tests.e2e.http_client import connect, exchange, get, read_exactly, read_until, status_of
from tests.e2e.mesh import BANNER, HTTP, WEBSOCKET, Namespace, Workload
from tests.e2e.processes import Process, eventually
from tests.e2e.security_support import EchoApp, Mesh, Port, echo_bytes, running_mesh, shop_with
from tests.e2e.steady_load import Load

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

KIB = 1024
IDLE = 10_000
ASKED = 1000
"""Of the idle ones, those that carried a request before."""
IDLE_BYTES_MAX = 6 * KIB
"""What an idle connection may cost a sidecar, on average."""
PROMPT_SECONDS = 0.5
"""How soon a request is answered beside them; ten times what it takes."""

SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "30"))
WARM = 0.4
"""The part of it after which memory is looked at first: all pools and windows are open then."""
GROWTH_MAX = 2 * KIB * KIB
"""How much more memory a sidecar may have at the end than when it was warm."""
FILES = 200
"""What a sidecar with few of them may have open."""
CLIENT_FILES = 150
"""When so many of them are in use, no client is let in any more."""
INBOUND_FILES = 113
"""When so many are, no other sidecar is: a quarter is left for the application's calls."""
OVERFLOW = "connections_overflow_total"
SLACK = 5
"""Files that are opened and closed meanwhile, for the control plane and the disk."""

TTL = 10
"""Life of a certificate, seconds; it is renewed at half of it."""


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process have as many connections as the test needs; skip where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE + 1000:
        pytest.skip(f"the limit of open files is {hard}, {IDLE + 1000} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def web(many_files: None, shop: Namespace) -> Workload:
    """A caller of `cart` that has called it."""
    shop.service("cart")
    web = shop.add("web")
    shop.add("cart-1", HTTP)
    shop.settle()
    assert get(web.proxy, "http://cart/").status == 200
    return web


def test_ten_thousand_idle_connections_cost_little_and_are_all_let_go(web: Workload) -> None:
    before = (web.sidecar.resident_bytes(), web.sidecar.open_files())
    with ExitStack() as held:
        idle = [held.enter_context(connect(web.proxy)) for _ in range(IDLE)]
        for connection in idle[:ASKED]:
            connection.sendall(b"HEAD http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n")
            assert status_of(connection.recv(4096)) == 200
        eventually(lambda: web.sidecar.open_files() >= IDLE, "all are accepted")

        cost = (web.sidecar.resident_bytes() - before[0]) / IDLE
        began = time.monotonic()
        assert get(web.proxy, "http://cart/").status == 200
        assert time.monotonic() - began < PROMPT_SECONDS
        assert cost < IDLE_BYTES_MAX, f"{cost:.0f} bytes each"
    # Its pool keeps some connections to `cart`, which were there before or are closed later.
    eventually(lambda: web.sidecar.open_files() < before[1] + 10, "all are closed")


def test_where_files_are_few_it_takes_fewer_connections_and_serves_on(shop: Namespace) -> None:
    shop.service("till")
    few = shop.add("few")
    shop.add("till-1", HTTP)
    limit_files(few, shop)

    told = [json.loads(line) for line in few.sidecar.output.splitlines()]
    limit = {"event": "limited", "connections": CLIENT_FILES, "by": "the limit of open files"}
    assert limit in told
    with ExitStack() as held:
        clients = [held.enter_context(connect(few.proxy)) for _ in range(FILES)]
        eventually(
            lambda: count_of(few, "connections") + count_of(few, OVERFLOW) == FILES,
            "all are accepted, or closed",
        )
        closed = count_of(few, OVERFLOW)
        assert closed >= FILES - CLIENT_FILES
        eventually(lambda: sum(map(is_closed, clients)) == closed, "the last ones are closed")
        taken = [client for client in clients if not is_closed(client)]
        assert len(taken) > CLIENT_FILES / 2
        for client in taken[:ASKED]:
            client.sendall(b"HEAD http://till/ HTTP/1.1\r\nHost: till\r\n\r\n")
            assert status_of(client.recv(4096)) == 200
        assert count_of(few, "connections_max") == CLIENT_FILES
    eventually(lambda: few.sidecar.open_files() < CLIENT_FILES / 2, "they are closed")
    assert get(few.proxy, "http://till/").status == 200


def test_where_files_are_few_it_takes_fewer_tunnels(shop: Namespace) -> None:
    """Each is a file of the called sidecar, although few connections carry them all."""
    shop.service("tale", "tcp")
    teller = shop.add("teller", outbound=("tale",))
    few = shop.add("tale-1", BANNER)
    limit_files(few, shop)

    address = teller.outbound(f"{shop.name}/tale")
    with ExitStack() as held:
        clients = [held.enter_context(connect(address)) for _ in range(FILES)]
        greetings = [client.recv(64) for client in clients]
        told = Counter(greetings)
        assert set(told) == {b"tale-1\n", b""}
        assert INBOUND_FILES / 2 < told[b"tale-1\n"] < INBOUND_FILES
        # At the bound, and with the rest of its files free for others.
        assert abs(few.sidecar.open_files() - INBOUND_FILES) <= SLACK
        for client, greeting in zip(clients, greetings, strict=True):
            if greeting:
                client.sendall(b"more")
                assert read_exactly(client, 4) == b"more"
        assert count_of(few, "connections_max") == CLIENT_FILES
    eventually(lambda: few.sidecar.open_files() < INBOUND_FILES / 2, "they are closed")
    with connect(address) as again:
        assert read_until(again, b"\n") == b"tale-1\n"


def test_many_calls_of_the_application_leave_room_for_some_callers(shop: Namespace) -> None:
    shop.service("busy")
    web = shop.add("caller")
    busy = shop.add("busy-1", HTTP)
    limit_files(busy, shop)
    with ExitStack() as held:
        for _ in range(INBOUND_FILES):
            held.enter_context(connect(busy.proxy))
        eventually(lambda: busy.sidecar.open_files() > INBOUND_FILES, "all are accepted")
        assert get(web.proxy, "http://busy/").status == 200


def test_callers_leave_room_for_the_calls_of_the_application(shop: Namespace) -> None:
    """Whether they say nothing, or hold a connection to the application each."""
    shop.service("bank")
    shop.service("few")
    guest = shop.add("guest")
    few = shop.add("few-1", HTTP)
    shop.add("bank-1", HTTP)
    limit_files(few, shop)
    begun = b"POST http://few/ HTTP/1.1\r\nHost: few\r\nContent-Length: 9\r\n\r\nhalf"

    def flood(address: str, words: bytes) -> None:
        before = count_of(few, OVERFLOW)
        with ExitStack() as held:
            for _ in range(FILES):
                held.enter_context(connect(address)).sendall(words)
            eventually(lambda: count_of(few, OVERFLOW) > before, "there is no more room")
            assert abs(few.sidecar.open_files() - INBOUND_FILES) <= SLACK
            assert get(few.proxy, "http://bank/").status == 200
        eventually(lambda: few.sidecar.open_files() < INBOUND_FILES / 2, "they are closed")
        assert get(guest.proxy, "http://few/").status == 200

    flood(few.inbound, b"")
    flood(guest.proxy, begun)


def limit_files(few: Workload, shop: Namespace) -> None:
    """Start the sidecar of *few* again, with few files to open."""
    shop.settle()
    few.sidecar.kill()
    command = shop.mesh.command("sidecar", "--settings", str(few.folder / "settings.json"))
    limited = ("prlimit", f"--nofile={FILES}:{FILES}", *command)
    few.sidecar = Process(limited, few.folder / "limited.log")
    shop.settle()


def count_of(workload: Workload, name: str) -> int:
    """What the metric of that name without labels says."""
    lines = get(workload.admin, "/metrics").body.decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"tulle_{name} "))


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it, which was asked for nothing."""
    look = select.poll()
    look.register(connection, select.POLLIN)
    return bool(look.poll(0))


POLICY = """
apiVersion: tulle.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {{name: cart, namespace: shop}}
spec:
  targetRefs: [{{group: "", kind: Service, name: cart}}]
  timeouts: {{request: {seconds}s}}
"""


@pytest.fixture
def grpc_app() -> Iterator[str]:
    """A gRPC app that answers each message of a stream."""

    def echo(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from requests

    handler = grpc.method_handlers_generic_handler(
        "shop.Cart", {"Talk": grpc.stream_stream_rpc_method_handler(echo)}
    )
    server = grpc.server(ThreadPoolExecutor(4), handlers=(handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def busy(tmp_path: Path, grpc_app: str) -> Iterator[Mesh]:
    """A caller of a service of each protocol, with certificates of ten seconds."""
    keeper = socket.create_server(("127.0.0.1", 0))
    websocket_port = keeper.getsockname()[1]
    keeper.close()
    environment = {"PORT": str(websocket_port), "NAME": "sockets"}
    sockets = Process(WEBSOCKET.command, tmp_path / "sockets.log", environment)
    with EchoApp() as app, echo_bytes() as tcp_app, running_mesh(tmp_path, f"{TTL}s") as mesh:
        mesh.apply(shop_with(80, 90, 70, 60))
        mesh.add(
            "shop/cart-1",
            Port(8080, "http", app.address),
            Port(9090, "grpc", grpc_app),
            Port(7070, "tcp", tcp_app),
            Port(6060, "http", f"127.0.0.1:{websocket_port}"),
        )
        mesh.add("shop/web-1", calls={"shop/cart": (80, 90, 70, 60)})
        mesh.settle()
        yield mesh
    sockets.kill()


class Traffic:
    """Conversations of one kind each, over and over, each in a thread of its own."""

    def __init__(self, *talks: Callable[[], None]) -> None:
        """Run each of *talks* again when it has ended, until the block ends."""
        self.rounds = [0] * len(talks)
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(len(talks))
        self._talks = talks

    def __enter__(self) -> Self:
        """Begin."""
        self._running = [self._pool.submit(self._run, n) for n in range(len(self._talks))]
        return self

    def __exit__(self, *error: object) -> None:
        """End, and raise what went wrong."""
        self._ending.set()
        self._pool.shutdown()
        for one in self._running:
            one.result()

    def _run(self, number: int) -> None:
        while not self._ending.is_set():
            self._talks[number]()
            self.rounds[number] += 1


def talk_bytes(address: str) -> None:
    """Send bytes to and fro."""
    with connect(address) as connection:
        for size in (1, 100_000):
            connection.sendall(b"x" * size)
            assert read_exactly(connection, size) == b"x" * size


def talk_grpc(address: str) -> None:
    """Open a stream on a connection of its own, and send messages to and fro."""
    with grpc.insecure_channel(address) as channel:
        talk = channel.stream_stream("/shop.Cart/Talk")
        for _ in range(20):
            assert list(talk(iter([b"milk", b"a" * 50_000]))) == [b"milk", b"a" * 50_000]


def talk_websocket(address: str) -> None:
    """Open a WebSocket and send messages to and fro."""
    with connect_websocket(f"ws://{address}/") as websocket:
        for size in (1, 10_000):
            websocket.send("x" * size)
            assert websocket.recv() == "x" * size


def misbehave(address: str) -> None:
    """Leave in the middle of a request, by a reset; send what is no request."""
    with connect(address) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 9\r\n\r\nhalf")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert status_of(exchange(address, b"GET / HTTP/1.1\r\nHost\r\n\r\n")) == 400
    with connect(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n")
        assert status_of(read_until(connection, b"\r\n\r\n")) == 200


@pytest.mark.timeout(SOAK_SECONDS + 60)
def test_memory_is_flat_while_all_kinds_of_traffic_go_on(busy: Mesh) -> None:
    """`make soak SOAK_SECONDS=3600` does it for an hour."""
    web, cart = busy.sidecars["shop/web-1"], busy.sidecars["shop/cart-1"]
    changes = 0

    def change_a_record() -> None:
        nonlocal changes
        changes += 1
        busy.apply(POLICY.format(seconds=10 + changes % 2))
        time.sleep(1)

    def held() -> list[tuple[int, int]]:
        return [(one.process.resident_bytes(), one.process.open_files()) for one in (web, cart)]

    with (
        Load(web.outbound(80)) as load,
        Traffic(
            lambda: talk_bytes(web.outbound(70)),
            lambda: talk_grpc(web.outbound(90)),
            lambda: talk_websocket(web.outbound(60)),
            lambda: misbehave(web.outbound(80)),
            change_a_record,
        ) as traffic,
    ):
        time.sleep(SOAK_SECONDS * WARM)
        warm = held()
        time.sleep(SOAK_SECONDS * (1 - WARM))
        end = held()

    assert load.failures == []
    assert min(traffic.rounds) > SOAK_SECONDS / 5, traffic.rounds
    renewed = [event for event in web.events() if event["event"] == "renewed"]
    assert len(renewed) >= SOAK_SECONDS // TTL
    for before, after in zip(warm, end, strict=True):
        assert after[0] - before[0] < GROWTH_MAX, (warm, end)
        assert after[1] - before[1] < 50, (warm, end)
