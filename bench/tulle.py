"""Tulle as a contender: one worker, every step on, records without a control plane.

One hop is the outbound side: match the route, edit headers, balance, limits, retry budget,
timeouts, outlier watch, telemetry. In the pair the inbound side adds mTLS and authorization.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.certificates import TRUST_DOMAIN, identity_of
from tulle.record.codec import decode, encode
from tulle.sidecar.launch import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.contender import Hop

SERVICE = "bench/echo"
SERVICE_PORT = 80
APPLICATION_PORT = 8080
"""The number the workload knows its application's port by; it listens elsewhere."""


def command(hop: Hop, tool: Sequence[str | Path] = (), *, workers: int = 1) -> Sequence[str | Path]:
    """Return the command of one engine's host, run by *tool* (a profiler) when one is given."""
    side = "server" if hop.role == "server" else "client"
    own = hop.site.sides[side]
    hop.write("settings.json", json.dumps(_settings(hop, side, workers)))
    hop.write("chain.pem", own.chain.read_text())
    hop.write("key.pem", own.key.read_text())
    hop.write("roots.pem", own.roots.read_text())
    records = _records(hop, side, own.roots.read_text())
    for number, record in enumerate(records.values()):
        hop.write(f"record-{number}.json", _canonical(record))
    hop.write(
        "records.txt",
        "".join(f"{name} record-{number}.json\n" for number, name in enumerate(records)),
    )
    host = Path(__file__).with_name("tulle_host.py")
    lean = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
    return ["env", *lean, *tool, sys.executable, "-I", "-S", host, packages(), hop.folder]


def packages() -> Path:
    """Return the directory that holds the package with its engine."""
    engine = importlib.util.find_spec("tulle._engine")
    assert engine is not None, "the engine is built before the benchmark runs"
    assert engine.origin is not None, "the engine is a file"
    return Path(engine.origin).parent.parent


def _canonical(record: dict[str, Any]) -> str:
    """Return the bytes the control plane would publish; a record it could not make is refused."""
    return encode(decode(json.dumps(record).encode())).decode()


def _settings(hop: Hop, side: str, workers: int) -> dict[str, Any]:
    inbound = {
        "port": APPLICATION_PORT,
        "protocol": "tcp" if hop.tcp else "http",
        "listen": f"127.0.0.1:{hop.listen}",
        "app": f"127.0.0.1:{hop.forward_to}",
        "proxy_protocol": False,
    }
    outbound = {
        "service": SERVICE,
        "port": SERVICE_PORT,
        "listen": f"127.0.0.1:{hop.listen}",
    }
    return {
        "workload": {
            "namespace": "bench",
            "name": f"{side}-1",
            "service_account": side,
            "labels": {},
            "zone": None,
        },
        "trust_domain": TRUST_DOMAIN,
        "inbound": [inbound] if side == "server" else [],
        "outbound": [outbound] if side == "client" else [],
        "proxy_listen": None,
        "admin_listen": "127.0.0.1:0",
        "control": None,
        "state_dir": None,
        "probe": None,
        "workers": workers,
        "access_log": "off",
        "access_log_path": None,
        "drain_seconds": 1,
        "reason_header": True,
    }


def _records(hop: Hop, side: str, roots_pem: str) -> dict[str, dict[str, Any]]:
    records = {
        f"trust/{TRUST_DOMAIN}": {
            "kind": "trust",
            "domain": TRUST_DOMAIN,
            "roots_pem": [roots_pem],
        },
        f"workload/bench/{side}-1": _workload(hop, side),
    }
    if side == "client":
        records[f"service/{SERVICE}"] = _service(
            "grpc" if hop.grpc else "tcp" if hop.tcp else "http"
        )
        records[f"endpoints/{SERVICE}"] = _endpoints(hop)
    return records


def _service(protocol: str) -> dict[str, Any]:
    return {
        "kind": "service",
        "namespace": "bench",
        "name": "echo",
        "addresses": [],
        "ports": [
            {
                "number": SERVICE_PORT,
                "name": protocol,
                "protocol": protocol,
                "tables": [] if protocol == "tcp" else [_table(protocol)],
            }
        ],
        "traffic": {
            "policy": None,
            "source": None,
            "load_balancer": "p2c_ewma",
            # 32 handshakes at once, when callgrind makes each fifty times as slow.
            "connect_timeout_ms": 5000,
            "request_timeout_ms": 15000,
            "per_try_timeout_ms": 0,
            "idle_timeout_ms": 3_600_000,
            "proxy_protocol": False,
            "retry": {
                "attempts": 2,
                "on": ["connect-failure", "reset", "unavailable"],
                "codes": [],
                "grpc_statuses": [],
                "backoff_base_ms": 25,
                "backoff_max_ms": 250,
            },
            "retry_budget": {"percent": 20, "min_per_second": 10},
            "limits": {"connections": 4096, "pending": 4096, "requests": 4096},
            "outlier": {
                "consecutive_failures": 5,
                "base_ejection_ms": 1000,
                "max_ejection_ms": 10000,
                "max_ejected_percent": 50,
            },
        },
    }


def _table(protocol: str) -> dict[str, Any]:
    """Return a route table in which the benchmark's requests take the second of three rules."""
    path = "/bench.Echo" if protocol == "grpc" else "/api/v1"
    return {
        "consumer_namespace": None,
        "kind": protocol,
        "entries": [
            {
                "match": _match(path, [{"name": "x-canary", "type": "exact", "value": "1"}]),
                "rule": 0,
            },
            {"match": _match(path, []), "rule": 1},
            {"match": _match("/", []), "rule": 2},
        ],
        "rules": [_rule(number) for number in ("0", "1", "2")],
    }


def _match(prefix: str, headers: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "path": {"type": "prefix", "value": prefix},
        "method": None,
        "headers": headers,
        "query": [],
        "server_name": None,
    }


def _rule(name: str) -> dict[str, Any]:
    return {
        "route": "bench/echo",
        "rule": name,
        "source": None,
        "filters": [
            {"type": "request_headers", "set": [["x-route", name]], "add": [], "remove": []}
        ],
        "backends": [
            {
                "service": SERVICE,
                "port": SERVICE_PORT,
                "weight": 100,
                "labels": {},
                "filters": [],
                "error": None,
            }
        ],
        "timeouts": {"request_ms": None, "backend_request_ms": None},
        "retry": None,
    }


def _endpoints(hop: Hop) -> dict[str, Any]:
    return {
        "kind": "endpoints",
        "namespace": "bench",
        "name": "echo",
        "endpoints": [
            {
                "workload": "bench/server-1",
                "address": "127.0.0.1",
                "ports": [[SERVICE_PORT, hop.forward_to]],
                "identity": identity_of("server"),
                "labels": {},
                "zone": None,
                "tls": hop.tls_out is not None,
            }
        ],
    }


def _workload(hop: Hop, side: str) -> dict[str, Any]:
    client = _who(principals=[identity_of("client").removeprefix("spiffe://")])
    if hop.tcp:  # a rule about paths or methods would hold for every connection
        policies = [_policy("clients", "allow", client, _what(ports=[APPLICATION_PORT]))]
    else:
        called = _what(methods=["GET", "POST"], ports=[APPLICATION_PORT])
        policies = [
            _policy("no-admin", "deny", _who(namespaces=["*"]), _what(paths=["/admin*"])),
            _policy("clients", "allow", client, called),
        ]
    return {
        "kind": "workload",
        "namespace": "bench",
        "name": f"{side}-1",
        "service_account": side,
        "mtls": "strict",
        "port_mtls": [],
        "authorization": {
            "default": "deny",
            "policies": policies,
        },
    }


def _policy(name: str, action: str, who: dict[str, Any], what: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"bench/{name}",
        "action": action,
        "rules": [{"source": None, "from": [who], "to": [what]}],
    }


def _who(**given: list[str]) -> dict[str, Any]:
    fields = ("principals", "not_principals", "namespaces", "not_namespaces")
    return {field: given.get(field, []) for field in fields}


def _what(**given: list[Any]) -> dict[str, Any]:
    fields = ("methods", "not_methods", "paths", "not_paths", "ports", "not_ports")
    return {field: given.get(field, []) for field in fields}
