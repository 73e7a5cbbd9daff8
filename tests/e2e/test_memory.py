"""What a sidecar holds: little for the silent, and of a body no more than a slow side can take."""

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Iterator

import grpc
import pytest

from tests.e2e.http_client import Client, connect, get, read_exactly, read_until, status_of
from tests.e2e.mesh import BANNER, GRPC, HTTP, Namespace, Workload
from tests.e2e.processes import eventually

pytestmark = pytest.mark.e2e

MIB = 1024 * 1024
LENGTH = 200 * MIB
GROWTH_MAX = 6 * MIB
"""What may be held of 200 MiB. Buffers and windows of a connection are below 2 MiB; the rest is
the allocator's."""
FULL_SECONDS = 0.5
"""A connection that takes nothing for so long is full."""

CONNECTIONS = 1000
IDLE_BYTES_MAX = 2048
"""What a connection may cost that was used and is idle."""

STILL_LOOKS = 40
"""So many looks, each some ten milliseconds after the other, without a tick of CPU time."""

BURST = 400
"""So many requests at once: more than connections are kept for later, 256 by a sidecar."""
BURST_SPARE_MAX = 16
"""How many more descriptors than before may be open after it: eight connections are kept."""
BURST_GONE_SECONDS = 10.0
BURST_LEFT_MAX = 1.2
"""What a sidecar may hold then, of what it held before."""

PIECE = bytes(range(251)) * 261


@pytest.fixture(scope="module")
def web(shop: Namespace) -> Workload:
    """A caller of a service of each protocol, all warm."""
    shop.service("cart")
    shop.service("calls", "grpc")
    shop.service("echo", "tcp")
    web = shop.add("web", outbound=("calls", "echo"))
    shop.add("cart-1", HTTP)
    shop.add("calls-1", GRPC)
    shop.add("echo-1", BANNER)
    shop.settle()
    assert get(web.proxy, f"http://cart/do/bytes/{8 * MIB}").status == 200
    return web


def told(shop: Namespace) -> dict[str, int]:
    """Return what the program says of its bytes."""
    found = get(shop.workloads["cart-1"].app_address, "/do/told").json()
    assert isinstance(found, dict)
    return found


def resident(shop: Namespace, *names: str) -> list[int]:
    """Return the memory of these workloads' sidecars."""
    return [shop.workloads[name].sidecar.resident_bytes() for name in names]


def wait_until_still(shop: Namespace, *names: str) -> None:
    """Wait until these workloads' sidecars do nothing any more: everything on the way is full."""
    seen: list[list[int]] = []

    def is_still() -> bool:
        seen.append([shop.workloads[name].sidecar.cpu_ticks() for name in names])
        return len(seen) > STILL_LOOKS and seen[-1] == seen[-STILL_LOOKS]

    eventually(is_still, f"{names} stand still")


def send_until_full(connection: socket.socket) -> int:
    """Return how many bytes of 200 MiB go in before nobody takes more."""
    sent = 0
    connection.settimeout(FULL_SECONDS)
    try:
        while sent < LENGTH:
            sent += connection.send(bytes(MIB))
    except TimeoutError:
        return sent
    pytest.fail("nothing holds the sender back")


def assert_no_growth(before: list[int], after: list[int]) -> None:
    """Neither sidecar has grown beyond the bound."""
    grown = [(now - then) // 1024 for then, now in zip(before, after, strict=True)]
    assert max(grown) < GROWTH_MAX // 1024, f"grown by {grown} KiB"


def test_a_silent_client_costs_little(shop: Namespace, web: Workload) -> None:
    (before,) = resident(shop, "web")
    with contextlib.ExitStack() as open_until_seen:
        for _ in range(CONNECTIONS):
            client = open_until_seen.enter_context(Client(web.proxy))
            assert client.get("http://cart/do/bytes/1000").status == 200
        grown = resident(shop, "web")[0] - before
    assert grown < CONNECTIONS * IDLE_BYTES_MAX, f"{grown // CONNECTIONS} bytes each"


def test_a_burst_through_tls_is_given_back_within_seconds(shop: Namespace, web: Workload) -> None:
    burst = shop.add("burst")
    shop.settle()
    assert get(burst.proxy, "http://cart/").status == 200
    (before,), files = resident(shop, "burst"), burst.sidecar.open_files()

    with contextlib.ExitStack() as open_until_answered:
        clients = [open_until_answered.enter_context(connect(burst.proxy)) for _ in range(BURST)]
        for client in clients:
            client.sendall(b"GET http://cart/do/slow/500 HTTP/1.1\r\nHost: cart\r\n\r\n")
        for client in clients:
            assert status_of(read_until(client, b"\r\n\r\n")) == 200
        kept = burst.sidecar.open_files() - files - BURST
    assert kept > BURST / 2, "that many were open at once"

    def is_gone() -> bool:
        few = burst.sidecar.open_files() <= files + BURST_SPARE_MAX
        return few and resident(shop, "burst")[0] <= before * BURST_LEFT_MAX

    eventually(is_gone, "the burst is given back", BURST_GONE_SECONDS)


def test_a_slow_reader_holds_the_program_back(shop: Namespace, web: Workload) -> None:
    before = resident(shop, "web", "cart-1")
    sent = told(shop)["bytes_sent"]
    digest = hashlib.sha256()
    with connect(web.proxy) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        request = f"GET http://cart/do/bytes/{LENGTH} HTTP/1.1\r\nHost: cart\r\n\r\n"
        connection.sendall(request.encode())
        assert status_of(read_until(connection, b"\r\n\r\n")) == 200
        for part in (1, 4, 16):
            wait_until_still(shop, "web", "cart-1")
            assert told(shop)["bytes_sent"] - sent < LENGTH / 2
            assert_no_growth(before, resident(shop, "web", "cart-1"))
            digest.update(read_exactly(connection, part * MIB))
        left = LENGTH - 21 * MIB
        while left:
            piece = connection.recv(min(left, MIB))
            assert piece
            digest.update(piece)
            left -= len(piece)

    assert_no_growth(before, resident(shop, "web", "cart-1"))
    expected = hashlib.sha256()
    for _ in range(LENGTH // len(PIECE)):
        expected.update(PIECE)
    expected.update(PIECE[: LENGTH % len(PIECE)])
    assert digest.digest() == expected.digest()


def test_a_program_that_does_not_read_holds_the_upload_back(shop: Namespace, web: Workload) -> None:
    before = resident(shop, "web", "cart-1")
    with connect(web.proxy) as connection:
        head = (
            f"POST http://cart/do/hold HTTP/1.1\r\nHost: cart\r\nContent-Length: {LENGTH}\r\n\r\n"
        )
        connection.sendall(head.encode())
        sent = send_until_full(connection)
        assert sent < LENGTH / 2
        assert_no_growth(before, resident(shop, "web", "cart-1"))

        get(shop.workloads["cart-1"].app_address, "/do/become?read=1")
        connection.settimeout(20)
        while sent < LENGTH:
            sent += connection.send(bytes(min(MIB, LENGTH - sent)))
        head_of_answer = read_until(connection, b"\r\n\r\n")
        assert status_of(head_of_answer) == 200
        assert json.loads(connection.recv(65536))["length"] == LENGTH
    assert_no_growth(before, resident(shop, "web", "cart-1"))


def test_a_slow_reader_of_bytes_holds_the_writer_back(shop: Namespace, web: Workload) -> None:
    before = resident(shop, "web", "echo-1")
    with connect(web.outbound(f"{shop.name}/echo")) as connection:
        assert read_until(connection, b"\n") == b"echo-1\n"
        sent = send_until_full(connection)
        assert sent < LENGTH / 2
        assert_no_growth(before, resident(shop, "web", "echo-1"))
        connection.settimeout(20)
        reader = threading.Thread(target=read_exactly, args=(connection, sent))
        reader.start()
        reader.join(20)
        assert not reader.is_alive()


def test_a_slow_reader_of_a_grpc_stream_holds_the_program_back(
    shop: Namespace, web: Workload
) -> None:
    before = resident(shop, "web", "calls-1")
    count = 50_000
    with grpc.insecure_channel(web.outbound(f"{shop.name}/calls")) as channel:
        call: Iterator[bytes] = channel.unary_stream("/test.Calls/Down")(b"%d" % count, timeout=60)
        assert next(call)
        wait_until_still(shop, "web", "calls-1")
        assert_no_growth(before, resident(shop, "web", "calls-1"))
        numbers = [int(message.rstrip(b".")) for message in call]
    assert numbers == list(range(1, count))
    assert_no_growth(before, resident(shop, "web", "calls-1"))


def test_a_program_that_does_not_read_holds_a_grpc_stream_back(
    shop: Namespace, web: Workload
) -> None:
    before = resident(shop, "web", "calls-1")
    sent: list[int] = []

    def messages() -> Iterator[bytes]:
        for _ in range(LENGTH // MIB):
            sent.append(MIB)
            yield bytes(MIB)

    with grpc.insecure_channel(web.outbound(f"{shop.name}/calls")) as channel:
        call = channel.stream_unary("/test.Calls/Hold").future(messages(), timeout=60)
        eventually(lambda: sent, "the stream has begun")
        wait_until_still(shop, "web", "calls-1")
        assert sum(sent) < LENGTH / 2
        assert_no_growth(before, resident(shop, "web", "calls-1"))
        count = LENGTH // MIB - 1
        assert call.result() == b"%d %d" % (count, count * MIB)
    assert_no_growth(before, resident(shop, "web", "calls-1"))


def test_a_caller_that_does_not_read_holds_both_ways_of_a_grpc_stream_back(
    shop: Namespace, web: Workload
) -> None:
    before = resident(shop, "web", "calls-1")
    sent: list[int] = []

    def messages() -> Iterator[bytes]:
        for _ in range(LENGTH // MIB):
            sent.append(MIB)
            yield b"a" * MIB

    with grpc.insecure_channel(web.outbound(f"{shop.name}/calls")) as channel:
        call = channel.stream_stream("/test.Calls/Both")(messages(), timeout=60)
        assert next(call) == b"A" * MIB
        wait_until_still(shop, "web", "calls-1")
        assert sum(sent) < LENGTH / 2
        assert_no_growth(before, resident(shop, "web", "calls-1"))
        assert sum(len(answer) for answer in call) == LENGTH - MIB
    assert_no_growth(before, resident(shop, "web", "calls-1"))
