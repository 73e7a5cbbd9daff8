"""The shop's front: calls all others for each page."""

import asyncio
import os

from tulle.local.shop.payments import PaymentsClient
from tulle.local.shop.serving import Client, Request, Response, serve

HISTORY_COUNT = 5


class Web:
    """Pages made from the answers of other services, all called by name."""

    def __init__(self, client: Client, payments: PaymentsClient) -> None:
        """Call HTTP services through *client*, payments over gRPC."""
        self._client = client
        self._payments = payments

    async def answer(self, request: Request) -> Response:
        """Answer the pages /, /product/<id>, /checkout/<customer> and /receipts."""
        match request.path.split("?")[0].strip("/").split("/"):
            case ["healthz"]:
                return Response(200, {"status": "ok"})
            case [""]:
                return await self._home()
            case ["product", number]:
                return await self._client.get("catalog", f"/products/{number}")
            case ["checkout", customer]:
                return await self._checkout(customer)
            case ["receipts"]:
                return Response(200, {"payments": await self._payments.history(HISTORY_COUNT)})
            case ["snoop"]:
                return await self._client.get("recommendations", "/snoop")
        return Response(404, {"error": "no such page"})

    async def _home(self) -> Response:
        catalog, picks = await asyncio.gather(
            self._client.get("catalog", "/products"),
            self._client.get("recommendations", "/recommendations"),
        )
        if (failed := max(catalog.status, picks.status)) != 200:
            return Response(502, {"error": f"a service answered {failed}"})
        page = {"version": catalog.body["version"], "picks": picks.body["products"]}
        return Response(200, page, {"x-version": catalog.body["version"]})

    async def _checkout(self, customer: str) -> Response:
        cart = await self._client.request("POST", "cart", f"/carts/{customer}", {"product": "1"})
        if cart.status != 200:
            return Response(502, {"error": f"cart answered {cart.status}"})
        status = await self._payments.charge(customer, 49 * len(cart.body["items"]))
        if status != "paid":
            return Response(502, {"error": f"payments answered {status}"})
        return Response(200, {"items": cart.body["items"], "payment": status})


async def _main() -> None:
    payments = PaymentsClient(os.environ["TULLE_PAYMENTS_ADDR"])
    await serve(Web(Client(), payments).answer)
    await payments.close()


if __name__ == "__main__":
    asyncio.run(_main())
