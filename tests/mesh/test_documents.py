"""Documents: small values with compare-and-set."""

import pytest

from tulle.errors import Conflict, NotFound, StoreError
from tulle.mesh.documents import VALUE_LENGTH_MAX, Document
from tulle.mesh.store import Store


def test_a_document_is_read_as_it_was_written(store: Store) -> None:
    tokens = store.documents("token")

    version = tokens.put("a", {"uses": 1, "for": ["shop", None]})

    assert tokens.get("a") == Document("a", version, {"uses": 1, "for": ["shop", None]})
    assert tokens.all() == (tokens.get("a"),)
    assert store.documents("lease").all() == ()
    assert store.revision == 0, "documents are no part of the mesh"


def test_a_writer_must_know_the_version(store: Store) -> None:
    tokens = store.documents("token")
    first = tokens.put("a", 1, expected=0)

    with pytest.raises(Conflict, match="token a is at version 1, not 0"):
        tokens.put("a", 2, expected=0)
    second = tokens.put("a", 2, expected=first)
    with pytest.raises(Conflict, match="token a is at version 2, not 1"):
        tokens.delete("a", expected=first)
    tokens.delete("a", expected=second)

    assert tokens.all() == ()


def test_what_is_not_there_is_not_found(store: Store) -> None:
    tokens = store.documents("token")

    with pytest.raises(NotFound, match="token a does not exist"):
        tokens.get("a")
    with pytest.raises(NotFound, match="token a does not exist"):
        tokens.delete("a")


def test_a_document_has_a_bound(store: Store) -> None:
    tokens = store.documents("token")

    tokens.put("a", "x" * (VALUE_LENGTH_MAX - 2))
    with pytest.raises(StoreError, match="65537 characters are too many; at most 65536"):
        tokens.put("a", "x" * (VALUE_LENGTH_MAX - 1))
