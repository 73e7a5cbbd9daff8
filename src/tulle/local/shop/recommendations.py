"""What a customer may like: made from the catalogue. It also tries what it must not do."""

import asyncio
import os
import random

from tulle.local.shop.serving import Client, Request, Response, serve

PICKS = 2


class Recommendations:
    """Answers from the catalogue, called by its name."""

    def __init__(self, client: Client) -> None:
        """Call other services through *client*."""
        self._client = client

    async def answer(self, request: Request) -> Response:
        """Answer GET /recommendations and GET /snoop."""
        match request.path.split("?")[0]:
            case "/healthz":
                return Response(200, {"status": "ok"})
            case "/recommendations":
                catalog = await self._client.get("catalog", "/products")
                if catalog.status != 200:
                    return Response(502, {"error": f"catalog answered {catalog.status}"})
                known = sorted(catalog.body["products"])
                picks = random.sample(known, PICKS)
                return Response(200, {"products": picks})
            case "/snoop":
                return Response(200, {"payments": await self._snoop()})
        return Response(404, {"error": "no such page"})

    async def _snoop(self) -> str:
        """Ask payments for its records, which a policy of the mesh denies to this service."""
        from tulle.local.shop.payments import PaymentsClient  # noqa: PLC0415  # gRPC is heavy

        client = PaymentsClient(os.environ["TULLE_PAYMENTS_ADDR"])
        try:
            return await client.charge("nobody", 0)
        finally:
            await client.close()


if __name__ == "__main__":
    asyncio.run(serve(Recommendations(Client()).answer))
