"""nginx as a contender: one worker, keep-alive both ways, no access log, bodies streamed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.contender import Hop

CONFIGURATION = """\
daemon off;
pid {folder}/nginx.pid;
error_log stderr error;
worker_processes 1;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_buffer_size 64k;
    proxy_request_buffering off;
    proxy_buffers 8 64k;
    proxy_max_temp_file_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream application {{
        server 127.0.0.1:{forward_to};
        keepalive 2048;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{listen}{options} backlog=4096;
{tls_in}        location / {{
            {forward}
{tls_out}        }}
    }}
}}
"""

HTTP1 = """proxy_pass http{s}://application;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;"""

TLS_IN = """\
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        ssl_certificate {side.chain};
        ssl_certificate_key {side.key};
        ssl_client_certificate {side.roots};
        ssl_verify_client on;
"""

TLS_OUT = """\
            proxy_ssl_protocols TLSv1.3;
            proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
            proxy_ssl_certificate {side.chain};
            proxy_ssl_certificate_key {side.key};
            proxy_ssl_trusted_certificate {side.roots};
            proxy_ssl_verify on;
            proxy_ssl_name server;
"""


def command(hop: Hop) -> Sequence[str | Path]:
    """Return the command of one nginx."""
    options = " http2" if hop.grpc else " ssl" if hop.tls_in else ""
    forward = "grpc_pass grpc://application;" if hop.grpc else HTTP1
    text = CONFIGURATION.format(
        folder=hop.folder,
        listen=hop.listen,
        forward_to=hop.forward_to,
        options=options,
        forward=forward.replace("{s}", "s" if hop.tls_out else ""),
        tls_in=TLS_IN.format(side=hop.tls_in) if hop.tls_in else "",
        tls_out=TLS_OUT.format(side=hop.tls_out) if hop.tls_out else "",
    )
    return ["nginx", "-p", hop.folder, "-c", hop.write("nginx.conf", text)]
