"""Questions to sidecars: what would happen to this request, decided by the engine itself."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tulle.control.bounds import TooMany
from tulle.errors import TimedOut, Unreachable

if TYPE_CHECKING:
    from tulle.control.hub import Hub
    from tulle.control.peers import Peer

DISCOVERY_S = 2.0
"""How long a sidecar may need to learn of a service; a request waits as long (`discover.rs`)."""

DISCOVERY_PAUSE_S = 0.05
"""Between two questions; the records come in a few milliseconds."""


@dataclass(frozen=True, slots=True)
class DescribedRequest:
    """The request that is asked about."""

    service: str
    """`namespace/name`."""

    port: int
    """The service's port for the caller's sidecar, the app's for the destination's."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]

    def body(self, direction: str, principal: str | None) -> dict[str, Any]:
        """The question as a sidecar takes it; *principal* is the caller's at its destination."""
        return {
            "direction": direction,
            "service": self.service,
            "port": self.port,
            "method": self.method,
            "path": self.path,
            "headers": [list(header) for header in self.headers],
            "principal": principal,
        }


@dataclass(frozen=True, slots=True)
class Destination:
    """Who would be sent the request."""

    peer: Peer
    port: int
    """The app's port: policies call it so."""


class Resolver:
    """Sends questions and matches the answers to them."""

    def __init__(self, hub: Hub, resolves_max: int, timeout_s: float) -> None:
        self._hub = hub
        self._resolves_max = resolves_max
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def resolve(
        self, request: DescribedRequest, caller: Peer, destination: Destination | None
    ) -> dict[str, Any]:
        """Ask the caller's sidecar, then for a request that it forwards the destination's.

        Without a *destination* the caller's answer is all there is. The service must exist: a
        sidecar that has not called it yet begins to fetch its records when it is asked, as it
        would for a request, and is asked again until it has them.

        Raises:
            TimedOut: a sidecar did not answer in time.
            Unreachable: a sidecar went away.
            TooMany: too many questions are open.
        """
        outbound = await self._ask_outbound(caller, request)
        if outbound["outcome"] != "forward" or destination is None:
            return outbound
        principal = caller.identity.removeprefix("spiffe://")
        there = replace(request, port=destination.port)
        inbound = await self._ask(destination.peer, there.body("inbound", principal))
        return {**inbound, "steps": [*outbound["steps"], *inbound["steps"]]}

    def answered(self, question_id: int, result: dict[str, Any]) -> None:
        """Take a sidecar's answer; one that comes too late is dropped."""
        waiting = self._waiting.get(question_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(result)

    async def _ask_outbound(self, caller: Peer, request: DescribedRequest) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DISCOVERY_S
        body = request.body("outbound", None)
        answer = first = await self._ask(caller, body)
        # No step means that not even the service is known; its endpoints come after it.
        while not first["steps"] and answer["outcome"] == "error" and loop.time() < deadline:
            await asyncio.sleep(DISCOVERY_PAUSE_S)
            answer = await self._ask(caller, body)
        return answer

    async def _ask(self, peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
        if len(self._waiting) >= self._resolves_max:
            raise TooMany(f"{self._resolves_max} questions wait for sidecars; try again")
        question_id = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[question_id] = answer
        try:
            body = json.dumps({"id": question_id, "request": request}).encode()
            if not self._hub.send(peer.id, "resolve", body):
                raise Unreachable(f"the sidecar of {peer.workload.key} has just gone away")
            async with asyncio.timeout(self._timeout_s):
                return await answer
        except TimeoutError as error:
            raise TimedOut(
                f"the sidecar of {peer.workload.key} did not answer in {self._timeout_s:g} s"
            ) from error
        finally:
            del self._waiting[question_id]
