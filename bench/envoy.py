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
CONNECTION_MANAGER = f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"


def command(hop: Hop) -> Sequence[str | Path]:
    """Return the command of one Envoy."""
    document = {"static_resources": {"listeners": [_listener(hop)], "clusters": [_cluster(hop)]}}
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


def _listener(hop: Hop) -> dict[str, Any]:
    manager = {
        "@type": CONNECTION_MANAGER,
        "stat_prefix": "in",
        "codec_type": "HTTP2" if hop.grpc else "HTTP1",
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
    chain: dict[str, Any] = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ]
    }
    if hop.tls_in is not None:
        chain["transport_socket"] = _tls("Downstream", hop.tls_in, "client", hop)
        chain["transport_socket"]["typed_config"]["require_client_certificate"] = True
    return {"name": "in", "address": _address(hop.listen), "filter_chains": [chain]}


def _cluster(hop: Hop) -> dict[str, Any]:
    cluster: dict[str, Any] = {
        "name": "application",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "application",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(hop.forward_to)}}]}],
        },
    }
    if hop.grpc:
        options = f"{TYPES}.upstreams.http.v3.HttpProtocolOptions"
        cluster["typed_extension_protocol_options"] = {
            options.partition("/")[2]: {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    if hop.tls_out is not None:
        cluster["transport_socket"] = _tls("Upstream", hop.tls_out, "server", hop)
    return cluster


def _tls(direction: str, own: Side, peer: str, hop: Hop) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TYPES}.transport_sockets.tls.v3.{direction}TlsContext",
            "common_tls_context": {
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
