"""A join token is good for what it was made for, so many times, until it expires."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.errors import Conflict, NotFound, NotPermitted
from tulle.identity.tokens import Grant, Join, JoinTokens
from tulle.mesh.store import Store

HOUR = timedelta(hours=1)
GRANT = Grant("shop", "cart")
JOIN = Join("shop", "cart", "cart-1", frozenset({"cart", "cart-canary"}))


class Clock:
    """A clock that stands still until told otherwise."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Document(NamedTuple):
    """As the store has it."""

    name: str
    version: int
    value: dict[str, Any]


class MemoryDocuments:
    """Documents in memory, with real compare-and-set under a lock."""

    def __init__(self) -> None:
        self.stored: dict[str, Document] = {}
        self._lock = threading.Lock()
        self.lost_races = 0

    def get(self, name: str) -> Document:
        try:
            return self.stored[name]
        except KeyError:
            raise NotFound(name) from None

    def all(self) -> list[Document]:
        return [self.stored[name] for name in sorted(self.stored)]

    def put(self, name: str, value: dict[str, Any], expected: int) -> int:
        with self._lock:
            found = self.stored.get(name)
            if (found.version if found else 0) != expected:
                self.lost_races += 1
                raise Conflict(name)
            self.stored[name] = Document(name, expected + 1, value)
            return expected + 1

    def delete(self, name: str) -> None:
        with self._lock:
            if self.stored.pop(name, None) is None:
                raise NotFound(name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def documents() -> MemoryDocuments:
    return MemoryDocuments()


@pytest.fixture
def tokens(documents: MemoryDocuments, clock: Clock) -> JoinTokens:
    return JoinTokens(documents, clock)


def test_a_token_is_good_once(tokens: JoinTokens) -> None:
    text, token = tokens.create(GRANT, HOUR)

    assert tokens.redeem(text, JOIN) == GRANT
    with pytest.raises(NotPermitted, match=f"{token.id}: was used already"):
        tokens.redeem(text, JOIN)


def test_a_grant_leads_to_an_identity() -> None:
    assert str(GRANT.identity("tulle.local")) == "spiffe://tulle.local/ns/shop/sa/cart"


@given(uses=st.integers(1, 20))
def test_a_token_is_good_as_often_as_it_says(uses: int) -> None:
    tokens = JoinTokens(MemoryDocuments(), Clock())
    text, _ = tokens.create(GRANT, HOUR, uses)

    for _ in range(uses):
        tokens.redeem(text, JOIN)

    with pytest.raises(NotPermitted, match="was used already"):
        tokens.redeem(text, JOIN)


@pytest.mark.parametrize(
    ("after", "good"),
    [(HOUR - timedelta(seconds=1), True), (HOUR, False), (HOUR * 2, False)],
    ids=["just before", "at the end", "after"],
)
def test_a_token_expires(tokens: JoinTokens, clock: Clock, after: timedelta, *, good: bool) -> None:
    text, _ = tokens.create(GRANT, HOUR)

    clock.now += after

    if good:
        assert tokens.redeem(text, JOIN) == GRANT
        return
    with pytest.raises(NotPermitted, match="expired 2026-03-01 13:00:00"):
        tokens.redeem(text, JOIN)


OTHER_JOINS = [
    (GRANT, Join("lab", "cart", "cart-1"), 'is for namespace "shop", not "lab"'),
    (GRANT, Join("shop", "web", "cart-1"), 'is for service account "cart", not "web"'),
    (
        Grant("shop", "cart", workload="cart-2"),
        JOIN,
        'is for workload "cart-2", not "cart-1"',
    ),
    (Grant("shop", "cart", service="web"), JOIN, 'is for service "web" only'),
]


@pytest.mark.parametrize(
    ("grant", "join", "message"), OTHER_JOINS, ids=[row[2] for row in OTHER_JOINS]
)
def test_a_token_is_bound(tokens: JoinTokens, grant: Grant, join: Join, message: str) -> None:
    """And a refused join takes no use."""
    text, _ = tokens.create(grant, HOUR)

    with pytest.raises(NotPermitted) as caught:
        tokens.redeem(text, join)

    assert message in str(caught.value)
    assert [token.uses_left for token in tokens.valid()] == [1]


@pytest.mark.parametrize(
    "grant", [Grant("shop", "cart", "cart"), Grant("shop", "cart", "cart-canary", "cart-1")]
)
def test_a_bound_token_is_good_for_what_it_names(tokens: JoinTokens, grant: Grant) -> None:
    text, _ = tokens.create(grant, HOUR)

    assert tokens.redeem(text, JOIN) == grant


def test_a_wrong_secret_tells_nothing(tokens: JoinTokens, clock: Clock) -> None:
    """Who does not hold the secret learns neither that the id exists nor that it expired."""
    text, token = tokens.create(GRANT, HOUR)
    clock.now += HOUR * 2
    wrong = [
        "",
        ".",
        token.id,
        f"{token.id}.",
        text[:-1],
        f"{text}x",
        f"{text}." + "x" * 1000,
        f"0000000000000000.{text.partition('.')[2]}",
        "../../etc.x",
        "\ud800.\ud800",
        f"{token.id}.\ud800",
    ]

    messages = set()
    for guess in wrong:
        with pytest.raises(NotPermitted) as caught:
            tokens.redeem(guess, JOIN)
        messages.add(str(caught.value))

    assert messages == {"join token: is not known here"}


def test_the_store_never_sees_the_secret(tokens: JoinTokens, documents: MemoryDocuments) -> None:
    text, _ = tokens.create(GRANT, HOUR)

    secret = text.partition(".")[2]

    assert len(secret) >= 43  # 256 bits in base64
    assert secret not in str(documents.stored)


def test_tokens_differ(tokens: JoinTokens) -> None:
    made = [tokens.create(GRANT, HOUR) for _ in range(50)]

    assert len({text.partition(".")[2] for text, _ in made}) == 50
    assert {token.id for _, token in made} == {token.id for token in tokens.valid()}


def test_a_revoked_token_is_unknown(tokens: JoinTokens) -> None:
    text, token = tokens.create(GRANT, HOUR)

    assert tokens.revoke(token.id)
    assert not tokens.revoke(token.id)
    assert not tokens.revoke("\ud800")
    with pytest.raises(NotPermitted, match="not known here"):
        tokens.redeem(text, JOIN)


def test_threads_share_a_token_in_the_real_store(tmp_path: Path, clock: Clock) -> None:
    with closing(Store(tmp_path / "mesh.db")) as store:
        tokens = JoinTokens(store.documents("token"), clock)
        text, token = tokens.create(GRANT, HOUR, 3)

        def join(_: int) -> bool:
            try:
                return tokens.redeem(text, JOIN) == GRANT
            except NotPermitted:
                return False

        with ThreadPoolExecutor(8) as threads:
            outcomes = list(threads.map(join, range(8)))

        assert sum(outcomes) == 3
        assert [left.uses_left for left in tokens.valid()] == [0]
        assert tokens.revoke(token.id)
        assert not tokens.revoke(token.id)


def test_expired_tokens_are_forgotten(
    tokens: JoinTokens, documents: MemoryDocuments, clock: Clock
) -> None:
    tokens.create(GRANT, HOUR)
    _, kept = tokens.create(GRANT, HOUR * 3)

    clock.now += HOUR

    assert tokens.valid() == [kept]
    assert tokens.forget_expired() == 1
    assert list(documents.stored) == [kept.id]


@pytest.mark.parametrize("uses", [0, -1, 100_001])
def test_uses_are_bounded(tokens: JoinTokens, uses: int) -> None:
    with pytest.raises(ValueError, match="1 to 100000"):
        tokens.create(GRANT, HOUR, uses)


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(days=366)], ids=str)
def test_lifetimes_are_bounded(tokens: JoinTokens, lifetime: timedelta) -> None:
    with pytest.raises(ValueError, match="up to 365 days"):
        tokens.create(GRANT, lifetime)


def test_many_threads_get_exactly_the_uses(tokens: JoinTokens, documents: MemoryDocuments) -> None:
    """All threads read the same revision at first, so most lose a race and try again."""
    threads_count, uses = 16, 5
    text, _ = tokens.create(GRANT, HOUR, uses)
    barrier = threading.Barrier(threads_count)
    read = documents.get
    waited = threading.local()

    def get_together(name: str) -> Document:
        found = read(name)
        if not getattr(waited, "done", False):
            waited.done = True
            barrier.wait()
        return found

    documents.get = get_together  # type: ignore[method-assign]
    outcomes: list[str] = []

    def join() -> None:
        try:
            tokens.redeem(text, JOIN)
            outcomes.append("joined")
        except NotPermitted:
            outcomes.append("refused")

    threads = [threading.Thread(target=join) for _ in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["joined"] * uses + ["refused"] * (threads_count - uses)
    assert documents.lost_races >= threads_count - 1
