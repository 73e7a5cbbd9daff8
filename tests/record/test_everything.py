"""Every field of every record crosses to the engine.

tests/golden/everything holds records in which every field is set, every alternative is
used and every optional value is also absent; the engine reads them and writes them back
equal. `TULLE_GOLDEN=write` renews the files.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from tulle.record.codec import decode, encode, json_name
from tulle.record.endpoints import Endpoint, EndpointsRecord
from tulle.record.name import Record, record_name
from tulle.record.service import (
    Backend,
    Entry,
    Match,
    PathMatch,
    PathModifier,
    Port,
    Redirect,
    RequestHeaders,
    ResponseHeaders,
    Rewrite,
    RouteRetry,
    Rule,
    ServiceRecord,
    Table,
    Timeouts,
    ValueMatch,
)
from tulle.record.traffic import Limits, Outlier, Retry, RetryBudget, Traffic
from tulle.record.trust import TrustRecord
from tulle.record.workload import Authorization, AuthRule, From, Policy, To, WorkloadRecord

GOLDEN = Path(__file__).parents[1] / "golden" / "everything"

_MATCH = Match(
    path=PathMatch(type="prefix", value="/cart"),
    method="GET",
    headers=(ValueMatch(name="x-user", type="exact", value="ada “the first”"),),
    query=(ValueMatch(name="debug", type="regex", value="1|yes"),),
    server_name=None,
)
_CHANGE = RequestHeaders(
    set=(("x-mesh", "tulle"),), add=(("x-hop", "1"), ("x-hop", "2")), remove=("x-secret",)
)
_FORWARD = Rule(
    route="shop/cart-route",
    rule="main",
    source="shop.yaml:31",
    filters=(
        _CHANGE,
        ResponseHeaders(set=(("x-served", "yes"),), add=(("via", "tulle"),), remove=("server",)),
        Rewrite(hostname="cart.internal", path=PathModifier(type="prefix", value="/v1")),
    ),
    backends=(
        Backend(
            service="shop/cart",
            port=80,
            weight=90,
            labels={"version": "v1", "tier": "web"},
            filters=(_CHANGE,),
            error=None,
        ),
        Backend(
            service="shop/gone",
            port=80,
            weight=10,
            labels={},
            filters=(
                ResponseHeaders(set=(), add=(), remove=("server",)),
                Rewrite(hostname=None, path=PathModifier(type="full", value="/")),
                Redirect(scheme=None, hostname="old", port=None, path=None, status=308),
            ),
            error='there is no Service "shop/gone"',
        ),
    ),
    timeouts=Timeouts(request_ms=2000, backend_request_ms=500),
    retry=RouteRetry(attempts=3, codes=(500, 503), backoff_ms=25),
)
_MOVED = Rule(
    route="shop/cart-route",
    rule="1",
    source="shop.yaml:52",
    filters=(
        Redirect(
            scheme="https",
            hostname="shop.example",
            port=8443,
            path=PathModifier(type="full", value="/moved"),
            status=301,
        ),
    ),
    backends=(),
    timeouts=Timeouts(request_ms=None, backend_request_ms=0),
    retry=None,
)

EVERYTHING: tuple[Record, ...] = (
    ServiceRecord(
        namespace="shop",
        name="cart",
        addresses=("240.240.3.7", "fd74:756c:6c65::307"),
        ports=(
            Port(
                number=80,
                name="http",
                protocol="http",
                tables=(
                    Table(
                        consumer_namespace="checkout",
                        kind="http",
                        entries=(
                            Entry(match=_MATCH, rule=0),
                            Entry(match=Match(None, None, (), (), None), rule=1),
                        ),
                        rules=(_FORWARD, _MOVED),
                    ),
                ),
            ),
        ),
        traffic=Traffic(
            policy="shop/cart-traffic",
            source="shop.yaml:70",
            load_balancer="least_request",
            connect_timeout_ms=250,
            request_timeout_ms=5000,
            per_try_timeout_ms=1500,
            retry=Retry(
                attempts=1,
                on=("connect-failure", "reset", "unavailable", "timeout", "5xx", "gateway-error"),
                codes=(429,),
                grpc_statuses=(14, 8),
                backoff_base_ms=10,
                backoff_max_ms=100,
            ),
            retry_budget=RetryBudget(percent=10, min_per_second=5),
            limits=Limits(connections=64, pending=32, requests=128),
            outlier=Outlier(
                consecutive_failures=3,
                base_ejection_ms=500,
                max_ejection_ms=5000,
                max_ejected_percent=30,
            ),
        ),
    ),
    EndpointsRecord(
        namespace="shop",
        name="cart",
        endpoints=(
            Endpoint(
                workload="shop/cart-1",
                address="127.0.0.1",
                ports=((80, 41234), (9090, 41235)),
                identity="spiffe://tulle.local/ns/shop/sa/cart",
                labels={"app": "cart", "version": "v1"},
                zone="a",
                tls=True,
            ),
        ),
    ),
    WorkloadRecord(
        namespace="shop",
        name="cart-1",
        service_account="cart",
        mtls="strict",
        port_mtls=((8080, "permissive"), (9090, "disable")),
        authorization=Authorization(
            default="deny",
            policies=(
                Policy(
                    name="shop/allow-web",
                    action="allow",
                    rules=(
                        AuthRule(
                            source="shop.yaml:90",
                            from_=(
                                From(
                                    principals=("tulle.local/ns/shop/sa/web",),
                                    not_principals=("*/sa/guest",),
                                    namespaces=("shop",),
                                    not_namespaces=("lab-*",),
                                ),
                            ),
                            to=(
                                To(
                                    methods=("GET",),
                                    not_methods=("DELETE",),
                                    paths=("/cart/*",),
                                    not_paths=("/cart/admin",),
                                    ports=(8080,),
                                    not_ports=(9090,),
                                ),
                            ),
                        ),
                    ),
                ),
            ),
        ),
    ),
    ServiceRecord(
        namespace="shop",
        name="alternatives",
        addresses=(),
        ports=(
            Port(
                number=8080,
                name=None,
                protocol="http2",
                tables=(
                    Table(
                        consumer_namespace=None,
                        kind="http",
                        entries=(
                            Entry(
                                match=Match(
                                    path=PathMatch(type="exact", value="/a"),
                                    method=None,
                                    headers=(ValueMatch(name="x", type="regex", value="1.*"),),
                                    query=(ValueMatch(name="y", type="exact", value="\u0001\x7f"),),
                                    server_name=None,
                                ),
                                rule=0,
                            ),
                        ),
                        rules=(
                            Rule(
                                route="shop/alternatives",
                                rule="0",
                                source=None,
                                filters=(
                                    Redirect(
                                        scheme=None, hostname=None, port=None, path=None, status=302
                                    ),
                                ),
                                backends=(),
                                timeouts=Timeouts(None, None),
                                retry=None,
                            ),
                            Rule(
                                route="shop/alternatives",
                                rule="1",
                                source=None,
                                filters=(
                                    Redirect(
                                        scheme="http",
                                        hostname=None,
                                        port=None,
                                        path=PathModifier(type="prefix", value=""),
                                        status=307,
                                    ),
                                    Rewrite(hostname=None, path=None),
                                ),
                                backends=(),
                                timeouts=Timeouts(0, None),
                                retry=None,
                            ),
                        ),
                    ),
                ),
            ),
            Port(
                number=9090,
                name="grpc",
                protocol="grpc",
                tables=(
                    Table(
                        consumer_namespace=None,
                        kind="grpc",
                        entries=(
                            Entry(
                                match=Match(
                                    path=PathMatch(type="regex", value="/[^/]+/Get"),
                                    method=None,
                                    headers=(),
                                    query=(),
                                    server_name=None,
                                ),
                                rule=0,
                            ),
                        ),
                        rules=(),
                    ),
                ),
            ),
            Port(number=7, name=None, protocol="auto", tables=()),
            Port(
                number=6379,
                name="redis",
                protocol="tcp",
                tables=(
                    Table(consumer_namespace=None, kind="tcp", entries=(), rules=()),
                    Table(
                        consumer_namespace="checkout",
                        kind="tls",
                        entries=(Entry(match=Match(None, None, (), (), "*.shop.example"), rule=0),),
                        rules=(_FORWARD,),
                    ),
                ),
            ),
        ),
        traffic=Traffic(load_balancer="round_robin", outlier=None),
    ),
    ServiceRecord(namespace="shop", name="defaults", addresses=(), ports=(), traffic=Traffic()),
    EndpointsRecord(
        namespace="shop",
        name="plain",
        endpoints=(
            Endpoint(
                workload="shop/plain-1",
                address="::1",
                ports=(),
                identity="spiffe://tulle.local/ns/shop/sa/plain",
                labels={},
                zone=None,
                tls=False,
            ),
        ),
    ),
    WorkloadRecord(
        namespace="shop",
        name="plain-1",
        service_account="plain",
        mtls="disable",
        port_mtls=((80, "strict"),),
        authorization=Authorization(
            default="allow",
            policies=(
                Policy(name="shop/deny-all", action="deny", rules=(AuthRule(None, (), ()),)),
            ),
        ),
    ),
    WorkloadRecord(
        namespace="shop",
        name="open-1",
        service_account="open",
        mtls="permissive",
        port_mtls=(),
        authorization=Authorization(default="allow", policies=()),
    ),
    TrustRecord(
        domain="tulle.local",
        roots_pem=("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",),
    ),
)


def walk(value: Any) -> Iterator[Any]:
    """Yield *value* and every dataclass below it."""
    if isinstance(value, tuple):
        for item in value:
            yield from walk(item)
    elif is_dataclass(value):
        yield value
        for field in fields(value):
            yield from walk(getattr(value, field.name))


def shapes(form: Any) -> Iterator[type]:
    """Yield every dataclass that a type form leads to."""
    if isinstance(form, type) and is_dataclass(form):
        yield form
        for hint in get_type_hints(form).values():
            yield from shapes(hint)
    else:
        for argument in get_args(form):
            yield from shapes(argument)


def leaves(form: Any) -> Iterator[Any]:
    """Yield what a field of type *form* must be seen to hold."""
    origin = get_origin(form)
    if origin in (Union, UnionType):
        for member in get_args(form):
            yield from leaves(member)
    elif origin is Literal:
        yield from get_args(form)
    elif origin is tuple:
        yield "not empty"
        for member in set(get_args(form)) - {...}:
            if get_origin(member) in (Literal, Union, UnionType):
                yield from leaves(member)
    elif origin is dict:
        yield "not empty"
    else:
        yield form


def seen(value: Any) -> Iterator[Any]:
    """Yield what *value* shows of its type, in the words of `leaves`."""
    if isinstance(value, tuple):
        if value:
            yield "not empty"
        for item in value:
            yield from seen(item)
    elif isinstance(value, dict):
        if value:
            yield "not empty"
    elif value is None:
        yield NoneType
    elif isinstance(value, str):
        yield value
        yield str
    else:
        yield type(value)


FIELDS = sorted(
    {
        (shape.__name__, name, hint)
        for shape in shapes(Record)
        for name, hint in get_type_hints(shape).items()
    },
    key=str,
)


@pytest.mark.parametrize(("shape", "name", "hint"), FIELDS, ids=[f"{f[0]}.{f[1]}" for f in FIELDS])
def test_every_field_and_alternative_is_in_a_golden_record(
    shape: str, name: str, hint: Any
) -> None:
    shown: dict[str, set[Any]] = defaultdict(set)
    for record in EVERYTHING:
        for value in walk(record):
            for field in fields(value):
                shown[f"{type(value).__name__}.{field.name}"] |= set(
                    seen(getattr(value, field.name))
                )

    assert set(leaves(hint)) <= shown[f"{shape}.{name}"]


@pytest.mark.parametrize("record", EVERYTHING, ids=record_name)
def test_golden_file_holds_the_record(record: Record) -> None:
    path = GOLDEN / (record_name(record).replace("/", ".") + ".json")
    if os.environ.get("TULLE_GOLDEN") == "write":
        path.write_bytes(encode(record) + b"\n")

    assert path.read_bytes() == encode(record) + b"\n"
    assert decode(path.read_bytes()) == record


def test_no_golden_file_is_left_over() -> None:
    expected = {record_name(record).replace("/", ".") + ".json" for record in EVERYTHING}

    assert {path.name for path in GOLDEN.iterdir()} == expected


def test_python_names_lose_only_a_trailing_underscore() -> None:
    assert [json_name("from_"), json_name("port_mtls")] == ["from", "port_mtls"]
