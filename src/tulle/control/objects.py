"""The Kubernetes-shaped verbs of one kind: get, list, watch, create, replace, apply, delete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from tulle.control.bodies import BadBody, read_object
from tulle.control.failures import failure_status
from tulle.control.selectors import Selects, parse_selector
from tulle.control.streams import LineStream, Slots
from tulle.errors import Gone
from tulle.mesh.change import Delete, Mode, Put
from tulle.resources.model import DEFAULT_NAMESPACE, Resource, ResourceKey
from tulle.resources.parse import parse_object

if TYPE_CHECKING:
    from starlette.requests import Request

    from tulle.control.plane import ControlPlane
    from tulle.resources.registry import Kind

REVISION_DIGITS_MAX = 18
"""SQLite's integers have 63 bits."""


class KindVerbs:
    """The verbs of one kind in one version."""

    def __init__(self, plane: ControlPlane, kind: Kind, version: str, watchers: Slots) -> None:
        self._plane = plane
        self._kind = kind
        self._api_version = f"{kind.group}/{version}" if kind.group else version
        self._watchers = watchers

    async def collection(self, request: Request) -> Response:
        """List, watch or create."""
        if request.method == "POST":
            return await self._create(request)
        namespace = request.path_params.get("namespace")
        query = request.query_params
        selects = parse_selector(query.get("labelSelector", ""))
        if _flag(query.get("watch", "")):
            return self._watch(namespace, selects, query.get("resourceVersion", ""), query)
        listing = self._plane.store.list(self._kind.name, namespace)
        items = [self._shown(found) for found in listing.resources if selects(_labels(found))]
        return JSONResponse(
            {
                "apiVersion": self._api_version,
                "kind": f"{self._kind.name}List",
                "metadata": {"resourceVersion": str(listing.revision)},
                "items": items,
            }
        )

    async def item(self, request: Request) -> Response:
        """Get, replace, apply or delete."""
        key = self._key(request)
        match request.method:
            case "PUT":
                return await self._write(request, key, "replace")
            case "PATCH":
                return await self._write(request, key, "apply")
            case "DELETE":
                return self._delete(key)
            case _:
                return JSONResponse(self._shown(self._plane.store.get(key)))

    async def status(self, request: Request) -> Response:
        """Get the object, or replace its status alone."""
        key = self._key(request)
        if request.method == "PUT":
            return await self._write(request, key, "status")
        return JSONResponse(self._shown(self._plane.store.get(key)))

    async def _create(self, request: Request) -> Response:
        namespace = request.path_params.get("namespace")
        resource = await self._read(request, namespace)
        return self._committed(Put(resource, mode="create"))

    async def _write(self, request: Request, key: ResourceKey, mode: Mode) -> Response:
        resource = await self._read(request, key.namespace or None)
        if resource.metadata.name != key.name:
            raise BadBody(
                f"metadata.name: '{resource.metadata.name}' is not '{key.name}', as the path says"
            )
        return self._committed(Put(resource, mode=mode))

    def _committed(self, change: Put) -> Response:
        (outcome,) = self._plane.commit([change]).outcomes
        code = 201 if outcome.action == "created" else 200
        return JSONResponse(self._shown(self._plane.store.get(outcome.key)), code)

    def _delete(self, key: ResourceKey) -> Response:
        self._plane.store.get(key)
        self._plane.commit(deletes(self._plane, [key]))
        return JSONResponse(success(f"{key} is deleted"))

    async def _read(self, request: Request, namespace: str | None) -> Resource:
        limits = self._plane.limits
        value = await read_object(request, limits.body_bytes_max, limits.json_depth_max)
        if value.get("kind") != self._kind.name:
            raise BadBody(f"kind: must be {self._kind.name}, as the path says")
        resource = parse_object(value, namespace or DEFAULT_NAMESPACE)
        if (resource.metadata.namespace or None) != namespace:
            raise BadBody(
                f"metadata.namespace: '{resource.metadata.namespace}' is not '{namespace}', "
                "as the path says"
            )
        return resource

    def _key(self, request: Request) -> ResourceKey:
        params = request.path_params
        return ResourceKey(self._kind.name, params.get("namespace", ""), params["name"])

    def _shown(self, resource: Resource) -> dict[str, Any]:
        return {**resource.to_object(), "apiVersion": self._api_version}

    def _watch(
        self,
        namespace: str | None,
        selects: Selects,
        since: str,
        query: Mapping[str, str],
    ) -> Response:
        """Stream changes after the revision *since*; without one, what is there comes first."""
        life_s = self._plane.limits.watch_s_max
        if "timeoutSeconds" in query:
            life_s = min(life_s, _number("timeoutSeconds", query["timeoutSeconds"]))
        revision = _number("resourceVersion", since) if since else 0
        if revision:
            self._plane.store.events(revision)
        self._watchers.take()
        return LineStream(
            self._changes(namespace, selects, revision),
            life_s=life_s,
            closing=self._plane.closing,
            released=self._watchers.give_back,
        )

    async def _changes(
        self, namespace: str | None, selects: Selects, revision: int
    ) -> AsyncGenerator[dict[str, Any], None]:
        news = asyncio.Event()
        unlisten = self._plane.listen(news.set)
        try:
            if not revision:
                listing = self._plane.store.list(self._kind.name, namespace)
                revision = listing.revision
                for found in listing.resources:
                    if selects(_labels(found)):
                        yield {"type": "ADDED", "object": self._shown(found)}
            while True:
                news.clear()
                for event in self._plane.store.events(revision):
                    revision = event.revision
                    found = event.resource
                    here = namespace is None or found.metadata.namespace == namespace
                    if found.kind == self._kind.name and here and selects(_labels(found)):
                        yield {"type": event.type, "object": self._shown(found)}
                await news.wait()
        except Gone as error:
            yield {"type": "ERROR", "object": failure_status(error)}
        finally:
            unlisten()


def deletes(plane: ControlPlane, keys: Iterable[ResourceKey]) -> list[Delete]:
    """Return the changes that delete *keys*, and with a Namespace all that is in it, each once."""
    wanted: dict[ResourceKey, None] = {}
    for key in keys:
        wanted[key] = None
        if key.kind == "Namespace":
            wanted |= dict.fromkeys(
                found.key for found in plane.store.list(namespace=key.name).resources
            )
    return [Delete(key) for key in wanted]


def success(message: str) -> dict[str, Any]:
    """A Status that tells of a success."""
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Success",
        "message": message,
        "reason": "",
        "code": 200,
    }


def _labels(resource: Resource) -> dict[str, str]:
    return resource.metadata.labels


def _flag(value: str) -> bool:
    if value.lower() not in {"", "0", "1", "true", "false"}:
        raise BadBody(f"watch: '{value}' is not true or false")
    return value.lower() in {"1", "true"}


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= REVISION_DIGITS_MAX):
        raise BadBody(f"{name}: '{text}' is not a number")
    return int(text)
