"""Rules of routes as records: filters, weighted backends, timeouts, retries."""

from collections.abc import Sequence

from tulle.mesh.check import backend_problem
from tulle.mesh.mesh import Mesh, Route
from tulle.record.pairs import Pairs
from tulle.record.service import (
    Backend,
    Filter,
    PathModifier,
    Redirect,
    RequestHeaders,
    ResponseHeaders,
    Rewrite,
    RouteRetry,
    Rule,
    Timeouts,
)
from tulle.record.traffic import Traffic
from tulle.resources.filters import Filter as WrittenFilter
from tulle.resources.filters import GRPCFilter, Header, HeaderModifier
from tulle.resources.filters import PathModifier as WrittenModifier
from tulle.resources.grpcroute import GRPCBackendRef, GRPCRule
from tulle.resources.httproute import HTTPBackendRef, HTTPRetry, HTTPRule, HTTPTimeouts
from tulle.resources.parse import source_of
from tulle.resources.route import BackendRef
from tulle.resources.tcproute import TCPRule
from tulle.resources.tlsroute import TLSRule

WrittenRule = HTTPRule | GRPCRule | TLSRule | TCPRule


def compile_rules(mesh: Mesh, route: Route, traffic: Traffic) -> list[Rule]:
    """Return the rules of *route* in its order; *traffic* fills what a retry leaves open."""
    rules: tuple[WrittenRule, ...] = route.spec.rules
    return [
        Rule(
            route=str(route.object_name),
            rule=rule.name or str(index),
            source=source_of(route, f"spec.rules[{index}]"),
            filters=() if isinstance(rule, TLSRule | TCPRule) else _filters(rule.filters),
            backends=tuple(_backend(mesh, route, backend) for backend in rule.backend_refs),
            timeouts=_timeouts(rule.timeouts if isinstance(rule, HTTPRule) else None),
            retry=_retry(rule.retry if isinstance(rule, HTTPRule) else None, traffic),
        )
        for index, rule in enumerate(rules)
    ]


def _backend(mesh: Mesh, route: Route, backend: BackendRef) -> Backend:
    target = backend.target(route.metadata.namespace or "")
    problem = backend_problem(mesh, route, backend)
    return Backend(
        service=str(target.service),
        port=target.port,
        weight=backend.weight,
        labels=target.labels,
        filters=_filters(backend.filters)
        if isinstance(backend, HTTPBackendRef | GRPCBackendRef)
        else (),
        error=problem.message if problem else None,
    )


def _filters(written: Sequence[WrittenFilter | GRPCFilter]) -> tuple[Filter, ...]:
    return tuple(_filter(each) for each in written)


def _filter(written: WrittenFilter | GRPCFilter) -> Filter:
    """Return the one change that *written* holds."""
    if (change := written.request_header_modifier) is not None:
        return RequestHeaders(*_edit(change))
    if (change := written.response_header_modifier) is not None:
        return ResponseHeaders(*_edit(change))
    if isinstance(written, WrittenFilter):
        if (redirect := written.request_redirect) is not None:
            return Redirect(
                scheme=redirect.scheme,
                hostname=redirect.hostname,
                port=redirect.port,
                path=_modifier(redirect.path),
                status=redirect.status_code,
            )
        if (rewrite := written.url_rewrite) is not None:
            return Rewrite(hostname=rewrite.hostname, path=_modifier(rewrite.path))
    raise AssertionError(f"a filter of type {written.type} holds no change")


def _edit(change: HeaderModifier) -> tuple[Pairs, Pairs, tuple[str, ...]]:
    return _pairs(change.set), _pairs(change.add), tuple(name.lower() for name in change.remove)


def _pairs(headers: Sequence[Header]) -> Pairs:
    """Return *headers* with names in lower case, as HTTP/2 has them."""
    return tuple((header.name.lower(), header.value) for header in headers)


def _modifier(written: WrittenModifier | None) -> PathModifier | None:
    if written is None:
        return None
    if written.replace_full_path is not None:
        return PathModifier(type="full", value=written.replace_full_path)
    return PathModifier(type="prefix", value=written.replace_prefix_match or "")


def _timeouts(written: HTTPTimeouts | None) -> Timeouts:
    if written is None:
        return Timeouts(request_ms=None, backend_request_ms=None)
    return Timeouts(
        request_ms=None if written.request is None else written.request.ms,
        backend_request_ms=None if written.backend_request is None else written.backend_request.ms,
    )


def _retry(written: HTTPRetry | None, traffic: Traffic) -> RouteRetry | None:
    if written is None:
        return None
    return RouteRetry(
        attempts=traffic.retry.attempts if written.attempts is None else written.attempts,
        codes=written.codes,
        backoff_ms=(
            traffic.retry.backoff_base_ms if written.backoff is None else written.backoff.ms
        ),
    )
