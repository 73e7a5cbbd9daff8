"""The Starlette application: every route in one table, and who may come in."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import tulle
from tulle.control.bounds import TooMany
from tulle.control.calls import Calls
from tulle.control.failures import on_bug, on_http_error, on_tulle_error, status_object
from tulle.control.objects import KindVerbs
from tulle.control.openapi import base_path, document
from tulle.control.streams import Slots
from tulle.errors import TulleError
from tulle.resources.registry import KINDS

if TYPE_CHECKING:
    from starlette.requests import Request

    from tulle.control.plane import ControlPlane


def make_app(plane: ControlPlane, token: str | None) -> Starlette:
    """Return the API of *plane*; *token* is asked for on TCP, None means there is no TCP."""
    middleware = [] if token is None else [Middleware(TokenOnTcp, token=token)]
    return Starlette(
        routes=[*_kind_routes(plane), *_call_routes(plane), *_process_routes(plane)],
        middleware=middleware,
        exception_handlers={
            TulleError: on_tulle_error,
            HTTPException: on_http_error,
            Exception: on_bug,
        },
    )


def _kind_routes(plane: ControlPlane) -> Iterator[Route]:
    limit = plane.limits.watchers_max
    watchers = Slots(limit, lambda: TooMany(f"{limit} watches are open; try again later"))
    for kind in KINDS.values():
        for version in kind.versions:
            verbs = KindVerbs(plane, kind, version, watchers)
            base = base_path(kind, version)
            collection = f"{base}/{kind.plural}"
            if kind.namespaced:
                yield Route(collection, verbs.collection, methods=["GET"])
                collection = f"{base}/namespaces/{{namespace}}/{kind.plural}"
            item = f"{collection}/{{name}}"
            yield Route(collection, verbs.collection, methods=["GET", "POST"])
            yield Route(item, verbs.item, methods=["GET", "PUT", "PATCH", "DELETE"])
            yield Route(f"{item}/status", verbs.status, methods=["GET", "PUT"])


def _call_routes(plane: ControlPlane) -> Iterator[Route]:
    calls = Calls(plane)
    table = (
        ("apply", calls.apply, ["POST"]),
        ("delete", calls.delete, ["POST"]),
        ("diff", calls.diff, ["POST"]),
        ("edges", calls.edges, ["GET"]),
        ("stat", calls.stat, ["GET"]),
        ("tap", calls.tap, ["GET"]),
        ("resolve", calls.resolve, ["POST"]),
        ("proxies", calls.proxies, ["GET"]),
        ("proxies/{namespace}/{name}", calls.proxy, ["GET"]),
        ("records/trust/{name}", calls.trust_record, ["GET"]),
        ("records/{kind}/{namespace}/{name}", calls.record, ["GET"]),
        ("tokens", calls.tokens, ["GET", "POST"]),
        ("tokens/{id}", calls.token, ["DELETE"]),
        ("ca/bundle", calls.ca_bundle, ["GET"]),
    )
    for path, handler, methods in table:
        yield Route(f"/tulle/v1/{path}", handler, methods=methods)


def _process_routes(plane: ControlPlane) -> Iterator[Route]:
    async def alive(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def ready(request: Request) -> Response:
        if plane.closing.is_set():
            raise HTTPException(503, "the server is stopping")
        return PlainTextResponse("ok")

    async def version(request: Request) -> Response:
        return JSONResponse({"version": tulle.__version__})

    async def openapi(request: Request) -> Response:
        return JSONResponse(document())

    yield Route("/livez", alive)
    yield Route("/readyz", ready)
    yield Route("/version", version)
    yield Route("/openapi.json", openapi)


class TokenOnTcp:
    """Lets requests of the Unix socket pass, and those on TCP that carry the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if is_unix(scope) or self._has_token(scope):
            await self._app(scope, receive, send)
            return
        body = status_object(401, "Unauthorized", "the bearer token is missing or wrong")
        headers = {"www-authenticate": "Bearer"}
        await JSONResponse(body, 401, headers)(scope, receive, send)

    def _has_token(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)


def is_unix(scope: Scope) -> bool:
    """Whether the request came on the Unix socket: its server is a path and has no port."""
    server = scope["server"]
    return server is not None and server[0].startswith("/") and server[1] is None
