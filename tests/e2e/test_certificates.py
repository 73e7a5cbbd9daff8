"""Certificates of ten seconds under load, what happens to connections that outlive them, and keys."""

import re
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.e2e.http_client import get
from tests.e2e.security_support import (
    EchoApp,
    Mesh,
    Port,
    Sidecar,
    echo_bytes,
    running_mesh,
    shop_with,
)
from tests.e2e.steady_load import Load

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SECONDS = 60
TTL = 10


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, grpc_app: str) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("certificates")
    with EchoApp() as app, echo_bytes() as tcp_app, running_mesh(folder, f"{TTL}s") as mesh:
        mesh.apply(shop_with(80, 90, 70))
        mesh.add(
            "shop/cart-1",
            Port(8080, "http", app.address),
            Port(9090, "grpc", grpc_app),
            Port(7070, "tcp", tcp_app),
        )
        mesh.add("shop/web-1", calls={"shop/cart": (80, 90, 70)})
        mesh.settle()
        yield mesh


class Conversation(threading.Thread):
    """One gRPC stream, on which a message goes to and fro ten times a second."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.answered = 0
        self.failure: str | None = None
        self._address = address
        self._ending = threading.Event()

    def run(self) -> None:
        """Talk until `end`."""
        with grpc.insecure_channel(self._address) as channel:
            try:
                for _ in channel.stream_stream("/shop.Cart/Talk")(self._messages()):
                    self.answered += 1
            except grpc.RpcError as error:
                self.failure = str(error)

    def end(self) -> None:
        """Say nothing more, and wait for the end of the stream."""
        self._ending.set()
        self.join()

    def _messages(self) -> Iterator[bytes]:
        while not self._ending.wait(0.1):
            yield b"milk"


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def echoes(connection: socket.socket) -> bool:
    connection.sendall(b"x")
    return connection.recv(1) == b"x"


def renewals(sidecar: Sidecar) -> int:
    return sum(event["event"] == "renewed" for event in sidecar.events())


@pytest.mark.timeout(SECONDS + 60)
def test_certificates_are_renewed_under_load_and_nothing_fails(mesh: Mesh) -> None:
    """Nobody notices, on connections of any kind, with a control plane that is killed meanwhile.

    An HTTP connection takes no new requests when a certificate of it is about to end, and streams
    on it go on. A connection of bytes lives on as it was authenticated: what its bytes mean is
    unknown to the mesh, so that it cannot ask it to end.
    """
    cart, web = mesh.sidecars["shop/cart-1"], mesh.sidecars["shop/web-1"]
    root = mesh.text("/tulle/v1/ca/bundle")
    conversation = Conversation(web.outbound(90))
    end = time.monotonic() + SECONDS
    with Load(web.outbound(80)) as load, connect(web.outbound(70)) as connection:
        conversation.start()
        echoed = talk_until(end - SECONDS / 2, connection)
        mesh.server.kill()
        mesh.start_server()
        echoed += talk_until(end, connection)
        counts = [renewals(cart), renewals(web)]
        conversation.end()

    assert load.failures == []
    assert load.requests > SECONDS * 150
    assert (conversation.failure, conversation.answered > SECONDS * 5) == (None, True)
    assert (all(echoed), len(echoed) > SECONDS) == (True, True)
    assert min(counts) >= SECONDS // TTL
    assert mesh.text("/tulle/v1/ca/bundle") == root


def talk_until(end: float, connection: socket.socket) -> list[bool]:
    """Send a byte to and fro four times a second."""
    pause = threading.Event()
    echoed = []
    while time.monotonic() < end:
        echoed.append(echoes(connection))
        pause.wait(0.25)
    return echoed


def files_with(folder: Path, pattern: bytes) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if re.search(pattern, path.read_bytes()))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_keys_are_the_owners_alone(mesh: Mesh) -> None:
    keys = files_with(mesh.folder, b"PRIVATE KEY")

    assert {path.name for path in keys} >= {"root.pem", "issuing.pem"}
    assert {path.parents[0].name for path in keys} >= {"ca", "cart-1", "web-1"}
    assert {mode(path) for path in keys} == {0o600}
    assert {mode(path.parent) for path in keys} == {0o700}
    assert not [path for path in keys if path.is_relative_to(mesh.logs)]


READABLE = [
    "/tulle/v1/proxies",
    "/tulle/v1/tokens",
    "/tulle/v1/edges",
    "/tulle/v1/ca/bundle",
    "/tulle/v1/records/trust/tulle.local",
    "/tulle/v1/records/workload/shop/cart-1",
    "/tulle/v1/records/endpoints/shop/cart",
    "/apis/tulle.dev/v1alpha1/workloads",
    "/openapi.json",
]


def test_no_key_and_no_token_comes_out_of_api_or_admin(mesh: Mesh) -> None:
    answers = [mesh.text(path) for path in READABLE]
    for sidecar in mesh.sidecars.values():
        answers += [
            get(sidecar.admin, path).body.decode() for path in ("/metrics", "/records", "/readyz")
        ]

    tokens = [sidecar.token_file.read_text() for sidecar in mesh.sidecars.values()]
    assert all(answers)
    assert not [text for text in answers if "PRIVATE KEY" in text]
    assert not [text for text in answers for token in tokens if token.partition(".")[2] in text]


def test_a_token_is_in_no_file_but_the_one_it_was_given_in(mesh: Mesh) -> None:
    for sidecar in mesh.sidecars.values():
        secret = sidecar.token_file.read_text().partition(".")[2]
        assert files_with(mesh.folder, re.escape(secret.encode())) == [sidecar.token_file]
