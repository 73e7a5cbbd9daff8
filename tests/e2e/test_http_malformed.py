"""What is no request gets 400 or 431 and a closed connection, and never reaches a program."""

import re

import pytest

from tests.e2e.http_client import connect, exchange, get, read_until, status_of
from tests.e2e.mesh import HTTP, Namespace, Workload

pytestmark = pytest.mark.e2e

HEAD = b"GET http://cart/x HTTP/1.1\r\nHost: cart\r\n"
POST = b"POST http://cart/x HTTP/1.1\r\nHost: cart\r\n"

MALFORMED = {
    "no request line": b"nonsense\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "unknown version": b"GET / HTTP/9.9\r\nHost: cart\r\n\r\n",
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: cart\r\nHost: other\r\n\r\n",
    "a host that is none": b"GET / HTTP/1.1\r\nHost: ca rt/\r\n\r\n",
    "a space in a name": HEAD + b"X Y: 1\r\n\r\n",
    "a space before the colon": HEAD + b"X-Y : 1\r\n\r\n",
    "a NUL in a value": HEAD + b"X-Y: a\0b\r\n\r\n",
    "a bare CR in a value": HEAD + b"X-Y: a\rb\r\n\r\n",
    "a folded line": HEAD + b"X-Y: a\r\n b\r\n\r\n",
    "a line without colon": HEAD + b"X-Y\r\n\r\n",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a signed length": POST + b"Content-Length: +1\r\n\r\na",
    "a length that is no number": POST + b"Content-Length: 1x\r\n\r\na",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "an unknown coding": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunks twice": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length beside chunks": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "chunks beside a length": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "the same length twice": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "a list of lengths": POST + b"Content-Length: 1, 1\r\n\r\na",
    "an empty length": POST + b"Content-Length:\r\n\r\n",
    "bare line feeds": b"GET http://cart/x HTTP/1.1\nHost: cart\n\n",
    "a bare line feed in the head": HEAD + b"X-Y: a\nX-Z: b\r\n\r\n",
    "a fragment": b"GET http://cart/x#y HTTP/1.1\r\nHost: cart\r\n\r\n",
    "a target of no form": b"GET cart/x HTTP/1.1\r\nHost: cart\r\n\r\n",
    "a control byte in the target": b"GET http://cart/\x01 HTTP/1.1\r\nHost: cart\r\n\r\n",
    "two spaces in the first line": b"GET  http://cart/x HTTP/1.1\r\nHost: cart\r\n\r\n",
    "a NUL in a name": HEAD + b"X\0Y: 1\r\n\r\n",
    "chunks in 1.0": b"POST http://cart/x HTTP/1.0\r\nHost: cart\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a path above the root": b"GET http://cart/../x HTTP/1.1\r\nHost: cart\r\n\r\n",
    "a NUL in the path": b"GET http://cart/%00 HTTP/1.1\r\nHost: cart\r\n\r\n",
    "half an escape": b"GET http://cart/%4 HTTP/1.1\r\nHost: cart\r\n\r\n",
}


@pytest.fixture(scope="module")
def web(shop: Namespace) -> Workload:
    """A caller of `cart`."""
    shop.service("cart")
    web = shop.add("web", outbound=("cart",))
    shop.add("cart-1", HTTP)
    shop.settle()
    return web


def seen_by_cart(shop: Namespace) -> int:
    """Return how many requests to /x the program has seen."""
    told = get(shop.workloads["cart-1"].app_address, "/do/told").json()
    return int(told["paths"].get("/x", 0))


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_request_is_400_and_the_connection_closes(
    shop: Namespace, web: Workload, data: bytes
) -> None:
    before = seen_by_cart(shop)

    answer = exchange(web.proxy, data + HEAD + b"\r\n")

    assert status_of(answer) == 400
    assert answer.count(b"HTTP/1.1 ") == 1  # what follows on the connection is not answered
    assert seen_by_cart(shop) == before


def test_what_is_refused_is_counted(web: Workload) -> None:
    def total(code: int, reason: str) -> int:
        text = get(web.admin, "/metrics").body.decode()
        wanted = rf'^tulle_requests_total\{{.*code="{code}",.*reason="{reason}".*\}} (\d+)$'
        return sum(map(int, re.findall(wanted, text, re.MULTILINE)))

    for data, code, reason in (
        (b"nonsense\r\n\r\n", 400, "bad-request"),
        (HEAD + b"X-Large: " + b"a" * 100_000, 431, "head-too-large"),
    ):
        before = total(code, reason)
        exchange(web.proxy, data)
        assert total(code, reason) == before + 1


@pytest.mark.parametrize("size", [200_000, 1_000_000])
def test_a_head_that_is_too_large_is_431(web: Workload, size: int) -> None:
    answer = exchange(web.proxy, HEAD + b"X-Large: " + b"a" * size + b"\r\n\r\n")

    assert status_of(answer) == 431


def test_too_many_headers_are_431(web: Workload) -> None:
    lines = b"".join(b"X-%d: 1\r\n" % number for number in range(500))

    assert status_of(exchange(web.proxy, HEAD + lines + b"\r\n")) == 431


def test_a_head_just_below_the_bound_is_carried(web: Workload) -> None:
    answer = get(web.proxy, "http://cart/", x_large="a" * 32_000)

    assert answer.json()["headers"]["x-large"] == "a" * 32_000


@pytest.mark.parametrize(
    "chunk", [b"zz\r\n", b"-1\r\n", b"fffffffffffffffff\r\n", b"5\r\nab\r\n0\r\n"]
)
def test_a_malformed_chunk_breaks_the_request_and_the_connection(
    shop: Namespace, web: Workload, chunk: bytes
) -> None:
    data = POST.replace(b"/x", b"/do/status/200") + b"Transfer-Encoding: chunked\r\n\r\n"

    answer = exchange(web.proxy, data + chunk + b"\r\n" + HEAD + b"\r\n")

    assert b"HTTP/1.1 200" not in answer
    assert answer.count(b"HTTP/1.1 ") <= 1


def test_a_client_that_leaves_in_the_middle_harms_nobody(web: Workload) -> None:
    for data in (b"GET http://ca", HEAD, POST + b"Content-Length: 100\r\n\r\nabc"):
        with connect(web.proxy) as connection:
            connection.sendall(data)

    assert get(web.proxy, "http://cart/").status == 200


def test_pipelined_requests_are_answered_in_order(web: Workload) -> None:
    requests = [b"GET http://cart/%d HTTP/1.1\r\nHost: cart\r\n" % number for number in range(5)]
    end = [b"\r\n"] * 4 + [b"Connection: close\r\n\r\n"]

    answer = exchange(web.proxy, b"".join(a + b for a, b in zip(requests, end, strict=True)))

    places = [answer.index(b'"target": "/%d"' % number) for number in range(5)]
    assert places == sorted(places)
    assert answer.count(b"HTTP/1.1 200") == 5


def test_a_slow_head_is_read_as_it_comes(web: Workload) -> None:
    with connect(web.proxy) as connection:
        for byte in HEAD + b"Connection: close\r\n\r\n":
            connection.sendall(bytes([byte]))
        assert status_of(read_until(connection, b"\r\n\r\n")) == 200
