"""What a change to one resource comes to: decided here, written by the store.

The rules are Kubernetes': a resource version that is given must be the current one; the status
is changed by `status` alone and left alone by everything else; `generation` counts changes of
what is asked for, not of labels or status; a change that changes nothing makes no revision.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple
from uuid import uuid4

from tulle.errors import AlreadyExists, Conflict, NotFound
from tulle.resources.model import Model, ObjectMeta, Resource, ResourceKey

Mode = Literal["apply", "create", "replace", "status"]
Action = Literal["created", "configured", "unchanged", "deleted"]


@dataclass(frozen=True, slots=True)
class Put:
    """Write a resource.

    `apply` creates it or takes the place of what is there; `create` and `replace` insist on one
    of the two; `status` changes the status of one that is there and nothing else.
    """

    resource: Resource
    mode: Mode = "apply"
    first_status: Model | None = None
    """The status that it begins with if it is created; else it is not looked at."""

    @property
    def key(self) -> ResourceKey:
        """What is written."""
        return self.resource.key


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a resource."""

    key: ResourceKey
    resource_version: str | None = None
    """Only if it is still at this one; None removes it as it is."""


Change = Put | Delete


class Outcome(NamedTuple):
    """What a change came to."""

    key: ResourceKey
    action: Action
    before: Resource | None
    """None if it was created."""
    after: Resource | None
    """As it is stored now, with all that the store adds; None if it was deleted."""


def decide(change: Change, before: Resource | None, revision: int, now: str) -> Outcome:
    """Return what *change* comes to.

    Args:
        change: what is asked for.
        before: what is stored under its key, or None.
        revision: that of the change, if it changes anything.
        now: RFC 3339, in UTC.

    Raises:
        Conflict: the resource version given is not that of *before*.
        NotFound: there is nothing to delete, replace or give a status.
        AlreadyExists: there is something where one is to be created.
    """
    expected = (
        change.resource.metadata.resource_version
        if isinstance(change, Put)
        else change.resource_version
    )
    if before is None:
        if expected or not isinstance(change, Put) or change.mode in ("replace", "status"):
            raise NotFound(f"{change.key} does not exist")
        return Outcome(change.key, "created", None, _created(change, revision, now))
    current = before.metadata.resource_version
    if expected and expected != current:
        raise Conflict(f"{change.key} is at resource version {current}, not {expected}")
    if isinstance(change, Delete):
        return Outcome(change.key, "deleted", before, None)
    if change.mode == "create":
        raise AlreadyExists(f"{change.key} exists already")
    after = _merged(change, before, revision)
    if after is None:
        return Outcome(change.key, "unchanged", before, before)
    return Outcome(change.key, "configured", before, after)


def _created(change: Put, revision: int, now: str) -> Resource:
    resource = change.resource
    stored = {
        "uid": str(uuid4()),
        "resource_version": str(revision),
        "generation": 1,
        "creation_timestamp": now,
    }
    metadata = _stored_metadata(resource.metadata, stored)
    return _with_status(resource.model_copy(update={"metadata": metadata}), change.first_status)


def _merged(change: Put, before: Resource, revision: int) -> Resource | None:
    """Return what is stored after *change* over *before*, or None if that is the same."""
    old = before.metadata
    if change.mode == "status":
        after = _with_status(before, change.resource.status)
    else:
        kept = {
            "uid": old.uid,
            "resource_version": old.resource_version,
            "generation": old.generation,
            "creation_timestamp": old.creation_timestamp,
        }
        metadata = _stored_metadata(change.resource.metadata, kept)
        asked = change.resource.model_copy(update={"metadata": metadata})
        after = _with_status(asked, before.status)
    if after.to_object() == before.to_object():
        return None
    grown = int(_asked_for(after) != _asked_for(before))
    stamps = {"resource_version": str(revision), "generation": (old.generation or 0) + grown}
    return after.model_copy(update={"metadata": after.metadata.model_copy(update=stamps)})


_PASSING: Final = frozenset(
    {
        "managed_fields",
        "self_link",
        "deletion_timestamp",
        "deletion_grace_period_seconds",
        "generate_name",
    }
)
"""Metadata that only means something where it came from; it is not kept."""


def _stored_metadata(metadata: ObjectMeta, values: dict[str, Any]) -> ObjectMeta:
    given = {
        field: getattr(metadata, field)
        for field in metadata.model_fields_set
        if field not in _PASSING
    }
    return type(metadata).model_construct(**(given | values))


def _with_status(resource: Resource, status: Model | None) -> Resource:
    copy = resource.model_copy(update={"status": status})
    if status is None:
        copy.model_fields_set.discard("status")
    return copy


def _asked_for(resource: Resource) -> dict[str, Any]:
    """Return all of *resource* but metadata and status."""
    return resource.model_dump(exclude={"metadata", "status"})
