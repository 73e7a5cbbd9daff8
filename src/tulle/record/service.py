"""What a client's sidecar knows about one service: its ports, their routes and their rules.

A client in namespace N uses the table whose `consumer_namespace` is N, else the one
where it is `None`; with neither, it forwards to the service itself. In a table the
first entry that matches decides, and no match at all is a 404.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tulle.record.pairs import Pairs, Strings
from tulle.record.traffic import Traffic

Protocol: TypeAlias = Literal["http", "http2", "grpc", "tcp", "auto"]
"""What is spoken on a port; auto: nobody said, each connection shows it."""
TableKind: TypeAlias = Literal["http", "grpc", "tls", "tcp"]


@dataclass(frozen=True, slots=True)
class PathMatch:
    """A condition on the path; a regex must match the whole of it."""

    type: Literal["exact", "prefix", "regex"]
    value: str


@dataclass(frozen=True, slots=True)
class ValueMatch:
    """A condition on a header (name in lower case) or on a query parameter."""

    name: str
    type: Literal["exact", "regex"]
    value: str


@dataclass(frozen=True, slots=True)
class Match:
    """Conditions that must all hold; `None` or empty holds for every request.

    `server_name` is that of a TLS connection: a whole name, or "*.suffix".
    """

    path: PathMatch | None
    method: str | None
    headers: tuple[ValueMatch, ...]
    query: tuple[ValueMatch, ...]
    server_name: str | None


@dataclass(frozen=True, slots=True)
class PathModifier:
    """Replace the full path, or the prefix that the entry's match named."""

    type: Literal["full", "prefix"]
    value: str


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """Change the headers of the request: set, then add, then remove."""

    set: Pairs
    add: Pairs
    remove: Strings
    type: Literal["request_headers"] = "request_headers"


@dataclass(frozen=True, slots=True)
class ResponseHeaders:
    """Change the headers of the response: set, then add, then remove."""

    set: Pairs
    add: Pairs
    remove: Strings
    type: Literal["response_headers"] = "response_headers"


@dataclass(frozen=True, slots=True)
class Redirect:
    """Answer with a redirect; `None` keeps that part of the request's own URL."""

    scheme: Literal["http", "https"] | None
    hostname: str | None
    port: int | None
    path: PathModifier | None
    status: int
    type: Literal["redirect"] = "redirect"


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Change host or path towards the backend; `None` leaves it as it came."""

    hostname: str | None
    path: PathModifier | None
    type: Literal["rewrite"] = "rewrite"


Filter: TypeAlias = RequestHeaders | ResponseHeaders | Redirect | Rewrite


@dataclass(frozen=True, slots=True)
class Backend:
    """A service to forward to, narrowed to the endpoints that carry *labels*.

    `error` says why the backend cannot be used; its share of requests answers 500.
    """

    service: str
    port: int
    weight: int
    labels: dict[str, str]
    filters: tuple[Filter, ...]
    error: str | None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """A rule's own timeouts: 0 switches off, `None` leaves it to the service's traffic policy."""

    request_ms: int | None
    backend_request_ms: int | None


@dataclass(frozen=True, slots=True)
class RouteRetry:
    """A rule's own retries: how many after the first try, on which status codes."""

    attempts: int
    codes: tuple[int, ...]
    backoff_ms: int


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to a request; `rule` is its name in the route, or else its number there.

    `source` is "file:line" of the rule where its writer told it.
    """

    route: str
    rule: str
    source: str | None
    filters: tuple[Filter, ...]
    backends: tuple[Backend, ...]
    timeouts: Timeouts
    retry: RouteRetry | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One match and the index of its rule in the table's `rules`."""

    match: Match
    rule: int


@dataclass(frozen=True, slots=True)
class Table:
    """The routes of one port for one kind of client, most specific entry first."""

    consumer_namespace: str | None
    kind: TableKind
    entries: tuple[Entry, ...]
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Port:
    """One port of the service; without tables, requests go to the service itself."""

    number: int
    name: str | None
    protocol: Protocol
    tables: tuple[Table, ...]


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """The routes and the traffic policy of one service."""

    namespace: str
    name: str
    addresses: tuple[str, ...]
    """Stand for the service where traffic is intercepted; IPv4 and IPv6."""
    ports: tuple[Port, ...]
    traffic: Traffic
    kind: Literal["service"] = "service"
