"""The store: every change a revision, batches whole, watches from any revision kept."""

import json
import re
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tulle.errors import Conflict, Gone, NotFound, StoreError
from tulle.mesh.change import Delete, Put
from tulle.mesh.store import BATCH_MAX, Store
from tulle.resources.aside import Aside
from tulle.resources.model import Resource, ResourceKey
from tulle.resources.parse import parse_object

MakeService = Callable[..., Resource]
CART = ResourceKey("Service", "shop", "cart")


def _ports(store: Store, revision: int | None = None) -> dict[str, int]:
    listing = store.list("Service", "shop", revision)
    return {
        resource.metadata.name: resource.to_object()["spec"]["ports"][0]["port"]
        for resource in listing.resources
    }


def test_a_new_store_is_empty_at_revision_0(store: Store) -> None:
    assert store.revision == 0
    assert store.list().resources == ()
    assert store.events(0) == ()


def test_every_change_takes_the_next_revision(store: Store, service: MakeService) -> None:
    commit = store.commit([Put(service("cart")), Put(service("web"))])

    versions = [
        outcome.after.metadata.resource_version for outcome in commit.outcomes if outcome.after
    ]
    assert (commit.revision, versions) == (2, ["1", "2"])
    assert store.revision == 2


def test_what_is_read_is_what_the_commit_returned(store: Store, service: MakeService) -> None:
    (outcome,) = store.commit([Put(service())]).outcomes

    assert store.get(CART) == outcome.after
    assert store.list("Service").resources == (outcome.after,)
    assert store.list("HTTPRoute").resources == ()
    assert store.list("Service", "web").resources == ()


def test_one_refused_change_undoes_its_batch(store: Store, service: MakeService) -> None:
    store.commit([Put(service("cart"))])

    with pytest.raises(Conflict, match="Service shop/cart is at resource version 1, not 7"):
        store.commit([Put(service("web")), Put(service(port=81, more=", resourceVersion: '7'"))])

    assert _ports(store) == {"cart": 80}
    assert store.revision == 1


def test_a_dry_run_decides_and_writes_nothing(store: Store, service: MakeService) -> None:
    store.commit([Put(service("cart"))])

    commit = store.commit([Put(service("cart", 81)), Put(service("web"))], dry_run=True)

    assert [outcome.action for outcome in commit.outcomes] == ["configured", "created"]
    assert (commit.revision, store.revision, _ports(store)) == (1, 1, {"cart": 80})


def test_changes_of_one_batch_see_each_other(store: Store, service: MakeService) -> None:
    commit = store.commit([Put(service()), Put(service(port=81)), Delete(CART), Put(service())])

    assert [o.action for o in commit.outcomes] == ["created", "configured", "deleted", "created"]
    assert commit.revision == 4


def test_nothing_changed_makes_no_revision(store: Store, service: MakeService) -> None:
    store.commit([Put(service())])

    commit = store.commit([Put(service())])

    assert (commit.revision, commit.outcomes[0].action) == (1, "unchanged")


def test_a_batch_has_a_bound(store: Store) -> None:
    with pytest.raises(StoreError, match="10001 changes are too many; at most 10000"):
        store.commit([Delete(CART)] * (BATCH_MAX + 1))


def test_events_tell_each_change_in_order(store: Store, service: MakeService) -> None:
    store.commit([Put(service())])
    store.commit([Put(service(port=81))])
    store.commit([Delete(CART)])

    events = store.events(0)

    assert [(e.revision, e.type) for e in events] == [(1, "ADDED"), (2, "MODIFIED"), (3, "DELETED")]
    assert [e.resource.metadata.resource_version for e in events] == ["1", "2", "3"]
    assert events[2].resource.to_object()["spec"] == events[1].resource.to_object()["spec"]
    assert store.events(2) == events[2:]
    assert store.events(3) == ()


def test_a_list_is_had_as_it_was_at_a_revision(store: Store, service: MakeService) -> None:
    store.commit([Put(service("cart"))])
    store.commit([Put(service("cart", 81)), Put(service("web"))])
    store.commit([Delete(CART)])
    store.commit([Put(service("cart", 82))])

    history = [_ports(store, revision) for revision in range(6)]

    assert history == [
        {},
        {"cart": 80},
        {"cart": 81},
        {"cart": 81, "web": 80},
        {"web": 80},
        {"cart": 82, "web": 80},
    ]


def test_history_past_its_bound_is_gone(store: Store, service: MakeService) -> None:
    for port in range(1, 13):
        store.commit([Put(service(port=port))])

    assert [event.revision for event in store.events(2)] == list(range(3, 13))
    assert _ports(store, 2) == {"cart": 2}
    with pytest.raises(Gone, match="revision 1 is no longer kept; the oldest is 2"):
        store.events(1)
    with pytest.raises(Gone):
        store.list(revision=1)


def test_a_revision_of_the_future_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="revision 1 has not been reached; the newest is 0"):
        store.events(1)


def test_a_waiter_is_woken_by_a_commit(store: Store, service: MakeService) -> None:
    seen: list[int] = []
    waiter = threading.Thread(
        target=lambda: seen.extend(e.revision for e in store.wait_events(0, timeout_s=30))
    )
    waiter.start()

    store.commit([Put(service("cart")), Put(service("web"))])
    waiter.join(30)

    assert seen == [1, 2], "a batch is given whole"


def test_a_wait_ends_at_its_time_or_with_the_store(store: Store) -> None:
    assert store.wait_events(0, timeout_s=0.01) == ()

    ended: list[str] = []

    def wait() -> None:
        try:
            store.wait_events(0, timeout_s=30)
        except StoreError as error:
            ended.append(str(error))

    waiter = threading.Thread(target=wait)
    waiter.start()
    store.close()
    waiter.join(30)

    assert ended[0].endswith("store.db is closed")


def test_a_listener_hears_each_commit_until_it_stops(store: Store, service: MakeService) -> None:
    heard: list[int] = []
    stop = store.listen(heard.append)

    store.commit([Put(service("cart")), Put(service("web"))])
    store.commit([Put(service("cart"))])
    store.commit([Put(service("cart", 81))], dry_run=True)
    stop()
    store.commit([Delete(CART)])

    assert heard == [2]


def test_writers_of_many_threads_lose_nothing(store: Store, service: MakeService) -> None:
    """Each of four threads adds one to the port fifty times by compare-and-set."""
    store.commit([Put(service(port=1))])

    def count_up() -> None:
        for _ in range(50):
            while True:
                found = store.get(CART)
                value = found.to_object()
                value["spec"]["ports"][0]["port"] += 1
                try:
                    store.commit([Put(parse_object(value), "replace")])
                    break
                except Conflict:
                    continue

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert _ports(store) == {"cart": 201}
    assert store.revision == 201


def test_a_reopened_store_goes_on_where_it_was(tmp_path: Path, service: MakeService) -> None:
    first = Store(tmp_path / "a.db")
    first.commit([Put(service())])
    before = first.get(CART)
    first.close()

    again = Store(tmp_path / "a.db")

    assert again.get(CART) == before
    assert [event.resource for event in again.events(0)] == [before]
    assert again.commit([Put(service("web"))]).revision == 2
    again.close()


def test_only_its_owner_can_read_the_files(
    store: Store, tmp_path: Path, service: MakeService
) -> None:
    store.commit([Put(service())])

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}

    assert modes == dict.fromkeys(
        ("store.db", "store.db-wal", "store.db-shm", "store.db.lock"), 384
    )


def test_a_file_made_readable_is_closed_again(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    Store(path).close()
    path.chmod(0o644)

    Store(path).close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_store_is_open_once_at_a_time(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"store\.db is open in another process"):
        Store(tmp_path / "store.db")

    store.close()
    Store(tmp_path / "store.db").close()


@pytest.mark.parametrize("content", [b"not a database" * 100, b"\0" * 5000])
def test_what_is_no_store_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(content)

    with pytest.raises(StoreError, match=r"a\.db cannot be opened: "):
        Store(path)

    assert path.read_bytes() == content


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    Store(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(StoreError, match="is of schema version 99, this program's is 1"):
        Store(path)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none/a\.db cannot be opened: .*No such file"):
        Store(tmp_path / "none" / "a.db")


def _rewrite(path: Path, name: str, text: str) -> None:
    """Put what the rules refuse, or no object at all, into the store's file."""
    connection = sqlite3.connect(path)
    for table in ("resources", "history"):
        connection.execute(f"UPDATE {table} SET object = ? WHERE name = ?", (text, name))
    connection.commit()
    connection.close()


def _refused(store: Store, name: str = "cart") -> str:
    """Return what the Service is stored as, without its ports."""
    found = store.get(ResourceKey("Service", "shop", name)).to_object()
    return json.dumps(found | {"spec": {"ports": []}})


def test_what_the_rules_refuse_now_is_set_aside_as_it_is(
    store: Store, service: MakeService
) -> None:
    store.commit([Put(service("cart")), Put(service("web"))])
    written = _refused(store)
    _rewrite(store.path, "cart", written)

    listed = store.list().resources

    assert [type(one).__name__ for one in listed] == ["Aside", "Service"]
    for found in (store.get(CART), listed[0], store.events(0)[0].resource):
        assert isinstance(found, Aside)
        assert found.to_object() == json.loads(written)
        assert found.problem == "spec.ports: is empty; at least one port"


def test_what_is_set_aside_can_be_replaced_and_deleted(store: Store, service: MakeService) -> None:
    store.commit([Put(service("cart")), Put(service("web"))])
    for name in ("cart", "web"):
        _rewrite(store.path, name, _refused(store, name))

    web = ResourceKey("Service", "shop", "web")
    made = store.commit([Put(service("cart", 81)), Delete(web)])

    assert [outcome.action for outcome in made.outcomes] == ["configured", "deleted"]
    assert _ports(store) == {"cart": 81}
    assert store.get(CART).metadata.generation == 2
    assert [event.type for event in store.events(2)] == ["MODIFIED", "DELETED"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", r"Expecting property name.*"),
        ("[" * 100_000, "maximum recursion depth .*"),
        ("[]", "a list is not a resource; a mapping with kind"),
        (
            '{"apiVersion": "v1", "kind": "Servise", "metadata": {"name": "cart"}}',
            'Servise cart: kind: "Servise" is not known.*',
        ),
        (
            '{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}',
            "Service default/web: spec: is required",
        ),
    ],
)
def test_all_that_cannot_be_read_is_named_at_once(
    store: Store, service: MakeService, text: str, why: str
) -> None:
    store.commit([Put(service("cart")), Put(service("other")), Put(service("web"))])
    _rewrite(store.path, "cart", text)
    _rewrite(store.path, "web", "")

    for read in (store.list, lambda: store.events(0)):
        with pytest.raises(StoreError) as raised:
            read()

        first, second = str(raised.value).splitlines()
        where = re.escape(str(store.path))
        assert re.fullmatch(rf"{where}: Service shop/cart is damaged: {why}", first)
        assert re.fullmatch(rf"{where}: Service shop/web is damaged: Expecting value.*", second)
    assert store.get(ResourceKey("Service", "shop", "other")).metadata.name == "other"


def test_sqlite_finds_nothing_wrong(store: Store, service: MakeService) -> None:
    store.commit([Put(service())])

    store.check_integrity()
