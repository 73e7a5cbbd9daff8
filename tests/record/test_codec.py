"""Records round-trip, equal records have equal bytes, and nothing else is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tulle.record import (
    EndpointsRecord,
    Record,
    RecordFormatError,
    ServiceRecord,
    TrustRecord,
    WorkloadRecord,
    decode,
    encode,
    record_name,
    version,
)

EVERYTHING = Path(__file__).parents[1] / "golden" / "everything"

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
st.register_type_strategy(str, TEXT)
RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.from_type(ServiceRecord),
    st.from_type(EndpointsRecord),
    st.from_type(WorkloadRecord),
    st.from_type(TrustRecord),
)

# A record is a big value: making one takes longer than hypothesis expects, more so on a busy machine.
BIG = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@BIG
@given(RECORDS)
def test_a_record_survives_its_bytes(record: Record) -> None:
    assert decode(encode(record)) == record


@BIG
@given(RECORDS)
def test_bytes_are_the_canonical_json(record: Record) -> None:
    """Sorted keys, no spaces, UTF-8: what the engine's writer makes too."""
    data = encode(record)
    again = json.dumps(
        json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()

    assert again == data


def test_order_of_labels_does_not_change_the_version() -> None:
    data = (EVERYTHING / "endpoints.shop.cart.json").read_bytes()
    shuffled = data.replace(b'{"app":"cart","version":"v1"}', b'{"version":"v1","app":"cart"}')

    assert shuffled != data
    assert version(encode(decode(shuffled))) == version(data.strip())


def test_version_is_sixteen_hex_digits_of_the_hash() -> None:
    assert version(b"{}") == "44136fa355b3678a"


def _service() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((EVERYTHING / "service.shop.cart.json").read_bytes())
    return loaded


def _set(*path: Any, to: object) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        at: Any = record
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = to

    return change


TABLE = ("ports", 0, "tables", 0)
REFUSED = [
    (_set("extra", to=1), "record: unknown field 'extra'"),
    (lambda record: record.pop("traffic"), "record: field 'traffic' is missing"),
    (_set("kind", to="route"), "record.kind: 'route' is not one of"),
    (_set("kind", to=None), "record: is not an object with a 'kind'"),
    (_set("name", to=None), "record.name: None is not a value of str"),
    (_set("ports", to={}), "record.ports: {} is not a list"),
    (_set("ports", 0, "number", to="80"), "record.ports[0].number: '80' is not a value of int"),
    (_set("ports", 0, "number", to=True), "record.ports[0].number: True is not a value of int"),
    (_set("ports", 0, "number", to=80.0), "record.ports[0].number: 80.0 is not a value of int"),
    (_set("ports", 0, "protocol", to="udp"), "record.ports[0].protocol: 'udp' is not one of"),
    (
        _set(*TABLE, "rules", 0, "filters", 0, "type", to="mirror"),
        "record.ports[0].tables[0].rules[0].filters[0].type: 'mirror' is not one of",
    ),
    (
        _set(*TABLE, "rules", 0, "filters", 0, "set", 0, to=["a"]),
        "record.ports[0].tables[0].rules[0].filters[0].set[0]: has 1 items; exactly 2",
    ),
    (
        _set(*TABLE, "rules", 0, "backends", 0, "labels", to={"version": 1}),
        "record.ports[0].tables[0].rules[0].backends[0].labels: {'version': 1} is not",
    ),
    (_set("traffic", "outlier", to=[]), "record.traffic.outlier: [] is not an object"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[row[1] for row in REFUSED])
def test_another_shape_is_refused(change: Callable[[dict[str, Any]], None], message: str) -> None:
    record = _service()
    change(record)

    with pytest.raises(RecordFormatError) as caught:
        decode(json.dumps(record).encode())

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "record: not JSON"),
        (b"\xff", "record: not JSON"),
        (b"[]", "record: is not an object"),
        (b'{"kind":"trust","kind":"trust"}', "record: a key is repeated"),
        (b'{"kind":"trust","domain":NaN,"roots_pem":[]}', "record: NaN is not JSON"),
    ],
    ids=["empty", "not-utf-8", "a-list", "repeated-key", "nan"],
)
def test_bytes_that_are_no_record_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(RecordFormatError) as caught:
        decode(data)

    assert str(caught.value).startswith(message)


@BIG
@given(st.binary(max_size=64) | RECORDS.map(encode).map(lambda data: data[:-1]))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(RecordFormatError):
        decode(data)


def test_names() -> None:
    names = {record_name(decode(path.read_bytes())) for path in EVERYTHING.iterdir()}

    assert {"service/shop/cart", "workload/shop/cart-1", "trust/tulle.local"} < names
