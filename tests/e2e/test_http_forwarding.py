"""What a request looks like on the other side of two sidecars, and what the caller gets back."""

import hashlib
import http.client
import json
import re
from collections.abc import Iterator

import pytest

from tests.e2e.http_client import (
    Client,
    call,
    connect,
    exchange,
    get,
    read_exactly,
    read_until,
    status_of,
)
from tests.e2e.mesh import HTTP, Namespace, Workload

pytestmark = pytest.mark.e2e

MIB = 1024 * 1024
SIZES = [0, 1, 100, 16_384, 65_535, 65_536, 65_537, MIB, 5 * MIB + 3]
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PATTERN = bytes(range(251)) * 261


def pattern(length: int) -> bytes:
    """Return what the program's `/do/bytes` sends."""
    return (PATTERN * (length // len(PATTERN) + 1))[:length]


@pytest.fixture(scope="module")
def web(shop: Namespace) -> Workload:
    """A caller; `cart` is what it calls."""
    shop.service("cart")
    web = shop.add("web", outbound=("cart",))
    shop.add("quiet", reason_header=False)
    shop.add("cart-1", HTTP)
    shop.settle()
    return web


def test_a_client_of_http_1_0_gets_an_answer_and_the_end(web: Workload) -> None:
    answer = exchange(web.proxy, b"GET http://cart/x HTTP/1.0\r\n\r\n")

    assert status_of(answer.replace(b"HTTP/1.0", b"HTTP/1.1")) == 200
    assert b'"target": "/x"' in answer


@pytest.mark.parametrize(("target", "status"), [("nobody:80", 404), ("cart:81", 404)])
def test_connect_to_what_is_not_there_is_refused(web: Workload, target: str, status: int) -> None:
    request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"

    assert status_of(exchange(web.proxy, request.encode())) == status


HOSTS = ["cart", "CART", "cart.{ns}", "cart.{ns}.svc", "cart.{ns}.svc.cluster.local", "cart:80"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_service_is_called_by_any_form_of_its_name(
    shop: Namespace, web: Workload, host: str
) -> None:
    name = host.format(ns=shop.name)

    answer = get(web.proxy, f"http://{name}/items?page=2")

    assert (answer.status, answer.app) == (200, "cart-1")
    seen = answer.json()
    assert (seen["method"], seen["target"]) == ("GET", "/items?page=2")
    assert seen["headers"]["host"] == name


def test_origin_form_with_a_host_goes_through_the_proxy_too(web: Workload) -> None:
    answer = exchange(web.proxy, b"GET /x HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n")

    assert status_of(answer) == 200
    assert b'"target": "/x"' in answer


def test_the_local_address_stands_for_the_service(shop: Namespace, web: Workload) -> None:
    answer = get(web.outbound(f"{shop.name}/cart"), "/items")

    assert answer.app == "cart-1"
    assert answer.json()["headers"]["host"] == f"cart.{shop.name}"


def test_connect_opens_a_tunnel_in_which_requests_are_still_requests(web: Workload) -> None:
    with connect(web.proxy) as tunnel:
        tunnel.sendall(b"CONNECT cart:80 HTTP/1.1\r\nHost: cart:80\r\n\r\n")
        assert status_of(read_until(tunnel, b"\r\n\r\n")) == 200
        for path in (b"/one", b"/two"):
            tunnel.sendall(b"GET %s HTTP/1.1\r\nHost: cart\r\n\r\n" % path)
            head = read_until(tunnel, b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            assert length is not None
            body = json.loads(read_exactly(tunnel, int(length[1])))
            assert (body["target"], body["app"]) == (path.decode(), "cart-1")
            assert "traceparent" in body["headers"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://nobody/", "unknown-service"),
        ("http://www.example.com/", "unknown-service"),
        ("http://cart:81/", "unknown-port"),
    ],
)
def test_an_unknown_host_is_404_with_a_reason_that_can_be_turned_off(
    shop: Namespace, web: Workload, url: str, reason: str
) -> None:
    told = get(web.proxy, url)
    untold = get(shop.workloads["quiet"].proxy, url)

    assert (told.status, told.reason) == (404, reason)
    assert reason.encode() in told.body
    assert (untold.status, untold.reason, untold.body) == (404, None, b"")


def test_a_service_without_endpoints_is_503_with_a_reason(shop: Namespace, web: Workload) -> None:
    shop.service("empty")

    answer = get(web.proxy, "http://empty/")

    assert (answer.status, answer.reason) == (503, "no-healthy-endpoint")


def test_connections_are_kept_on_both_sides(shop: Namespace, web: Workload) -> None:
    cart = shop.workloads["cart-1"]
    get(web.proxy, "http://cart/")
    before = get(cart.app_address, "/do/told").json()["connections"]

    with Client(web.proxy) as client:
        statuses = {client.get(f"http://cart/{number}").status for number in range(50)}

    after = get(cart.app_address, "/do/told").json()["connections"]
    assert statuses == {200}
    assert after - before == 1  # this question itself


@pytest.mark.parametrize("length", SIZES)
@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_bodies_of_any_size_arrive_whole(web: Workload, length: int, framing: str) -> None:
    data = pattern(length)
    chunks: bytes | Iterator[bytes] = data
    if framing == "chunked":
        chunks = (data[start : start + 7000] for start in range(0, length, 7000))

    with Client(web.proxy) as client:
        sent = client.call("POST", "http://cart/upload", chunks).json()
        kind = "chunked" if framing == "chunked" else "bytes"
        received = client.get(f"http://cart/do/{kind}/{length}")

    assert sent["headers"].get("transfer-encoding") == ("chunked" if framing == "chunked" else None)
    assert (sent["length"], sent["sha256"]) == (length, hashlib.sha256(data).hexdigest())
    assert hashlib.sha256(received.body).digest() == hashlib.sha256(data).digest()
    assert len(received.body) == length


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(web: Workload) -> None:
    with connect(web.proxy) as connection:
        connection.sendall(
            b"POST http://cart/upload HTTP/1.1\r\nHost: cart\r\nContent-Length: 5\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert status_of(read_until(connection, b"\r\n\r\n")) == 100
        connection.sendall(b"hello")
        assert status_of(read_until(connection, b"\r\n\r\n")) == 200
        assert b'"length": 5' in connection.recv(65536)


def test_head_has_the_length_and_no_body(web: Workload) -> None:
    with Client(web.proxy) as client:
        answer = client.call("HEAD", "http://cart/do/head/12345")
        next_answer = client.get("http://cart/next")

    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "12345", b"")
    assert next_answer.json()["target"] == "/next"


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_body_leaves_the_connection_in_order(web: Workload, status: int) -> None:
    with Client(web.proxy) as client:
        answer = client.get(f"http://cart/do/status/{status}")
        next_answer = client.get("http://cart/next")

    assert (answer.status, answer.body) == (status, b"")
    assert next_answer.json()["target"] == "/next"


@pytest.mark.parametrize("method", ["DELETE", "OPTIONS", "PATCH", "PUT", "TRACE", "BREW"])
def test_every_method_is_carried(web: Workload, method: str) -> None:
    assert call(web.proxy, method, "http://cart/x").json()["method"] == method


def test_an_upgraded_connection_carries_bytes_both_ways(web: Workload) -> None:
    with connect(web.proxy) as connection:
        connection.sendall(
            b"GET http://cart/do/upgrade HTTP/1.1\r\nHost: cart\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        head = read_until(connection, b"\r\n\r\n").lower()
        assert status_of(head.replace(b"http", b"HTTP")) == 101
        assert b"upgrade: websocket" in head
        for size in (1, 1000, 100_000):
            data = pattern(size)
            connection.sendall(data)
            assert read_exactly(connection, size) == data


def test_a_refused_upgrade_is_an_ordinary_answer(web: Workload) -> None:
    answer = get(web.proxy, "http://cart/plain", connection="upgrade", upgrade="websocket")

    assert (answer.status, answer.json()["target"]) == (200, "/plain")


def test_a_trace_is_passed_on_and_made_where_there_is_none(web: Workload) -> None:
    passed = get(web.proxy, "http://cart/", traceparent=PARENT, tracestate="a=b").json()["headers"]
    made = get(web.proxy, "http://cart/", traceparent="broken", tracestate="a=b").json()["headers"]

    assert (passed["traceparent"], passed["tracestate"]) == (PARENT, "a=b")
    assert re.fullmatch(
        r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]", made["traceparent"]
    )
    assert "tracestate" not in made


def test_headers_that_concern_one_connection_end_there(web: Workload) -> None:
    headers = {
        "Connection": "keep-alive, x-private",
        "Keep-Alive": "timeout=5",
        "X-Private": "1",
        "X-Kept": "1",
        "X-Tulle-Reason": "denied",
        "Proxy-Connection": "keep-alive",
        "TE": "trailers, gzip",
    }
    with Client(web.proxy) as client:
        seen = client.call("GET", "http://cart/", None, headers).json()["headers"]

    assert seen["x-kept"] == "1"
    gone = {"keep-alive", "x-private", "x-tulle-reason", "proxy-connection", "connection"}
    assert not gone & set(seen)


def test_an_answer_before_the_end_of_the_body_reaches_the_caller(web: Workload) -> None:
    with connect(web.proxy) as connection:
        connection.sendall(
            b"POST http://cart/do/early HTTP/1.1\r\nHost: cart\r\nContent-Length: 1000000\r\n\r\n"
        )
        connection.sendall(b"some")
        assert status_of(read_until(connection, b"\r\n\r\n")) == 413


@pytest.mark.parametrize("how", ["told", "silent", "body"])
def test_a_program_that_closes_after_each_answer_loses_no_request(web: Workload, how: str) -> None:
    with Client(web.proxy) as client:
        answers = [client.get(f"http://cart/do/close/{how}") for _ in range(200)]

    assert {(answer.status, answer.body) for answer in answers} == {(200, b"hello")}


def test_a_body_that_ends_too_early_is_an_error_for_the_caller_too(web: Workload) -> None:
    with pytest.raises(http.client.IncompleteRead):
        get(web.proxy, "http://cart/do/short")


@pytest.mark.parametrize(
    ("count", "size", "status"), [(50, 500, 200), (10, 20_000, 502), (200, 1, 502)]
)
def test_an_answers_head_is_bounded(web: Workload, count: int, size: int, status: int) -> None:
    answer = get(web.proxy, f"http://cart/do/fields/{count}/{size}")

    assert answer.status == status


def test_interim_answers_are_passed_on_before_the_final_one(web: Workload) -> None:
    request = b"GET http://cart/%b HTTP/1.1\r\nHost: cart\r\n%b\r\n"

    answer = exchange(
        web.proxy, request % (b"do/hints", b"") + request % (b"next", b"Connection: close\r\n")
    )

    first, final = answer.index(b"HTTP/1.1 103 "), answer.index(b"HTTP/1.1 200 ")
    assert first < final < answer.index(b"final")
    assert b'"target": "/next"' in answer


def test_an_old_client_gets_no_interim_answer(web: Workload) -> None:
    answer = exchange(web.proxy, b"GET http://cart/do/hints HTTP/1.0\r\nHost: cart\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"final")


def test_a_get_may_have_a_body_and_a_post_none(web: Workload) -> None:
    with_body = call(web.proxy, "GET", "http://cart/x", b"12345").json()
    without = call(web.proxy, "POST", "http://cart/x", b"").json()

    assert (with_body["method"], with_body["length"]) == ("GET", 5)
    assert (without["method"], without["length"]) == ("POST", 0)
    assert without["headers"]["content-length"] == "0"


def test_an_answer_that_is_no_http_is_502(web: Workload) -> None:
    answer = get(web.proxy, "http://cart/do/garbage")

    assert (answer.status, answer.reason) == (502, "bad-response")
