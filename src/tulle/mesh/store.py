"""The store: every resource, every change a revision, in one SQLite file.

A commit is a batch of changes that happens whole or not at all. It has reached the disk
(write-ahead log, synchronous=FULL) when `commit` returns, so a process killed at any point
loses nothing that was acknowledged. Each change in a batch takes the next revision; watchers
are given a batch whole.

What changed is kept for `history_max` revisions, with what was there before, so that a watcher
can go on from a revision and a list can be had as it was at one. Older ones are Gone.

What an earlier version has written and the rules of this one refuse is given as an `Aside`; only
what cannot be read at all makes reading fail.

One process opens a store at a time; within it every method may be called from any thread.
"""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple

from tulle.errors import Gone, InvalidResources, NotFound, StoreError
from tulle.mesh.change import Change, Outcome, decide
from tulle.mesh.database import Database
from tulle.mesh.documents import Documents
from tulle.resources.aside import set_aside
from tulle.resources.model import Resource, ResourceKey
from tulle.resources.parse import parse_object

HISTORY_MAX: Final = 10_000
"""Some minutes of a busy mesh: long enough for any watcher that is still alive."""
BATCH_MAX: Final = 10_000
"""Changes of one commit."""


def utc_now() -> str:
    """Return the time as Kubernetes writes it: RFC 3339, whole seconds, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Event(NamedTuple):
    """One change. A deleted resource is given as it was last, at the revision of its end."""

    revision: int
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    resource: Resource


class Listing(NamedTuple):
    """Resources as they were at a revision, by kind, namespace and name."""

    revision: int
    resources: tuple[Resource, ...]


class Commit(NamedTuple):
    """What a batch came to. Of a dry run the revision is the one it started from."""

    revision: int
    outcomes: tuple[Outcome, ...]


class Store:
    """Resources in one SQLite file; see the module's docstring."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], str] = utc_now,
        history_max: int = HISTORY_MAX,
    ) -> None:
        """Open the store at *path*, making it (mode 0600) if there is none.

        Args:
            path: the database; `-wal`, `-shm` and `.lock` stand beside it.
            clock: returns now as RFC 3339 in UTC.
            history_max: revisions that a watch can go back.

        Raises:
            StoreError: it cannot be opened, is of another version, or is open elsewhere.
        """
        self._clock = clock
        self._history_max = history_max
        self._database = Database(path)
        self._changed = threading.Condition(self._database.lock)
        self._listeners: list[Callable[[int], None]] = []

    def close(self) -> None:
        """Close the file; every watch ends."""
        with self._changed:
            self._database.close()
            self._changed.notify_all()

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    @property
    def revision(self) -> int:
        """The revision of the last change; 0 of a new store."""
        with self._database.reading() as database:
            return _meta(database, "revision")

    def get(self, key: ResourceKey) -> Resource:
        """Return the resource of this key.

        Raises:
            NotFound: there is none.
        """
        with self._database.reading() as database:
            text = _stored(database, key)
        if text is None:
            raise NotFound(f"{key} does not exist")
        return self._parse(key, text)

    def list(
        self,
        kind: str | None = None,
        namespace: str | None = None,
        revision: int | None = None,
    ) -> Listing:
        """Return resources as they are, or as they were at *revision*.

        None means every kind, every namespace, now.

        Raises:
            Gone: *revision* is older than the history that is kept.
            NotFound: *revision* has not been reached.
            StoreError: resources are damaged; all of them are named.
        """
        with self._database.reading() as database:
            at = _meta(database, "revision")
            rows = {
                ResourceKey(*key): text
                for *key, text in database.execute(
                    "SELECT kind, namespace, name, object FROM resources"
                    " WHERE kind = coalesce(?1, kind) AND namespace = coalesce(?2, namespace)",
                    (kind, namespace),
                )
            }
            if revision is not None:
                _check_kept(database, revision)
                at = revision
                for *key, previous in database.execute(
                    "SELECT kind, namespace, name, previous FROM history WHERE revision > ?3"
                    " AND kind = coalesce(?1, kind) AND namespace = coalesce(?2, namespace)"
                    " ORDER BY revision DESC",
                    (kind, namespace, revision),
                ):
                    if previous is None:
                        del rows[ResourceKey(*key)]
                    else:
                        rows[ResourceKey(*key)] = previous
        return Listing(at, self._parse_all((key, rows[key]) for key in sorted(rows)))

    def commit(self, changes: Sequence[Change], *, dry_run: bool = False) -> Commit:
        """Make *changes*, in order, all or none; return what each came to.

        With *dry_run* nothing is written, but everything is decided.

        Raises:
            Conflict: an object is not at the resource version that its change expects.
            NotFound: an object to replace or delete is not there.
            AlreadyExists: an object to create is there.
            StoreError: the database refused, or there are more than `BATCH_MAX` changes.
        """
        if len(changes) > BATCH_MAX:
            raise StoreError(f"{len(changes)} changes are too many; at most {BATCH_MAX}")
        outcomes = []
        with self._database.writing(dry_run=dry_run) as database:
            start = revision = _meta(database, "revision")
            now = self._clock()
            for change in changes:
                text = _stored(database, change.key)
                before = None if text is None else self._parse(change.key, text)
                outcome = decide(change, before, revision + 1, now)
                if outcome.action != "unchanged":
                    revision += 1
                    _write(database, outcome, text, revision)
                outcomes.append(outcome)
            if revision != start:
                _set_meta(database, "revision", revision)
                _compact(database, revision - self._history_max)
        if dry_run:
            return Commit(start, tuple(outcomes))
        if revision != start:
            self._announce(revision)
        return Commit(revision, tuple(outcomes))

    def events(self, after: int) -> tuple[Event, ...]:
        """Return every change after the revision *after*, oldest first.

        Raises:
            Gone: *after* is older than the history that is kept.
            NotFound: *after* has not been reached.
        """
        with self._database.reading() as database:
            _check_kept(database, after)
            rows = database.execute(
                "SELECT revision, type, kind, namespace, name, object FROM history"
                " WHERE revision > ? ORDER BY revision",
                (after,),
            ).fetchall()
        resources = self._parse_all((ResourceKey(*key), text) for _, _, *key, text in rows)
        return tuple(
            Event(row[0], row[1], resource) for row, resource in zip(rows, resources, strict=True)
        )

    def wait_events(self, after: int, timeout_s: float) -> tuple[Event, ...]:
        """Return every change after *after*; wait for one if there is none yet.

        Empty when *timeout_s* passed without one. Raises as `events` does, and StoreError when
        the store is closed meanwhile.
        """

        def has_changed() -> bool:
            if self._database.is_closed:
                return True
            with self._database.reading() as database:
                return _meta(database, "revision") > after

        with self._changed:
            self._changed.wait_for(has_changed, timeout_s)
        return self.events(after)

    def listen(self, listener: Callable[[int], None]) -> Callable[[], None]:
        """Call *listener* with the new revision after each commit; return what stops it.

        It is called on the thread that committed and must return at once. Two commits at the
        same time may be told in either order.
        """
        with self._changed:
            self._listeners.append(listener)

        def stop() -> None:
            with self._changed:
                self._listeners.remove(listener)

        return stop

    def documents(self, kind: str) -> Documents:
        """Return the documents of *kind*: small values that are not part of the mesh."""
        return Documents(kind, self._database)

    def check_integrity(self) -> None:
        """Let SQLite look at every page.

        Raises:
            StoreError: something is wrong with the file.
        """
        with self._database.reading() as database:
            answer = database.execute("PRAGMA integrity_check").fetchone()[0]
        if answer != "ok":
            raise StoreError(f"{self._database.path} is damaged: {answer}")

    def _parse(self, key: ResourceKey, text: str) -> Resource:
        """Return the resource of a stored text, which may be set aside.

        Raises:
            StoreError: it is damaged.
        """
        where = f"{self._database.path}: {key} is damaged"
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{where}: {error}") from error
        try:
            return parse_object(value)
        except InvalidResources as error:
            aside = set_aside(key, value, error.violations)
            if aside is None:
                raise StoreError(f"{where}: {error}") from error
            return aside

    def _parse_all(self, stored: Iterable[tuple[ResourceKey, str]]) -> tuple[Resource, ...]:
        """As `_parse` for each; names all that is damaged."""
        resources: list[Resource] = []
        damaged: list[str] = []
        for key, text in stored:
            try:
                resources.append(self._parse(key, text))
            except StoreError as error:
                damaged.append(str(error))
        if damaged:
            raise StoreError("\n".join(damaged))
        return tuple(resources)

    def _announce(self, revision: int) -> None:
        with self._changed:
            self._changed.notify_all()
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener(revision)


def _stored(database: sqlite3.Connection, key: ResourceKey) -> str | None:
    row = database.execute(
        "SELECT object FROM resources WHERE (kind, namespace, name) = (?, ?, ?)", key
    ).fetchone()
    return None if row is None else str(row[0])


def _write(
    database: sqlite3.Connection, outcome: Outcome, previous: str | None, revision: int
) -> None:
    """Write what *outcome* says, and its entry of the history."""
    key = outcome.key
    if outcome.after is not None:
        type_ = "ADDED" if previous is None else "MODIFIED"
        text = json.dumps(outcome.after.to_object(), separators=(",", ":"))
        database.execute("INSERT OR REPLACE INTO resources VALUES (?, ?, ?, ?)", (*key, text))
    else:
        type_ = "DELETED"
        last = json.loads(previous or "")
        last["metadata"]["resourceVersion"] = str(revision)
        text = json.dumps(last, separators=(",", ":"))
        database.execute("DELETE FROM resources WHERE (kind, namespace, name) = (?, ?, ?)", key)
    database.execute(
        "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?)",
        (revision, type_, *key, text, previous),
    )


def _compact(database: sqlite3.Connection, oldest: int) -> None:
    """Forget the history up to the revision *oldest*."""
    if oldest > _meta(database, "compacted"):
        database.execute("DELETE FROM history WHERE revision <= ?", (oldest,))
        _set_meta(database, "compacted", oldest)


def _check_kept(database: sqlite3.Connection, revision: int) -> None:
    oldest, newest = _meta(database, "compacted"), _meta(database, "revision")
    if revision < oldest:
        raise Gone(f"revision {revision} is no longer kept; the oldest is {oldest}")
    if revision > newest:
        raise NotFound(f"revision {revision} has not been reached; the newest is {newest}")


def _meta(database: sqlite3.Connection, name: str) -> int:
    row = database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return int(row[0])


def _set_meta(database: sqlite3.Connection, name: str, value: int) -> None:
    database.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))
