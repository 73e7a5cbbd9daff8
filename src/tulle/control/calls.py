"""The calls under /tulle/v1: batches, what the mesh does, sidecars, records and tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tulle.control import shapes, traffic
from tulle.control.bodies import BadBody, BodyTooLarge, read_object
from tulle.control.bounds import TooMany
from tulle.control.objects import deletes, success
from tulle.control.proxies import proxy_rows
from tulle.control.resolve import DescribedRequest, Destination
from tulle.control.streams import LineStream, Slots
from tulle.control.tap import Tap, TapFilter
from tulle.errors import NotFound
from tulle.identity.tokens import Grant
from tulle.mesh.change import Change, Outcome, Put
from tulle.mesh.select import selected_workloads, served_port
from tulle.resources.model import DEFAULT_NAMESPACE, ObjectName, ResourceKey
from tulle.resources.parse import parse_objects
from tulle.resources.registry import KINDS

if TYPE_CHECKING:
    from starlette.requests import Request

    from tulle.control.peers import Peer
    from tulle.control.plane import ControlPlane

Shape = TypeVar("Shape", bound=BaseModel)


class Calls:
    """The handlers, each named as its path."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        limits = plane.limits
        self._taps = Slots(
            limits.taps_max, lambda: TooMany(f"{limits.taps_max} taps are open; close one first")
        )

    async def apply(self, request: Request) -> Response:
        """Apply a batch, all or none."""
        body = await self._body(request, shapes.ApplyBody)
        changes = self._puts(body.resources)
        commit = self._plane.commit(changes, dry_run=body.dry_run)
        results = [_named(outcome) for outcome in commit.outcomes]
        return JSONResponse({"results": results, "revision": commit.revision})

    async def delete(self, request: Request) -> Response:
        """Delete a batch, with a Namespace all that is in it; what is not there is left out."""
        body = await self._body(request, shapes.DeleteBody)
        self._check_batch(body.resources)
        keys = dict.fromkeys(_key(resource) for resource in body.resources)
        there = [key for key in keys if self._plane.mesh.holds(key)]
        commit = self._plane.commit(deletes(self._plane, there))
        results = [_named(outcome) for outcome in commit.outcomes]
        return JSONResponse({"results": results, "revision": commit.revision})

    async def diff(self, request: Request) -> Response:
        """Tell what an apply would change."""
        body = await self._body(request, shapes.DiffBody)
        commit = self._plane.store.commit(self._puts(body.resources), dry_run=True)
        changes = [
            {
                **_named(outcome),
                "before": outcome.before.to_object() if outcome.before else None,
                "after": outcome.after.to_object() if outcome.after else None,
            }
            for outcome in commit.outcomes
            if outcome.action != "unchanged"
        ]
        return JSONResponse({"changes": changes})

    async def edges(self, request: Request) -> Response:
        """Who talks to whom."""
        query = shapes.read(shapes.EdgesQuery, request.query_params)
        series = self._plane.telemetry.series(self._plane.clock.monotonic())
        return JSONResponse({"edges": traffic.edges(series, query.namespace)})

    async def stat(self, request: Request) -> Response:
        """Traffic received, by service, workload or route."""
        query = shapes.read(shapes.StatQuery, request.query_params)
        series = self._plane.telemetry.series(self._plane.clock.monotonic())
        return JSONResponse({"rows": traffic.stat(series, query.by, query.namespace)})

    async def tap(self, request: Request) -> Response:
        """Stream live requests."""
        query = shapes.read(shapes.TapQuery, request.query_params)
        tap_filter = TapFilter(**query.model_dump())
        self._taps.take()
        return LineStream(
            self._entries(tap_filter),
            life_s=self._plane.limits.tap_s_max,
            closing=self._plane.closing,
            released=self._taps.give_back,
        )

    async def resolve(self, request: Request) -> Response:
        """Ask sidecars what would become of a request."""
        body = await self._body(request, shapes.ResolveBody)
        service = self._plane.mesh.service(ObjectName(*body.to.split("/", 1)))
        if service is None:
            raise NotFound(f"there is no Service {body.to}")
        described = DescribedRequest(
            service=body.to,
            port=body.port or next((port.port for port in service.spec.ports), 80),
            method=body.method,
            path=body.path,
            headers=tuple((name, value) for name, value in body.headers),
        )
        callers = self._peers_of(body.from_)
        if not callers:
            raise NotFound(f"no connected workload is, or belongs to, '{body.from_}'")
        destination = self._destination(described)
        answer = await self._plane.resolver.resolve(described, callers[0], destination)
        return JSONResponse(answer)

    async def proxies(self, request: Request) -> Response:
        """All sidecars."""
        return JSONResponse({"proxies": proxy_rows(self._plane)})

    async def proxy(self, request: Request) -> Response:
        """One sidecar."""
        name = "{namespace}/{name}".format(**request.path_params)
        for row in proxy_rows(self._plane, only=name):
            return JSONResponse(row)
        raise NotFound(f"workload {name} does not exist")

    async def record(self, request: Request) -> Response:
        """A record as sidecars get it."""
        name = "{kind}/{namespace}/{name}".format(**request.path_params)
        return self._record(name)

    async def trust_record(self, request: Request) -> Response:
        """The trust record."""
        return self._record("trust/{name}".format(**request.path_params))

    async def tokens(self, request: Request) -> Response:
        """Make a token, or list all."""
        if request.method == "POST":
            return await self._make_token(request)
        listed = [
            {
                "id": token.id,
                "namespace": token.grant.namespace,
                "service_account": token.grant.service_account,
                "service": token.grant.service,
                "expires": token.expires.isoformat(),
                "uses_left": token.uses_left,
            }
            for token in self._plane.tokens.valid()
        ]
        return JSONResponse({"tokens": listed})

    async def token(self, request: Request) -> Response:
        """Revoke a token."""
        token_id = request.path_params["id"]
        if not self._plane.tokens.revoke(token_id):
            raise NotFound(f"token {token_id} does not exist")
        return JSONResponse(success(f"token {token_id} is revoked"))

    async def ca_bundle(self, request: Request) -> Response:
        """The root certificates."""
        return PlainTextResponse(self._plane.roots_pem(), media_type="application/x-pem-file")

    async def _make_token(self, request: Request) -> Response:
        body = await self._body(request, shapes.TokenBody)
        grant = Grant(body.namespace, body.service_account, body.service)
        text, token = self._plane.tokens.create(grant, timedelta(seconds=body.ttl_s), body.uses)
        answer = {"token": text, "id": token.id, "expires": token.expires.isoformat()}
        return JSONResponse(answer, 201)

    async def _body(self, request: Request, shape: type[Shape]) -> Shape:
        limits = self._plane.limits
        value = await read_object(request, limits.body_bytes_max, limits.json_depth_max)
        return shapes.read(shape, value)

    def _puts(self, objects: Sequence[dict[str, Any]]) -> list[Change]:
        self._check_batch(objects)
        return [Put(resource) for resource in parse_objects(objects)]

    def _check_batch(self, resources: Sequence[object]) -> None:
        most = self._plane.limits.batch_resources_max
        if len(resources) > most:
            raise BodyTooLarge(f"resources: {len(resources)} are too many; at most {most}")

    def _record(self, name: str) -> Response:
        record = self._plane.publisher.encoded(name)
        if record is None:
            raise NotFound(f"record {name} does not exist")
        headers = {"etag": f'"{record.version}"'}
        return Response(record.data, media_type="application/json", headers=headers)

    def _peers_of(self, name: str) -> list[Peer]:
        """Connected sidecars of *name*, a workload or else a service; the ready ones first."""
        peers = self._plane.peers
        peer = peers.of(name)
        if peer is not None and peer.connected:
            return [peer]
        namespace, _, own = name.partition("/")
        service = self._plane.mesh.service(ObjectName(namespace, own))
        if service is None:
            return []
        found = (
            peers.of(str(workload.object_name))
            for workload in selected_workloads(self._plane.mesh, service)
        )
        live = [peer for peer in found if peer is not None and peer.connected]
        return sorted(live, key=lambda peer: not peer.ready)

    def _destination(self, request: DescribedRequest) -> Destination | None:
        """The connected workload of the called service to ask; a ready one if there is any."""
        peer = next(iter(self._peers_of(request.service)), None)
        if peer is None:
            return None
        mesh = self._plane.mesh
        service = mesh.service(ObjectName(*request.service.split("/", 1)))
        workload = mesh.workload(peer.workload.object_name)
        if service is not None and workload is not None:
            for port in service.spec.ports:
                served = served_port(port, workload)
                if port.port == request.port and served is not None:
                    return Destination(peer, served.port)
        return Destination(peer, request.port)

    async def _entries(self, tap_filter: TapFilter) -> AsyncGenerator[dict[str, Any], None]:
        tap: Tap = self._plane.taps.open(tap_filter, self._live())
        try:
            while (entry := await tap.next()) is not None:
                yield entry
        finally:
            self._plane.taps.close(tap, self._live())

    def _live(self) -> list[int]:
        return [peer.id for peer in self._plane.peers.live()]


def _named(outcome: Outcome) -> dict[str, Any]:
    key = outcome.key
    return {
        "kind": key.kind,
        "namespace": key.namespace,
        "name": key.name,
        "action": outcome.action,
    }


def _key(resource: shapes.DeletedResource) -> ResourceKey:
    kind = KINDS.get(resource.kind)
    if kind is None or resource.apiVersion not in kind.api_versions:
        raise BadBody(f"'{resource.apiVersion}' has no kind '{resource.kind}'")
    namespace = resource.metadata.namespace
    if not kind.namespaced:
        return ResourceKey(kind.name, "", resource.metadata.name)
    return ResourceKey(kind.name, namespace or DEFAULT_NAMESPACE, resource.metadata.name)
