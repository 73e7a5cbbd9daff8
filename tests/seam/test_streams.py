"""Hub and engine through Python: joins, records and what comes back."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tulle._engine import Engine, EngineError, Hub
from tulle.identity.authority import CertificateAuthority
from tulle.identity.spiffe import SpiffeId

Events = Callable[[str], dict[str, Any]]
NewEngine = Callable[..., Engine]

CART = SpiffeId("tulle.local", "shop", "cart")
EMPTY = {"kind": "endpoints", "namespace": "shop", "name": "cart", "endpoints": []}


def encoded(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def admit(hub: Hub, authority: CertificateAuthority, asked: dict[str, Any]) -> None:
    """Answer a join or renewal as the control plane would."""
    svid = authority.sign(asked["body"]["csr_pem"], CART, timedelta(hours=1))
    reply = {
        "chain_pem": svid.chain_pem,
        "roots_pem": list(authority.roots_pem),
        "trust_domain": "tulle.local",
    }
    assert hub.reply(asked["request_id"], 200, json.dumps(reply).encode())


@pytest.fixture
def joined(
    hub: Hub,
    authority: CertificateAuthority,
    events: Events,
    new_engine: NewEngine,
    tmp_path: Path,
) -> Engine:
    engine = new_engine(control=hub.address(), state_dir=str(tmp_path / "state"))
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(engine.join, "the token", authority.bundle_pem, 10.0)
        asked = events("join")
        assert asked["body"]["token"] == "the token"
        assert asked["body"]["workload"]["name"] == "cart-1"
        admit(hub, authority, asked)
        assert joining.result() == "joined"
    return engine


def test_a_refused_join_says_why(
    hub: Hub, authority: CertificateAuthority, events: Events, new_engine: NewEngine
) -> None:
    engine = new_engine(control=hub.address())
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(engine.join, "a used token", authority.bundle_pem, 10.0)
        hub.reply(events("join")["request_id"], 403, b'{"error":"the token was used"}')
        with pytest.raises(EngineError, match="the token was used"):
            joining.result()


def test_records_go_out_and_answers_come_back(hub: Hub, events: Events, joined: Engine) -> None:
    joined.start()
    connected = events("connected")
    assert connected["identity"] == str(CART)
    assert connected["hello"]["workload"]["name"] == "cart-1"
    peer = connected["peer"]

    names = {events("subscribed")["name"] for _ in range(4)}
    own = {"workload/shop/cart-1", "trust/tulle.local"}
    assert names == own | {"service/shop/cart", "endpoints/shop/cart"}

    hub.publish("endpoints/shop/cart", "v1", encoded(EMPTY))
    assert events("ack") == {"peer": peer, "name": "endpoints/shop/cart", "version": "v1"}

    hub.publish("endpoints/shop/cart", "v2", encoded(EMPTY | {"mood": "odd"}))
    nack = events("nack")
    assert (nack["name"], nack["version"]) == ("endpoints/shop/cart", "v2")
    assert "mood" in nack["error"]


def test_a_described_request_is_resolved_by_the_peer(
    hub: Hub, events: Events, joined: Engine
) -> None:
    joined.start()
    peer = events("connected")["peer"]
    request = {
        "direction": "outbound",
        "service": "shop/cart",
        "port": 80,
        "method": "GET",
        "path": "/",
        "headers": [],
        "principal": None,
    }
    assert hub.send(peer, "resolve", json.dumps({"id": 5, "request": request}).encode())
    resolved = events("resolved")
    assert (resolved["peer"], resolved["id"]) == (peer, 5)
    assert set(resolved["result"]) == {"steps", "outcome", "code", "reason"}


def test_a_disconnected_engine_comes_again(hub: Hub, events: Events, joined: Engine) -> None:
    joined.start()
    peer = events("connected")["peer"]
    assert hub.disconnect(peer, "moving house")
    assert events("disconnected") == {"peer": peer, "reason": "moving house"}
    assert events("connected")["peer"] != peer
