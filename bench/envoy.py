"""Envoy as a contender: one worker, dynamic statistics and request ids off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import envoy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.certificates import Side
    from bench.contender import Hop

TYPES = "type.googleapis.com/envoy.extensions"
SESSIONS = 64
CONNECTION_MANAGER = f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"


def command(hop: Hop, *, h2: bool = False) -> Sequence[str | Path]:
    """Return the command of one Envoy; with *h2* a pair speaks HTTP/2 between its proxies."""
    document = {
        "static_resources": {
            "listeners": [_listener(hop, h2=h2 and hop.tls_in is not None)],
            "clusters": [_cluster(hop, h2=h2 and hop.tls_out is not None)],
        }
    }
    path = hop.write("envoy.json", json.dumps(document, indent=1))
    return [
        binary(),
        *("--config-path", path),
        *("--concurrency", "1"),
        *("--log-level", "warn"),
        "--disable-hot-restart",
    ]


def binary() -> Path:
    """Return the program inside the wheel, without the Python script around it."""
    return Path(str(envoy.__file__)).parent / "_bin" / "envoy"


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(hop: Hop, *, h2: bool) -> dict[str, Any]:
    chain: dict[str, Any] = {
        "filters": [_tcp_proxy() if hop.tcp else _connection_manager(h2=h2 or hop.grpc)]
    }
    if hop.tls_in is not None:
        chain["transport_socket"] = _tls("Downstream", hop.tls_in, "client", hop, h2=h2)
        chain["transport_socket"]["typed_config"]["require_client_certificate"] = True
    return {"name": "in", "address": _address(hop.listen), "filter_chains": [chain]}


def _tcp_proxy() -> dict[str, Any]:
    proxy = {
        "@type": f"{TYPES}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "in",
        "cluster": "application",
    }
    return {"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}


def _connection_manager(*, h2: bool) -> dict[str, Any]:
    manager = {
        "@type": CONNECTION_MANAGER,
        "stat_prefix": "in",
        "codec_type": "HTTP2" if h2 else "HTTP1",
        "generate_request_id": False,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {"cluster": "application", "timeout": "15s"},
                        }
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{TYPES}.filters.http.router.v3.Router",
                    "dynamic_stats": False,
                },
            }
        ],
    }
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager,
    }


def _cluster(hop: Hop, *, h2: bool) -> dict[str, Any]:
    cluster: dict[str, Any] = {
        "name": "application",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "application",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(hop.forward_to)}}]}],
        },
    }
    if h2 or hop.grpc:
        options = f"{TYPES}.upstreams.http.v3.HttpProtocolOptions"
        cluster["typed_extension_protocol_options"] = {
            options.partition("/")[2]: {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    if hop.tls_out is not None:
        cluster["transport_socket"] = _tls("Upstream", hop.tls_out, "server", hop, h2=h2)
        # One is the default; it shows each once.
        cluster["transport_socket"]["typed_config"]["max_session_keys"] = SESSIONS
    return cluster


def _tls(direction: str, own: Side, peer: str, hop: Hop, *, h2: bool) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TYPES}.transport_sockets.tls.v3.{direction}TlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2"] if h2 else [],
                "tls_params": {
                    "tls_minimum_protocol_version": "TLSv1_3",
                    "tls_maximum_protocol_version": "TLSv1_3",
                },
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(own.chain)},
                        "private_key": {"filename": str(own.key)},
                    }
                ],
                "validation_context": {
                    "trusted_ca": {"filename": str(own.roots)},
                    "match_typed_subject_alt_names": [
                        {
                            "san_type": "URI",
                            "matcher": {"exact": hop.site.sides[peer].identity},
                        }
                    ],
                },
            },
        },
    }
