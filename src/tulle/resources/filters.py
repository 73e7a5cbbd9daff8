"""Filters: what a rule or a backend changes about a request or a response on its way."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from tulle.resources.model import Model
from tulle.resources.values import (
    HeaderName,
    HeaderValue,
    PortNumber,
    PreciseHostname,
    is_authority,
    wrong,
)
from tulle.resources.violations import Location, Problems

HEADERS_MAX: Final = 16
PATH_LENGTH_MAX: Final = 1024
_PATH = re.compile(r"([A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
"""What a path is made of (RFC 3986 section 3.3): anything else would end it, or needs an escape."""
_OF_MESSAGE: Final = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    }
)
"""Fields that frame a message or concern one connection: the sidecar alone writes them."""


def _replacement(value: str) -> str:
    if len(value) > PATH_LENGTH_MAX:
        raise wrong(f"{len(value)} characters are too many", f"at most {PATH_LENGTH_MAX}")
    if not _PATH.fullmatch(value):
        raise wrong(f'"{value}" is not a path', "letters, digits, %XX and -._~!$&'()*+,;=:@/")
    if value and not value.startswith("/"):
        raise wrong(f'"{value}" is not absolute', "empty, or a path that starts with /")
    if any(segment in (".", "..") for segment in value.split("/")):
        raise wrong(f'"{value}" has a segment that names another', "no . and .. between slashes")
    return value


Replacement = Annotated[str, AfterValidator(_replacement)]


class Header(Model):
    """One header field."""

    name: HeaderName
    """Compared without regard to case."""
    value: HeaderValue
    """Taken as it stands."""


class HeaderModifier(Model):
    """Changes of header fields; each name may stand in one list only, and once."""

    set: Annotated[tuple[Header, ...], Field(max_length=HEADERS_MAX)] = ()
    """Replace every value of the field, or create it."""
    add: Annotated[tuple[Header, ...], Field(max_length=HEADERS_MAX)] = ()
    """Append a value to the field, or create it."""
    remove: Annotated[tuple[HeaderName, ...], Field(max_length=HEADERS_MAX)] = ()
    """Drop the field."""

    @model_validator(mode="after")
    def _one_action_per_header(self) -> "HeaderModifier":
        problems = Problems()
        seen: set[str] = set()
        actions: list[tuple[Location, str]] = [
            *((("set", i, "name"), header.name) for i, header in enumerate(self.set)),
            *((("add", i, "name"), header.name) for i, header in enumerate(self.add)),
            *((("remove", i), name) for i, name in enumerate(self.remove)),
        ]
        for where, name in actions:
            if name.lower() in seen:
                problems.add(where, f'"{name}" is changed twice', "one action per header name")
            if name.lower() in _OF_MESSAGE or name.lower().startswith("x-tulle-"):
                problems.add(where, f'"{name}" is the sidecar\'s own', "another header")
            if name.lower() == "host" and where[0] != "set":
                problems.add(where, f'"{name}" stands in a request once', "set it")
            seen.add(name.lower())
        for i, header in enumerate(self.set):
            if header.name.lower() == "host" and not is_authority(header.value):
                where = ("set", i, "value")
                problems.add(
                    where, f'"{header.value}" is not a host', "a name or address, and a port"
                )
        if not actions:
            problems.add((), "changes nothing", "set, add or remove")
        problems.raise_any()
        return self


class PathModifier(Model):
    """A new path: all of it, or what the rule's prefix matched."""

    type: Literal["ReplaceFullPath", "ReplacePrefixMatch"]
    """Which of the two fields below is given."""
    replace_full_path: Replacement | None = None
    """The whole new path; the query stays."""
    replace_prefix_match: Replacement | None = None
    """What takes the place of the matched prefix, element by element."""

    @model_validator(mode="after")
    def _type_fits(self) -> "PathModifier":
        problems = Problems()
        fields = {
            "ReplaceFullPath": ("replaceFullPath", self.replace_full_path),
            "ReplacePrefixMatch": ("replacePrefixMatch", self.replace_prefix_match),
        }
        for kind, (field, value) in fields.items():
            if (kind == self.type) != (value is not None):
                word = "is required" if kind == self.type else "does not fit"
                problems.add((field,), f"{word} for type {self.type}", f"type {kind} has {field}")
        problems.raise_any()
        return self


class RequestRedirect(Model):
    """Answers with a Location; the request goes to no backend."""

    scheme: Literal["http", "https"] | None = None
    """That of the request if not given."""
    hostname: PreciseHostname | None = None
    """That of the request if not given."""
    path: PathModifier | None = None
    """That of the request if not given."""
    port: PortNumber | None = None
    """The scheme's own port if `scheme` is given, else the Service's port that was called."""
    status_code: Literal[301, 302, 303, 307, 308] = 302
    """The answer's status."""


class URLRewrite(Model):
    """Changes host or path towards the backend; the caller does not see it."""

    hostname: PreciseHostname | None = None
    """The Host the backend sees."""
    path: PathModifier | None = None
    """The path the backend sees."""


class Filter(Model):
    """One change; `type` tells which of the other fields is given."""

    type: Literal[
        "RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite"
    ]
    """Names the field that holds the change."""
    request_header_modifier: HeaderModifier | None = None
    """Changes the header fields that the backend sees."""
    response_header_modifier: HeaderModifier | None = None
    """Changes the header fields that the caller sees."""
    request_redirect: RequestRedirect | None = None
    """Answers with a Location."""
    url_rewrite: URLRewrite | None = None
    """Changes host or path towards the backend."""

    @model_validator(mode="after")
    def _type_fits(self) -> "Filter":
        check_filter_type(
            self.type,
            {
                "RequestHeaderModifier": ("requestHeaderModifier", self.request_header_modifier),
                "ResponseHeaderModifier": ("responseHeaderModifier", self.response_header_modifier),
                "RequestRedirect": ("requestRedirect", self.request_redirect),
                "URLRewrite": ("urlRewrite", self.url_rewrite),
            },
        )
        return self

    @property
    def path(self) -> PathModifier | None:
        """The path modifier of a redirect or a rewrite, if it has one."""
        change = self.request_redirect or self.url_rewrite
        return change.path if change else None


class GRPCFilter(Model):
    """One change of a gRPC call; `type` tells which of the other fields is given."""

    type: Literal["RequestHeaderModifier", "ResponseHeaderModifier"]
    """Names the field that holds the change."""
    request_header_modifier: HeaderModifier | None = None
    """Changes the metadata that the backend sees."""
    response_header_modifier: HeaderModifier | None = None
    """Changes the metadata that the caller sees."""

    @model_validator(mode="after")
    def _type_fits(self) -> "GRPCFilter":
        check_filter_type(
            self.type,
            {
                "RequestHeaderModifier": ("requestHeaderModifier", self.request_header_modifier),
                "ResponseHeaderModifier": ("responseHeaderModifier", self.response_header_modifier),
            },
        )
        return self


def check_filter_type(type_: str, bodies: dict[str, tuple[str, Any]]) -> None:
    """Check that the body of *type_* is given and no other.

    Raises:
        PydanticCustomError: it is not so.
    """
    problems = Problems()
    for owner, (field, body) in bodies.items():
        if owner == type_ and body is None:
            problems.add((field,), f"is required for type {type_}", f"{field}: …")
        elif owner != type_ and body is not None:
            problems.add((field,), f"does not fit type {type_}", f"only with type {owner}")
    problems.raise_any()


def check_filters(
    filters: Sequence[Filter] | Sequence[GRPCFilter], where: Location, problems: Problems
) -> None:
    """Note filters that repeat or exclude each other in the list at *where*."""
    types = [filter_.type for filter_ in filters]
    for index, type_ in enumerate(types):
        if type_ in types[:index]:
            problems.add((*where, index, "type"), f"{type_} is given twice", "each type once")
    if "RequestRedirect" in types and "URLRewrite" in types:
        problems.add(
            (*where, types.index("URLRewrite"), "type"),
            "URLRewrite and RequestRedirect exclude each other",
            "one of them",
        )
