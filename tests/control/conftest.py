"""A control plane on a real store and CA, with a hub without sockets and a held clock.

Nothing runs by itself: `mesh.settle()` hands over what the hub has to say,
`mesh.clock.advance()` moves time, `mesh.api()` is one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.control.fake_hub import FakeHub, FakePeer, HeldClock, make_csr, workload
from tulle.control.app import make_app
from tulle.control.hub import HubEvent
from tulle.control.plane import ControlPlane, open_plane
from tulle.control.settings import Limits, ServerSettings

SHOP = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {
            "selector": {"app": "cart"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        },
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        },
    },
]


class MeshUnderTest:
    """One control plane and all that a test plays around it."""

    def __init__(self, data_dir: Path, runner: asyncio.Runner, limits: Limits) -> None:
        self.runner = runner
        self.clock = HeldClock()
        self.hub = FakeHub()
        self.settings = ServerSettings(data_dir, limits=limits)
        self.plane = self._open()
        self.token: str | None = None

    def _open(self) -> ControlPlane:
        return open_plane(self.settings, self.hub, self.clock.clock)

    def restart(self) -> None:
        """The control plane dies and starts again; all connections are gone."""
        self.plane.close()
        self.hub = FakeHub()
        self.plane = self._open()

    def settle(self) -> None:
        """Hand over all that the hub has to say, as one batch, until it says no more."""
        while events := self.hub.drain():
            self.plane.handle([HubEvent(kind, body) for kind, body in events])

    def advance(self, seconds: float) -> None:
        """Let time pass, and the plane look at the clock at its end."""
        self.clock.advance(seconds)
        self.plane.tick()

    def api(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request, as over the Unix socket unless `server` says otherwise."""

        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(make_app(self.plane, self.token))
            async with httpx.AsyncClient(transport=transport, base_url="http://tulle") as client:
                return await client.request(method, path, **options)

        return self.runner.run(call())

    def apply(self, *resources: dict[str, Any]) -> None:
        """Apply resources; all must be right."""
        answer = self.api("POST", "/tulle/v1/apply", json={"resources": list(resources)})
        assert answer.status_code == 200, answer.text

    def join(self, name: str, account: str, **changes: Any) -> tuple[int, dict[str, Any]]:
        """A sidecar joins with a fresh token of its account; returns the answer."""
        body = {"namespace": "shop", "service_account": account}
        token = self.api("POST", "/tulle/v1/tokens", json=body).json()["token"]
        asked = {
            "token": token,
            "csr_pem": make_csr(),
            "workload": workload(name, account),
        }
        request_id = self.hub.ask("join", body=asked | changes)
        self.settle()
        return self.hub.replies[request_id]

    def connect(self, name: str, account: str, *, ready: bool = True, **changes: Any) -> FakePeer:
        """A sidecar connects and says how it is."""
        identity = f"spiffe://tulle.local/ns/shop/sa/{account}"
        peer = self.hub.connect(identity, workload(name, account) | changes)
        self.hub.say(peer, "status", ready=ready, draining=False)
        self.settle()
        return peer

    def endpoints(self, service: str) -> list[str]:
        """Workloads in the endpoints record of a service."""
        answer = self.api("GET", f"/tulle/v1/records/endpoints/{service}")
        assert answer.status_code == 200, answer.text
        return [found["workload"] for found in answer.json()["endpoints"]]


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        runner.get_loop()
        yield runner


@pytest.fixture
def limits() -> Limits:
    return replace(Limits(), watch_s_max=0.2, tap_s_max=0.2, resolve_timeout_s=0.2)


@pytest.fixture
def mesh(tmp_path: Path, runner: asyncio.Runner, limits: Limits) -> Iterator[MeshUnderTest]:
    mesh = MeshUnderTest(tmp_path / "data", runner, limits)
    yield mesh
    mesh.plane.close()


@pytest.fixture
def shop(mesh: MeshUnderTest) -> MeshUnderTest:
    """The mesh with a namespace and the services cart and web."""
    mesh.apply(*SHOP)
    return mesh
