"""Documents: small JSON values beside the resources, such as join tokens.

They have versions of their own and are no part of the mesh: no revision, no watch.
"""

import json
from typing import Final, NamedTuple

from pydantic import JsonValue

from tulle.errors import Conflict, NotFound, StoreError
from tulle.mesh.database import Database

VALUE_LENGTH_MAX: Final = 64 * 1024


class Document(NamedTuple):
    """A value and the version that the next writer must know."""

    name: str
    version: int
    value: JsonValue


class Documents:
    """The documents of one kind."""

    def __init__(self, kind: str, database: Database) -> None:
        """Made by `Store.documents`."""
        self._kind = kind
        self._database = database

    def get(self, name: str) -> Document:
        """Return the document.

        Raises:
            NotFound: there is none of this name.
        """
        with self._database.reading() as database:
            row = database.execute(
                "SELECT version, value FROM documents WHERE (kind, name) = (?, ?)",
                (self._kind, name),
            ).fetchone()
        if row is None:
            raise NotFound(f"{self._kind} {name} does not exist")
        return Document(name, row[0], json.loads(row[1]))

    def all(self) -> tuple[Document, ...]:
        """Return every document of this kind by name."""
        with self._database.reading() as database:
            rows = database.execute(
                "SELECT name, version, value FROM documents WHERE kind = ? ORDER BY name",
                (self._kind,),
            ).fetchall()
        return tuple(Document(name, version, json.loads(value)) for name, version, value in rows)

    def put(self, name: str, value: JsonValue, expected: int | None = None) -> int:
        """Write the document and return its new version.

        Args:
            name: unique within the kind.
            value: takes the place of what is there.
            expected: the version that must be there now; 0 if there must be none; None if it
                does not matter.

        Raises:
            Conflict: another version is there.
            StoreError: the value is larger than `VALUE_LENGTH_MAX`.
        """
        text = json.dumps(value, separators=(",", ":"))
        if len(text) > VALUE_LENGTH_MAX:
            raise StoreError(f"{len(text)} characters are too many; at most {VALUE_LENGTH_MAX}")
        with self._database.writing() as database:
            version = self._check(name, expected) + 1
            database.execute(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)",
                (self._kind, name, version, text),
            )
        return version

    def delete(self, name: str, expected: int | None = None) -> None:
        """Remove the document.

        Raises:
            NotFound: there is none of this name.
            Conflict: it is not at the version *expected*.
        """
        with self._database.writing() as database:
            if self._check(name, expected) == 0:
                raise NotFound(f"{self._kind} {name} does not exist")
            database.execute(
                "DELETE FROM documents WHERE (kind, name) = (?, ?)", (self._kind, name)
            )

    def _check(self, name: str, expected: int | None) -> int:
        with self._database.reading() as database:
            row = database.execute(
                "SELECT version FROM documents WHERE (kind, name) = (?, ?)", (self._kind, name)
            ).fetchone()
        version = int(row[0]) if row else 0
        if expected is not None and expected != version:
            raise Conflict(f"{self._kind} {name} is at version {version}, not {expected}")
        return version
