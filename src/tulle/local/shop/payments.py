"""Payments over gRPC: Charge (unary) and History (server streaming).

Messages are JSON instead of protobuf, which gRPC allows, so that no code is generated.
"""

import asyncio
import json
import os
import signal
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

SERVICE = "shop.Payments"
HISTORY_MAX = 100
CALL_SECONDS = 10.0


def to_bytes(message: Any) -> bytes:
    """Return *message* as it goes over the wire."""
    return json.dumps(message).encode()


class Payments:
    """The service: takes every payment and remembers the last ones."""

    def __init__(self) -> None:
        """Start without payments."""
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY_MAX)
        self._number = 0

    async def charge(self, request: Any, context: Any) -> Any:
        """Take one payment."""
        self._number += 1
        payment = {"number": self._number, **request}
        self._history.append(payment)
        return {"number": self._number, "status": "paid"}

    async def history(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Send the last payments, one message each."""
        for payment in list(self._history)[-request["count"] :]:
            yield payment

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the methods as gRPC wants them."""
        codec = {"request_deserializer": json.loads, "response_serializer": to_bytes}
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Charge": grpc.unary_unary_rpc_method_handler(self.charge, **codec),
                "History": grpc.unary_stream_rpc_method_handler(self.history, **codec),
            },
        )


class PaymentsClient:
    """The caller's side; errors come back as their gRPC code."""

    def __init__(self, address: str) -> None:
        """Call the service at *address*, `host:port`."""
        self._channel = grpc.aio.insecure_channel(
            address, options=[("grpc.initial_reconnect_backoff_ms", 100)]
        )
        codec = {"request_serializer": to_bytes, "response_deserializer": json.loads}
        self._charge = self._channel.unary_unary(f"/{SERVICE}/Charge", **codec)
        self._history = self._channel.unary_stream(f"/{SERVICE}/History", **codec)

    async def charge(self, customer: str, amount: int) -> str:
        """Return `paid`, or the name of the gRPC code."""
        try:
            request = {"customer": customer, "amount": amount}
            answer = await self._charge(request, timeout=CALL_SECONDS, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        return str(answer["status"])

    async def history(self, count: int) -> list[Any]:
        """Return the last payments.

        Raises:
            grpc.aio.AioRpcError: the call failed.
        """
        return [one async for one in self._history({"count": count}, timeout=CALL_SECONDS)]

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()


async def _serve() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Payments().handlers(),))
    server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
    await server.start()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await server.stop(2)


if __name__ == "__main__":
    asyncio.run(_serve())
