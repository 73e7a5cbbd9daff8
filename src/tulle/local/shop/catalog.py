"""What the shop sells. $VERSION tells which edition of the catalogue this is."""

import asyncio
import os

from tulle.local.shop.serving import Request, Response, serve

VERSION = os.environ.get("VERSION", "v1")
PRODUCTS = {
    "1": {"name": "curtain", "price": 49},
    "2": {"name": "veil", "price": 19},
    "3": {"name": "net", "price": 29},
    "4": {"name": "lamp shade", "price": 35},
}


async def answer(request: Request) -> Response:
    """Answer GET /products and /products/<id>."""
    version = {"x-version": VERSION}
    match request.path.split("?")[0].strip("/").split("/"):
        case ["healthz"]:
            return Response(200, {"status": "ok"})
        case ["products"]:
            return Response(200, {"version": VERSION, "products": PRODUCTS}, version)
        case ["products", number] if number in PRODUCTS:
            product = {"id": number, **PRODUCTS[number], "version": VERSION}
            if VERSION == "v2":
                product["stock"] = 7
            return Response(200, product, version)
    return Response(404, {"error": "no such product"}, version)


if __name__ == "__main__":
    asyncio.run(serve(answer))
