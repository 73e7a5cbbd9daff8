"""HAProxy as a contender: one thread, keep-alive both ways, connections shared, splice."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.contender import Hop

BUFFER = 16 * 1024
LONG_BUFFER = 64 * 1024
"""Takes a third off bodies of 1 MiB, and adds a tenth to requests without one."""

CONFIGURATION = """\
global
    nbthread 1
    maxconn 4096
    tune.bufsize {buffer}
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-server-options ssl-min-ver TLSv1.3
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
    mode {mode}
    option splice-auto
    timeout connect 1s
    timeout client 60s
    timeout server 15s
    timeout http-keep-alive 60s
{reuse}frontend in
    bind 127.0.0.1:{listen}{bind}
    default_backend application
backend application
    server one 127.0.0.1:{forward_to}{server}
"""


def command(hop: Hop, *, h2: bool = False) -> Sequence[str | Path]:
    """Return the command of one HAProxy; with *h2* a pair speaks HTTP/2 between its proxies."""
    bind = server = ""
    alpn = " alpn h2" if h2 else ""
    if hop.grpc:
        bind, server = " proto h2", " proto h2"
    if hop.tls_in is not None:
        bind = f" ssl crt {hop.tls_in.bundle} ca-file {hop.tls_in.roots} verify required{alpn}"
    if hop.tls_out is not None:
        # It checks the chain alone: it cannot match a URI name.
        server = f" ssl crt {hop.tls_out.bundle} ca-file {hop.tls_out.roots} verify required{alpn}"
    text = CONFIGURATION.format(
        buffer=LONG_BUFFER if hop.long else BUFFER,
        mode="tcp" if hop.tcp else "http",
        reuse="" if hop.tcp else "    http-reuse always\n",
        listen=hop.listen,
        forward_to=hop.forward_to,
        bind=bind,
        server=server,
    )
    return ["haproxy", "-db", "-q", "-f", hop.write("haproxy.cfg", text)]
