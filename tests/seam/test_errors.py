"""What the engine refuses becomes one exception, with the engine's words."""

import re
from collections.abc import Callable

import pytest

from tulle._engine import Engine, EngineError, Hub

UNKNOWN = b'{"kind":"mystery"}'
TOO_LARGE = bytes(4 * 1024 * 1024)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda _hub: Hub("nowhere"), "must be an IP address and a port"),
        (lambda hub: Hub(hub.address()), "in use"),
        (lambda hub: hub.set_identity("", "", ""), "roots: 0 certificates"),
        (lambda hub: hub.publish("service/shop/cart", "v1", TOO_LARGE), "must be 1 to 4194304"),
        (lambda hub: hub.send(1, "shout", b"{}"), "allowed: tap, untap, resolve"),
    ],
    ids=["no address", "address in use", "no identity", "too large", "unknown command"],
)
def test_the_hub_says_what_is_wrong(hub: Hub, call: Callable[[Hub], object], words: str) -> None:
    with pytest.raises(EngineError, match=re.escape(words)):
        call(hub)


@pytest.mark.parametrize("settings", [b"", b"{}", b"\xff", b'{"workload":7}'])
def test_settings_that_are_none_are_refused(settings: bytes) -> None:
    with pytest.raises(EngineError):
        Engine(settings)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("service/shop/cart", b"{"),
        ("service/shop/cart", b"{}"),
        ("service/shop/cart", UNKNOWN),
        ("mystery/shop/cart", UNKNOWN),
        ("service/shop/cart", b"\xff\xfe"),
        ("service/shop/cart", b"[" * 100_000),
    ],
    ids=["no JSON", "no fields", "another kind", "no such kind", "not UTF-8", "deep"],
)
def test_a_wrong_record_is_refused(
    new_engine: Callable[..., Engine], name: str, data: bytes
) -> None:
    engine = new_engine()
    with pytest.raises(EngineError):
        engine.apply(name, data)


@pytest.mark.parametrize("timeout_s", [-1.0, float("nan"), float("inf"), 1e300])
def test_a_wait_that_is_none_is_refused(
    new_engine: Callable[..., Engine], timeout_s: float
) -> None:
    with pytest.raises(EngineError, match="timeout_s"):
        new_engine().join(None, None, timeout_s)
