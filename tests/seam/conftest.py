"""A hub with a certificate authority behind it, and engines that join it."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tulle._engine import Engine, Hub
from tulle.identity.authority import CertificateAuthority
from tulle.identity.spiffe import SpiffeId

PATIENCE_MS = 10_000
LIFETIME = timedelta(hours=1)

Events = Callable[[str], dict[str, Any]]
NewEngine = Callable[..., Engine]


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path / "ca", "tulle.local", lambda: datetime.now(UTC))


@pytest.fixture
def hub(authority: CertificateAuthority) -> Iterator[Hub]:
    hub = Hub("127.0.0.1:0")
    own = SpiffeId("tulle.local", "tulle-system", "control-plane")
    svid, key_pem = authority.issue(own, LIFETIME)
    hub.set_identity(svid.chain_pem, key_pem, authority.bundle_pem)
    yield hub
    hub.stop()


@pytest.fixture
def events(hub: Hub) -> Events:
    """Return the next event of a kind; those before it are of no interest."""

    def next_event(kind: str) -> dict[str, Any]:
        while (event := hub.next_event(PATIENCE_MS)) is not None:
            if event[0] == kind:
                return dict(json.loads(event[1]))
        pytest.fail(f"no event {kind!r} came in time")

    return next_event


@pytest.fixture
def new_engine() -> Iterator[NewEngine]:
    """Make the engine of `shop/cart-1`; keywords replace settings."""
    engines: list[Engine] = []

    def make(**replaced: object) -> Engine:
        workload: dict[str, Any] = {
            "namespace": "shop",
            "name": "cart-1",
            "service_account": "cart",
            "labels": {},
            "zone": None,
        }
        settings = {
            "workload": workload,
            "trust_domain": "tulle.local",
            "inbound": [],
            "outbound": [{"service": "shop/cart", "port": 80, "listen": "127.0.0.1:0"}],
            "proxy_listen": None,
            "admin_listen": "127.0.0.1:0",
            "control": None,
            "state_dir": None,
            "probe": None,
            "workers": 1,
            "access_log": "off",
            "access_log_path": None,
            "drain_seconds": 1,
            "reason_header": True,
        }
        engine = Engine(json.dumps(settings | replaced).encode())
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.stop()
