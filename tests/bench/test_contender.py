"""Tulle as a contender carries what the benchmark sends, on every way that needs no generator."""

import contextlib
import http.client
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import certificates, tulle
from bench.contender import Shape, Site, start_hops

pytestmark = pytest.mark.e2e

MESSAGE = b"0123456789" * 10_000


class _Echo(socketserver.StreamRequestHandler):
    """Answers a request line with 200, and anything else with itself."""

    def handle(self) -> None:
        line = self.rfile.readline()
        if b" HTTP/1.1" in line:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        else:
            self.wfile.write(line)


@contextlib.contextmanager
def _application() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def _tulle(shape: Shape, directory: Path) -> Iterator[int]:
    with _application() as upstream:
        site = Site(shape, upstream, directory, None, certificates.issue(directory))
        contender = start_hops("tulle", site, tulle.command)
        try:
            yield contender.port
        finally:
            contender.stop()


@pytest.mark.parametrize("shape", [Shape.PLAIN, Shape.PAIR])
def test_a_request_takes_the_route_of_the_benchmark(shape: Shape, tmp_path: Path) -> None:
    with _tulle(shape, tmp_path) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        client.request("GET", "/api/v1/items?bytes=0", headers={"host": "echo.bench"})
        response = client.getresponse()

        assert (response.status, response.read()) == (200, b"ok")
        client.close()


@pytest.mark.parametrize("shape", [Shape.TCP, Shape.TCP_PAIR])
def test_bytes_reach_the_application(shape: Shape, tmp_path: Path) -> None:
    with _tulle(shape, tmp_path) as port, socket.create_connection(("127.0.0.1", port), 10) as end:
        end.sendall(MESSAGE + b"\n")
        with end.makefile("rb") as answer:
            assert answer.readline() == MESSAGE + b"\n"
