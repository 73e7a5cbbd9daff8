"""The shop's programs by themselves, without a mesh between them."""

import asyncio
import socket
from typing import Any

import pytest

from tulle.local.check import chi_square_of_two
from tulle.local.shop.cart import Carts
from tulle.local.shop.catalog import answer
from tulle.local.shop.redis import Connection, SmallRedis
from tulle.local.shop.serving import Client, Request, Response, serve

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def with_server(port: int, body: Any) -> Any:
    """Run *body* while an echo server is up on *port*."""

    async def echo(request: Request) -> Response:
        return Response(200, [request.method, request.path, request.body.decode()])

    serving = asyncio.ensure_future(serve(echo, port))
    try:
        for _ in range(200):
            try:
                _, writer = await asyncio.open_connection(LOOPBACK, port)
                writer.close()
                break
            except ConnectionError:
                await asyncio.sleep(0.01)
        return await body
    finally:
        serving.cancel()
        await others_end()


async def others_end() -> None:
    """Let the server's side of closed connections end too."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=2)


def test_many_requests_share_few_connections_and_none_is_mixed_up() -> None:
    port = free_port()

    async def body() -> list[Any]:
        client = Client(f"{LOOPBACK}:{port}")
        calls = (client.request("POST", "echo", f"/{n}", {"n": n}) for n in range(100))
        bodies = [response.body for response in await asyncio.gather(*calls)]
        client.close()
        return bodies

    answers = asyncio.run(with_server(port, body()))

    assert answers == [["POST", f"http://echo/{n}", f'{{"n": {n}}}'] for n in range(100)]


def test_a_chunked_body_is_read_whole() -> None:
    port = free_port()

    async def body() -> bytes:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(
            b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
            b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
        )
        answer = await reader.read()
        writer.close()
        return answer

    assert asyncio.run(with_server(port, body())).endswith(b'["POST", "/x", "abcde"]')


def test_carts_are_kept_in_redis() -> None:
    async def body() -> list[Any]:
        server = await asyncio.start_server(SmallRedis().serve_client, LOOPBACK, 0)
        port = server.sockets[0].getsockname()[1]
        carts = Carts(f"{LOOPBACK}:{port}")
        told = []
        for method in ("POST", "POST", "GET", "DELETE", "GET"):
            request = Request(method, "/carts/ann", {}, b'{"product": "2"}')
            told.append((await carts.answer(request)).body["items"])
        server.close()
        carts.close()
        await others_end()
        return told

    assert asyncio.run(body()) == [["2"], ["2", "2"], ["2", "2"], [], []]


def test_a_lost_redis_connection_is_replaced() -> None:
    async def body() -> Any:
        server = await asyncio.start_server(SmallRedis().serve_client, LOOPBACK, 0)
        connection = Connection(f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}")
        await connection.call("RPUSH", "k", "v")
        with pytest.raises(OSError, match="unknown command"):
            await connection.call("NONSENSE")
        found = await connection.call("LRANGE", "k", "0", "-1")
        server.close()
        connection.close()
        await others_end()
        return found

    assert asyncio.run(body()) == [b"v"]


CATALOG = [("/products", 200), ("/products/1", 200), ("/products/99", 404), ("/healthz", 200)]


@pytest.mark.parametrize(("path", "status"), CATALOG)
def test_the_catalogue_answers(path: str, status: int) -> None:
    assert asyncio.run(answer(Request("GET", path, {}))).status == status


SPLITS = [
    ([900, 100], 0.0, 1.0),
    ([880, 120], 4.4444, 0.03501),
    ([800, 200], 111.1111, 0.0),
    ([10, 0], 1.1111, 0.29184),
]


@pytest.mark.parametrize(("counts", "chi_square", "p"), SPLITS)
def test_the_split_is_judged_by_chi_square(counts: list[int], chi_square: float, p: float) -> None:
    total = sum(counts)
    found = chi_square_of_two(counts, {"v1": total * 0.9, "v2": total * 0.1})

    assert found[0] == pytest.approx(chi_square, abs=1e-4)
    assert found[1] == pytest.approx(p, abs=1e-5)
