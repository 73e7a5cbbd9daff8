"""One SQLite file, opened by one process, used from any of its threads."""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tulle.errors import StoreError

SCHEMA_VERSION: Final = 1

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID, STRICT;
INSERT INTO meta VALUES ('revision', 0), ('compacted', 0);
CREATE TABLE resources (
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, object TEXT NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) WITHOUT ROWID, STRICT;
CREATE TABLE history (
    revision INTEGER PRIMARY KEY, type TEXT NOT NULL,
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    object TEXT NOT NULL, previous TEXT
) STRICT;
CREATE TABLE documents (
    kind TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID, STRICT;
"""


class Database:
    """A connection behind a lock; one transaction at a time."""

    def __init__(self, path: Path) -> None:
        """Open the database at *path*, making it (mode 0600) if there is none.

        Raises:
            StoreError: it cannot be opened, is of another version, or is open elsewhere.
        """
        self.path = path
        self.lock = threading.RLock()
        self.is_closed = False
        try:
            self._lock_file = _hold(path)
            try:
                self._connection = _open(path)
            except BaseException:
                os.close(self._lock_file)
                raise
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{path} cannot be opened: {error}") from error

    def close(self) -> None:
        """Close the file and let another process open it; closing twice does nothing."""
        with self.lock:
            if not self.is_closed:
                self.is_closed = True
                self._connection.close()
                os.close(self._lock_file)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Hold the lock and lend the connection.

        Raises:
            StoreError: it is closed, or SQLite refused.
        """
        with self.lock:
            if self.is_closed:
                raise StoreError(f"{self.path} is closed")
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise StoreError(f"{self.path} cannot be read or written: {error}") from error

    @contextmanager
    def writing(self, *, dry_run: bool = False) -> Iterator[sqlite3.Connection]:
        """Hold a transaction: on disk at the end, undone on any error and on a dry run.

        Raises:
            StoreError: it is closed, or SQLite refused.
        """
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("ROLLBACK" if dry_run else "COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


def _hold(path: Path) -> int:
    """Return a descriptor that holds the lock beside *path* as long as it is open.

    SQLite's own locks would let a second process write without the first one's watchers
    learning of it.
    """
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreError(f"{path} is open in another process") from error
    return descriptor


def _open(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables in a new file; refuse a file of another version."""
    connection.execute("BEGIN IMMEDIATE")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    elif version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} is of schema version {version}, this program's is {SCHEMA_VERSION}"
        )
    connection.execute("COMMIT")
