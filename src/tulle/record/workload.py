"""What a sidecar enforces on the traffic that comes in to its own workload.

A request is denied when a deny policy matches it; else allowed when an allow policy
matches it; else denied when there is any allow policy; else `default` decides.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tulle.record.pairs import Strings

MtlsMode: TypeAlias = Literal["strict", "permissive", "disable"]


@dataclass(frozen=True, slots=True)
class From:
    """Who calls: every list that is not empty must hold.

    Patterns are exact, "abc*", "*abc" or "*"; a principal is a SPIFFE id without "spiffe://".
    """

    principals: Strings
    not_principals: Strings
    namespaces: Strings
    not_namespaces: Strings


@dataclass(frozen=True, slots=True)
class To:
    """What is called: every list that is not empty must hold."""

    methods: Strings
    not_methods: Strings
    paths: Strings
    not_paths: Strings
    ports: tuple[int, ...]
    not_ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AuthRule:
    """Any of `from_` and any of `to`; an empty list is no condition."""

    source: str | None
    from_: tuple[From, ...]
    to: tuple[To, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """Matches a request when one of its rules does; without rules it matches none."""

    name: str
    action: Literal["allow", "deny"]
    rules: tuple[AuthRule, ...]


@dataclass(frozen=True, slots=True)
class Authorization:
    """The policies of a workload, deny before allow, then by name."""

    default: Literal["allow", "deny"]
    policies: tuple[Policy, ...]


@dataclass(frozen=True, slots=True)
class WorkloadRecord:
    """One workload's inbound rules; `port_mtls` overrides `mtls` for a port of the app."""

    namespace: str
    name: str
    service_account: str
    mtls: MtlsMode
    port_mtls: tuple[tuple[int, MtlsMode], ...]
    authorization: Authorization
    kind: Literal["workload"] = "workload"
