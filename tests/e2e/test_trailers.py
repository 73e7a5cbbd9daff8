"""Trailers arrive whatever the caller speaks, and whatever the program does."""

import json

import pytest

from tests.e2e.http2_client import Http2
from tests.e2e.http2_frames import block, data, headers
from tests.e2e.http_client import exchange
from tests.e2e.mesh import HTTP, HTTP2, Namespace, Workload

pytestmark = pytest.mark.e2e

OWN = "x-forwarded-client-cert"
"""Only the mesh may say who calls: nobody's trailers reach anybody with it."""

UPLOAD = """POST http://{service}/x HTTP/1.1\r
Host: {service}\r
Transfer-Encoding: chunked\r
Trailer: x-sum\r
Connection: close\r
\r
3\r
abc\r
0\r
X-Sum: 17\r
X-Forwarded-Client-Cert: forged\r
\r
"""


@pytest.fixture(scope="module")
def web(shop: Namespace) -> Workload:
    """A caller of `one`, on HTTP/1.1, and of `two`, on HTTP/2."""
    shop.service("one")
    shop.service("two", "http2")
    web = shop.add("web")
    shop.add("one-1", HTTP)
    shop.add("two-1", HTTP2)
    shop.settle()
    return web


@pytest.mark.parametrize("service", ["one", "two"])
def test_trailers_of_an_http_1_request_arrive(web: Workload, service: str) -> None:
    answer = exchange(web.proxy, UPLOAD.format(service=service).encode())

    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert b'"trailers": {"x-sum": "17"}' in answer
    assert b'"length": 3' in answer


@pytest.mark.parametrize("service", ["one", "two"])
def test_trailers_of_an_http_2_request_arrive(web: Workload, service: str) -> None:
    with Http2(web.proxy) as client:
        pseudo = {":method": "POST", ":scheme": "http", ":authority": service, ":path": "/x"}
        stream = client.open(pseudo, end=False)
        client.write(data(stream.number, b"abc", end=False))
        client.write(headers(stream.number, block({"x-sum": "17", OWN: "forged"})))
        client.read(stream)

    seen = json.loads(stream.body)
    assert (seen["length"], seen["trailers"]) == (3, {"x-sum": "17"})


@pytest.mark.parametrize(("service", "path"), [("one", "/do/trailers"), ("two", "/trailers")])
def test_trailers_of_an_answer_arrive(web: Workload, service: str, path: str) -> None:
    request = f"GET http://{service}{path} HTTP/1.1\r\nHost: {service}\r\nTE: trailers\r\n"

    answer = exchange(web.proxy, f"{request}Connection: close, te\r\n\r\n".encode())
    with Http2(web.proxy) as client:
        stream = client.get(service, path, te="trailers")

    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert answer.endswith(b"\r\n0\r\nx-sum: 17\r\n\r\n"), answer
    assert (stream.status, stream.trailers) == (200, {"x-sum": "17"})
