"""Shopping carts, kept in Redis, which is called over TCP at the address the runner gave."""

import asyncio
import json
import os

from tulle.local.shop.redis import Connection
from tulle.local.shop.serving import Request, Response, serve

CONNECTIONS = 4


class Carts:
    """Carts by customer."""

    def __init__(self, address: str) -> None:
        """Keep them in the Redis at *address*."""
        self._connections = [Connection(address) for _ in range(CONNECTIONS)]

    async def answer(self, request: Request) -> Response:
        """Answer GET, POST and DELETE of /carts/<customer>."""
        match request.method, request.path.strip("/").split("/"):
            case "GET", ["healthz"]:
                return Response(200, {"status": "ok"})
            case "GET", ["carts", customer]:
                return Response(200, {"items": await self._items(customer)})
            case "POST", ["carts", customer]:
                item = json.loads(request.body)["product"]
                await self._redis(customer).call("RPUSH", f"cart:{customer}", item)
                await self._redis(customer).call("LTRIM", f"cart:{customer}", "-5", "-1")
                return Response(200, {"items": await self._items(customer)})
            case "DELETE", ["carts", customer]:
                await self._redis(customer).call("DEL", f"cart:{customer}")
                return Response(200, {"items": []})
        return Response(404, {"error": "no such page"})

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()

    async def _items(self, customer: str) -> list[str]:
        found = await self._redis(customer).call("LRANGE", f"cart:{customer}", "0", "-1")
        return [item.decode() for item in found]

    def _redis(self, customer: str) -> Connection:
        return self._connections[hash(customer) % CONNECTIONS]


if __name__ == "__main__":
    asyncio.run(serve(Carts(os.environ["TULLE_REDIS_ADDR"]).answer))
