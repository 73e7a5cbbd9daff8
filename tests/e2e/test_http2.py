"""A program that speaks HTTP/2 with prior knowledge to its sidecar."""

import json
import re
import signal

import pytest

from tests.e2e.http2_client import Http2
from tests.e2e.http2_frames import Code, Kind
from tests.e2e.mesh import HTTP, Namespace, Workload

pytestmark = pytest.mark.e2e

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def web(shop: Namespace) -> Workload:
    """A caller of `cart`, which speaks HTTP/1.1."""
    shop.service("cart")
    web = shop.add("web", outbound=("cart",))
    shop.add("cart-1", HTTP)
    shop.settle()
    return web


@pytest.mark.parametrize("entrance", ["proxy", "local address"])
def test_a_request_reaches_a_program_that_speaks_http_1(
    shop: Namespace, web: Workload, entrance: str
) -> None:
    address = web.proxy if entrance == "proxy" else web.outbound(f"{shop.name}/cart")

    with Http2(address) as client:
        stream = client.get("cart", "/items?page=2", **{"x-user": "anna", "traceparent": PARENT})

    seen = json.loads(stream.body)
    assert (stream.status, seen["method"], seen["target"]) == (200, "GET", "/items?page=2")
    assert seen["headers"]["host"] == "cart"
    assert seen["headers"]["x-user"] == "anna"
    assert seen["headers"]["traceparent"] == PARENT


def test_streams_are_answered_as_they_are_ready(web: Workload) -> None:
    with Http2(web.proxy) as client:
        slow = client.send("GET", "cart", "/do/slow/300", {})
        quick = [client.send("POST", "cart", "/x", {}, b"a" * size) for size in (1, 16_384)]
        for stream in quick:
            client.read(stream)
        assert not slow.ended
        client.read(slow)

    assert [json.loads(stream.body)["length"] for stream in quick] == [1, 16_384]
    assert slow.status == 200


def test_a_body_larger_than_the_windows_arrives_whole(web: Workload) -> None:
    with Http2(web.proxy) as client:
        stream = client.get("cart", "/do/bytes/1048576")

    assert len(stream.body) == 1_048_576


def test_what_the_mesh_answers_says_why(web: Workload) -> None:
    with Http2(web.proxy) as client:
        unknown = client.get("nobody", "/")
        unsafe = client.get("cart", "/../x")
        fine = client.get("cart", "/x")

    assert (unknown.status, unsafe.status, fine.status) == (404, 400, 200)
    assert re.match(rb"tulle: unknown-service", unknown.body)


def test_a_host_beside_another_authority_is_400(web: Workload) -> None:
    with Http2(web.proxy) as client:
        assert client.get("cart", "/x", host="other").status == 400
        assert client.get("cart", "/x", host="cart").status == 200


def test_the_bounds_of_heads_hold(web: Workload) -> None:
    many = {f"x-{number}": "1" for number in range(101)}
    with Http2(web.proxy) as client:
        assert client.get("cart", "/" + "x" * (8 * 1024)).status == 414
        assert client.get("cart", "/", **many).status == 431


def test_a_drain_says_so_and_open_streams_go_on_to_their_end(shop: Namespace) -> None:
    leaver = shop.add("leaver")
    shop.settle()
    with Http2(leaver.proxy) as client:
        slow = client.send("GET", "cart", "/do/slow/500", {})
        assert client.get("cart", "/x").status == 200  # so the slow one was taken, too
        leaver.sidecar.signal(signal.SIGTERM)
        came = list(client.frames())

    gone = [one for one in came if one.kind == Kind.GOAWAY]
    assert {one.code for one in gone} == {Code.NO_ERROR}
    assert int.from_bytes(gone[-1].payload[:4]) >= slow.number
    assert (slow.status, slow.ended) == (200, True)
    assert leaver.sidecar.wait() == 0
