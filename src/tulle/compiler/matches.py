"""Matches of routes as records, and how specific they are.

The order is that of the Gateway API (HTTPRouteRule, GRPCRouteRule): exact before regex
before prefix, longer first, then a method, then more headers, then more query parameters.
Where a regex stands is for implementations to choose: before prefixes, or else the
prefix "/" would hide it. A GRPCRoute compares lengths of service and method instead.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, NamedTuple, TypeVar

from tulle.record.service import Match, PathMatch, ValueMatch
from tulle.resources.grpcroute import GRPCMatch, GRPCMethodMatch
from tulle.resources.httproute import HeaderMatch, HTTPMatch, QueryParamMatch
from tulle.resources.httproute import PathMatch as WrittenPath

WrittenT = TypeVar("WrittenT", HeaderMatch, QueryParamMatch)

ANY = Match(path=None, method=None, headers=(), query=(), server_name=None)
"""Matches everything."""

_NAME_REGEX = "[^/]+"
"""Any gRPC service or method."""


class Specificity(NamedTuple):
    """How specific a match is: the greater one decides."""

    path: int
    """2 exact, 1 regex, 0 prefix or any; of a server name 2 whole, 0 wildcard."""
    length: int
    """Characters of the path, of the gRPC service, or of the server name."""
    method_length: int
    """Characters of the gRPC method; 0 for HTTP."""
    has_method: bool
    headers: int
    query: int


_PATH_TYPES: dict[str, tuple[Literal["exact", "prefix", "regex"], int]] = {
    "Exact": ("exact", 2),
    "RegularExpression": ("regex", 1),
    "PathPrefix": ("prefix", 0),
}


def http_match(match: HTTPMatch) -> tuple[Match, Specificity]:
    """Return *match* as the record has it, and how specific it is."""
    path, rank = _path(match.path)
    headers = _headers(match.headers)
    query = _first_of_each((param.name, param) for param in match.query_params)
    length = len(path.value.rstrip("/")) if path.type == "prefix" else len(path.value)
    return (
        Match(
            path=path,
            method=match.method,
            headers=headers,
            query=tuple(_value(name, param) for name, param in query),
            server_name=None,
        ),
        Specificity(rank, length, 0, match.method is not None, len(headers), len(query)),
    )


def grpc_match(match: GRPCMatch) -> tuple[Match, Specificity]:
    """Return *match* as the record has it, on the path of the call, and how specific it is."""
    headers = _headers(match.headers)
    path, rank = (None, 0) if match.method is None else _grpc_path(match.method)
    service = (match.method and match.method.service) or ""
    method = (match.method and match.method.method) or ""
    return (
        Match(path=path, method=None, headers=headers, query=(), server_name=None),
        Specificity(rank, len(service), len(method), False, len(headers), 0),
    )


def server_name_match(hostname: str) -> tuple[Match, Specificity]:
    """Return a match on the server name of TLS, and how specific it is."""
    rank = 0 if hostname.startswith("*") else 2
    return (
        replace(ANY, server_name=hostname),
        Specificity(rank, len(hostname), 0, has_method=False, headers=0, query=0),
    )


def _path(path: WrittenPath) -> tuple[PathMatch, int]:
    kind, rank = _PATH_TYPES[path.type]
    value = path.value
    if kind == "prefix":
        value = value.rstrip("/") or "/"
    return PathMatch(type=kind, value=value), rank


def _grpc_path(method: GRPCMethodMatch) -> tuple[PathMatch, int]:
    if method.type == "RegularExpression":
        service = f"(?:{method.service})" if method.service else _NAME_REGEX
        name = f"(?:{method.method})" if method.method else _NAME_REGEX
        return PathMatch(type="regex", value=f"/{service}/{name}"), 1
    if not method.service:
        return PathMatch(type="regex", value=f"/{_NAME_REGEX}/{re.escape(method.method or '')}"), 2
    if not method.method:
        return PathMatch(type="prefix", value=f"/{method.service}"), 2
    return PathMatch(type="exact", value=f"/{method.service}/{method.method}"), 2


def _headers(headers: tuple[HeaderMatch, ...]) -> tuple[ValueMatch, ...]:
    found = _first_of_each((header.name.lower(), header) for header in headers)
    return tuple(_value(name, header) for name, header in found)


def _value(name: str, written: HeaderMatch | QueryParamMatch) -> ValueMatch:
    return ValueMatch(
        name=name, type="exact" if written.type == "Exact" else "regex", value=written.value
    )


def _first_of_each(named: Iterable[tuple[str, WrittenT]]) -> list[tuple[str, WrittenT]]:
    """Drop conditions on a name that was given before: they do not count."""
    found: dict[str, WrittenT] = {}
    for name, condition in named:
        found.setdefault(name, condition)
    return list(found.items())
