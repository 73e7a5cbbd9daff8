"""A gRPC server with one method of each kind; messages are bytes."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

SERVICE = "test.Calls"
NAME = os.environ["NAME"]
CALLS: Counter[str] = Counter()


def unary(request: bytes, context: Any) -> bytes:
    """Send the request back, and who answered."""
    context.send_initial_metadata((("x-app", NAME),))
    seen = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-seen", seen.get("x-sent", "")),))
    return request


def other(request: bytes, context: Any) -> bytes:
    """As `unary`; a route can tell them apart."""
    return unary(request, context)


def down(request: bytes, context: Any) -> Iterator[bytes]:
    """Send as many messages as the request says, each 1000 bytes, and trailers."""
    for number in range(int(request)):
        yield str(number).encode().ljust(1000, b".")
    context.set_trailing_metadata((("x-count", request.decode()),))


def ticks(request: bytes, context: Any) -> Iterator[bytes]:
    """Send a message each 50 ms, for as long as somebody listens."""
    while context.is_active():
        yield b"tick"
        time.sleep(0.05)


def up(requests: Iterator[bytes], context: Any) -> bytes:
    """Count messages and bytes."""
    sizes = [len(request) for request in requests]
    return f"{len(sizes)} {sum(sizes)}".encode()


def both(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    """Answer each message before the next is read."""
    for request in requests:
        yield request.upper()


def fail(request: bytes, context: Any) -> bytes:
    """End with a status, a message and trailers."""
    context.set_trailing_metadata((("x-why", "because"), ("x-blob-bin", b"\0\1\2")))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not ready: 100 % größer")
    raise AssertionError("abort does not return")


def cut(request: bytes, context: Any) -> Iterator[bytes]:
    """Send two messages, then fail."""
    yield b"one"
    yield b"two"
    context.abort(grpc.StatusCode.DATA_LOSS, "cut")


def slow(request: bytes, context: Any) -> bytes:
    """Answer after a second."""
    time.sleep(1)
    return request


def flaky(request: bytes, context: Any) -> bytes:
    """Fail the first calls of this key: `key failures STATUS early|late [ms]`.

    A late failure comes after the head of the answer. The answer tells how long a caller has left.
    """
    key, failures, status, when, *ms = request.decode().split()
    CALLS[key] += 1
    if when == "late":
        context.send_initial_metadata((("x-app", NAME),))
    if CALLS[key] <= int(failures):
        time.sleep(int(ms[0]) / 1000 if ms else 0)
        context.abort(grpc.StatusCode[status], f"failure {CALLS[key]}")
    return f"{CALLS[key]} {context.time_remaining()}".encode()


def hold(requests: Iterator[bytes], context: Any) -> bytes:
    """Read nothing for two seconds after the first message, then count the rest."""
    next(requests)
    time.sleep(2)
    return up(requests, context)


def serve() -> None:
    """Serve until killed."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Other": grpc.unary_unary_rpc_method_handler(other),
        "Down": grpc.unary_stream_rpc_method_handler(down),
        "Ticks": grpc.unary_stream_rpc_method_handler(ticks),
        "Up": grpc.stream_unary_rpc_method_handler(up),
        "Both": grpc.stream_stream_rpc_method_handler(both),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Cut": grpc.unary_stream_rpc_method_handler(cut),
        "Flaky": grpc.unary_unary_rpc_method_handler(flaky),
        "Hold": grpc.stream_unary_rpc_method_handler(hold),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    assert server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    serve()
