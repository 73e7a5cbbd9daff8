"""What the calls under /tulle/v1 take, as models: checked here, described in OpenAPI from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tulle.control.bodies import BadBody

LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
FULL_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

Label = Annotated[str, Field(pattern=LABEL_PATTERN, max_length=63)]
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=253)]
FullName = Annotated[str, Field(pattern=FULL_NAME_PATTERN, max_length=317)]
HeaderPart = Annotated[str, Field(max_length=8192)]

TOKEN_TTL_S_MAX = 365 * 24 * 3600
TOKEN_USES_MAX = 100_000


class Body(BaseModel):
    """A JSON body: exact types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Query(BaseModel):
    """Query parameters: text that is read as the field's type, no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class ApplyBody(Body):
    """Resources to create or replace, all or none."""

    resources: list[dict[str, Any]]
    dry_run: bool = False
    """Tell what would happen, and change nothing."""


class Reference(Body):
    """The name of one object."""

    name: Name
    namespace: Label | None = None
    """None means `default`, for kinds that live in a namespace."""


class DeletedResource(Body):
    """One object to delete."""

    apiVersion: str  # noqa: N815  Kubernetes' own name
    kind: str
    metadata: Reference


class DeleteBody(Body):
    """Objects to delete, all or none; those that are not there are left out."""

    resources: list[DeletedResource]


class DiffBody(Body):
    """Resources to compare with what is there."""

    resources: list[dict[str, Any]]


class ResolveBody(Body):
    """A request to explain."""

    from_: FullName = Field(alias="from")
    """The caller: a workload or a service."""

    to: FullName
    """The service that is called."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port of the service; None means its first one."""

    method: Annotated[str, Field(pattern=r"^[A-Z]{1,32}$")] = "GET"
    path: Annotated[str, Field(pattern=r"^/", max_length=8192)] = "/"
    headers: Annotated[
        list[Annotated[list[HeaderPart], Field(min_length=2, max_length=2)]], Field(max_length=100)
    ] = []
    """Names and values, in order."""


class TokenBody(Body):
    """What a join token lets its holder become."""

    namespace: Label
    service_account: Name = "default"
    service: Name | None = None
    """Only workloads that this Service selects; None means any."""

    ttl_s: Annotated[int, Field(ge=1, le=TOKEN_TTL_S_MAX)] = 600
    uses: Annotated[int, Field(ge=1, le=TOKEN_USES_MAX)] = 1


class EdgesQuery(Query):
    """Which edges."""

    namespace: Label | None = None


class StatQuery(Query):
    """Which rows."""

    namespace: Label | None = None
    by: Literal["service", "workload", "route"] = "service"


class TapQuery(Query):
    """Which requests."""

    service: FullName | None = None
    method: Annotated[str, Field(pattern=r"^[A-Z]{1,32}$")] | None = None
    path: Annotated[str, Field(pattern=r"^/", max_length=8192)] | None = None
    """Prefix of the path."""

    status: Annotated[str, Field(pattern=r"^[1-5]([0-9][0-9]|xx)$")] | None = None
    denied: bool = False
    max: Annotated[int, Field(ge=1, le=100_000)] = 1000


Shape = TypeVar("Shape", bound=BaseModel)


def read(shape: type[Shape], value: Mapping[str, Any]) -> Shape:
    """Return *value* as *shape*.

    Raises:
        BadBody: it does not fit; the message names everything that is wrong.
    """
    try:
        return shape.model_validate(dict(value))
    except ValidationError as error:
        found = (
            f"{'.'.join(map(str, detail['loc']))}: {detail['msg'].lower()}"
            for detail in error.errors(include_url=False, include_context=False)
        )
        raise BadBody("; ".join(found)) from error
