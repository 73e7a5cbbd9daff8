"""A client of HTTP/2 that means harm costs a bounded amount, and takes nothing from the others."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.http2_cases import GET, POST, PSEUDO, get, post, priority
from tests.e2e.http2_client import Http2
from tests.e2e.http2_frames import (
    FRAME_MAX,
    WINDOW_MAX,
    Code,
    Kind,
    Setting,
    block,
    continuation,
    data,
    headers,
    indexed,
    integer,
    literal,
    ping,
    reset,
    settings,
    window_update,
)
from tests.e2e.http_client import call
from tests.e2e.mesh import HTTP, Namespace, Workload

pytestmark = pytest.mark.e2e

KIB, MIB = 1024, 1024 * 1024
FLOOD = 16 * MIB
"""What is sent of one flood, unless the connection is closed before."""
GROWTH_MAX = 6 * MIB
"""What a sidecar may grow by during a flood; the allocator keeps some of it."""
FULL_SECONDS = 0.5
"""A connection that takes nothing for so long is full."""
OTHERS = 10
"""Requests of others while a flood goes on."""
SECONDS = 5.0
STREAMS_MAX = 1024
STREAM_MAX = 8 * KIB
"""What an open stream and its request may cost."""
STREAM_HELD_MAX = 80 * KIB
"""What a stream may hold of an answer that the client does not take: 64 KiB and its head."""


@pytest.fixture(scope="module")
def web(shop: Namespace) -> Workload:
    """A caller of `cart`, warm; one connection's streams are not all that it may ask for."""
    shop.service("cart")
    web = shop.add("web")
    shop.add("cart-1", HTTP)
    shop.settle()
    shop.apply(f"""
        apiVersion: tulle.dev/v1alpha1
        kind: BackendTrafficPolicy
        metadata: {{name: cart}}
        spec:
          targetRefs: [{{name: cart}}]
          limits: {{connections: {2 * STREAMS_MAX}, requests: {2 * STREAMS_MAX}}}
    """)
    with Http2(web.proxy) as client:
        for _ in range(50):
            client.send("GET", "cart", f"/do/bytes/{MIB}", {})
        for stream in client.streams.values():
            client.read(stream)
    return web


@contextmanager
def unharmed(web: Workload, growth_max: int = GROWTH_MAX) -> Iterator[None]:
    """Others are served during the block and after it, and memory has not grown."""
    before = web.sidecar.resident_bytes()
    served: list[int] = []

    def ask() -> None:
        served.extend(call(web.proxy, "GET", "http://cart/x").status for _ in range(OTHERS))

    other = threading.Thread(target=ask)
    other.start()
    yield
    other.join(OTHERS * SECONDS)
    assert served == [200] * OTHERS
    grown = web.sidecar.resident_bytes() - before
    assert grown < growth_max, f"grown by {grown // KIB} KiB"
    assert call(web.proxy, "GET", "http://cart/x").status == 200


def repeated(unit: bytes) -> Iterator[bytes]:
    """Yield *unit* again and again, some at a time."""
    several = unit * max(1, FRAME_MAX // len(unit))
    for _ in range(FLOOD // len(several)):
        yield several


def numbered(unit: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield *unit* of one stream after the other."""
    count = FLOOD // len(unit(1)) // 4
    for first in range(1, 2 * count, 200):
        yield b"".join(unit(number) for number in range(first, first + 200, 2))


def after(first: bytes, flood: Iterator[bytes]) -> Iterator[bytes]:
    """Yield *first*, then *flood*."""
    yield first
    yield from flood


FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "SETTINGS": lambda: repeated(settings((Setting.INITIAL_WINDOW_SIZE, 65_535))),
    "empty SETTINGS": lambda: repeated(settings()),
    "PING": lambda: repeated(ping()),
    "PRIORITY of ever new streams": lambda: numbered(lambda number: priority(number, 0)),
    "WINDOW_UPDATE": lambda: repeated(window_update(0, 1)),
    "WINDOW_UPDATE of a stream": lambda: after(post(), repeated(window_update(1, 1))),
    "empty DATA": lambda: after(post(), repeated(data(1, b"", end=False))),
    "DATA of one byte": lambda: after(post(), repeated(data(1, b"a", end=False))),
    "empty CONTINUATION": lambda: after(
        headers(1, GET, whole=False), repeated(continuation(1, b"", whole=False))
    ),
    "CONTINUATION of fields": lambda: after(
        headers(1, GET, whole=False),
        repeated(continuation(1, literal("x-long", "a" * 16_000), whole=False)),
    ),
    "rapid reset": lambda: numbered(lambda number: get(number) + reset(number)),
    "resets that the server is made to send": lambda: numbered(
        lambda number: get(number) + window_update(number, 0)
    ),
    "malformed requests": lambda: numbered(
        lambda number: headers(number, GET + literal("connection", "close"))
    ),
    "streams beyond the bound": lambda: numbered(lambda number: headers(number, POST, end=False)),
    "sizes of the header table": lambda: after(
        headers(1, integer(0, 5, 0x20) * 10_000 + GET),
        repeated(settings((1, 0)) + settings((1, 9))),
    ),
}


@pytest.mark.parametrize("reads", [False, True], ids=["reads nothing", "reads"])
@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_is_refused_or_costs_a_bounded_amount(
    web: Workload, flood: str, *, reads: bool
) -> None:
    opens = STREAMS_MAX if flood == "streams beyond the bound" else 0
    with unharmed(web, GROWTH_MAX + opens * STREAM_MAX), Http2(web.proxy, window=65_535) as client:
        reader = threading.Thread(target=client.discard, daemon=True)
        if reads:
            reader.start()
        for part in FLOODS[flood]():
            if not client.write_while_taken(part, FULL_SECONDS):
                break
        client.shut()
        if reads:
            reader.join(SECONDS)
            assert not reader.is_alive(), "the connection outlives its client"


BOMBS = {
    "one long line of the table, often": literal("x-bomb", "a" * 3900, keep=True)
    + indexed(62) * 12_000,
    "very many short lines": (literal("a", "b") * 3000),
    "one line longer than all a head may have": literal("x-bomb", "a" * 70_000),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_small_block_that_grows_is_refused(web: Workload, bomb: bytes) -> None:
    sent = GET + bomb
    parts = [sent[at : at + FRAME_MAX] for at in range(0, len(sent), FRAME_MAX)]
    with unharmed(web), Http2(web.proxy, seconds=SECONDS) as client:
        client.write(headers(1, parts[0], whole=len(parts) == 1))
        for part in parts[1:]:
            client.write(continuation(1, part, whole=part is parts[-1]))
        for came in client.frames():
            if came.kind in {Kind.GOAWAY, Kind.RST_STREAM, Kind.HEADERS}:
                break
        else:
            pytest.fail("closed without a reason")
        assert came.kind != Kind.HEADERS or client.streams[1].status == 431


def test_streams_beyond_the_bound_are_refused_and_the_others_go_on(web: Workload) -> None:
    beyond = 50
    hang = block({**PSEUDO, ":path": "/do/slow/1000"})
    with Http2(web.proxy, seconds=SECONDS) as client:
        client.write(b"".join(headers(1 + 2 * n, hang) for n in range(STREAMS_MAX + beyond)))
        refused = set()
        for came in client.frames():
            if came.kind == Kind.RST_STREAM:
                assert came.code == Code.REFUSED_STREAM
                refused.add(came.stream)
            assert came.kind != Kind.GOAWAY
            if len(client.streams) == STREAMS_MAX:
                break
    assert refused == {1 + 2 * n for n in range(STREAMS_MAX, STREAMS_MAX + beyond)}


@pytest.mark.parametrize("window", [0, 1])
def test_streams_whose_windows_stay_shut_hold_a_bounded_amount(web: Workload, window: int) -> None:
    count = 100
    ask = block({**PSEUDO, ":path": f"/do/bytes/{MIB}"})
    with (
        unharmed(web, count * STREAM_HELD_MAX + GROWTH_MAX),
        Http2(web.proxy, (Setting.INITIAL_WINDOW_SIZE, window), seconds=SECONDS) as client,
    ):
        client.write(b"".join(headers(1 + 2 * number, ask) for number in range(count)))
        heads = 0
        for came in client.frames():
            heads += came.kind == Kind.HEADERS
            if heads == count:
                break
        for step in range(3 * window):
            client.write(b"".join(window_update(1 + 2 * number, 1) for number in range(count)))
            taken = 0
            for came in client.frames():
                taken += came.kind == Kind.DATA
                assert came.kind != Kind.DATA or len(came.payload) == 1, step
                if taken == count:
                    break


def test_a_client_that_takes_nothing_holds_a_bounded_amount(web: Workload) -> None:
    count = 100
    ask = block({**PSEUDO, ":path": f"/do/bytes/{MIB}"})
    wanted = (Setting.INITIAL_WINDOW_SIZE, WINDOW_MAX)
    with (
        unharmed(web, count * STREAM_HELD_MAX + GROWTH_MAX),
        Http2(web.proxy, wanted, buffer=64 * KIB) as client,
    ):
        client.write(b"".join(headers(1 + 2 * number, ask) for number in range(count)))
