"""HAProxy as a contender: one thread, keep-alive both ways, connections shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.contender import Hop

CONFIGURATION = """\
global
    nbthread 1
    maxconn 8192
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-server-options ssl-min-ver TLSv1.3
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 15s
    timeout http-keep-alive 60s
    http-reuse always
frontend in
    bind 127.0.0.1:{listen}{bind}
    default_backend application
backend application
    server one 127.0.0.1:{forward_to}{server}
"""


def command(hop: Hop) -> Sequence[str | Path]:
    """Return the command of one HAProxy."""
    bind = server = ""
    if hop.grpc:
        bind, server = " proto h2", " proto h2"
    if hop.tls_in is not None:
        bind = f" ssl crt {hop.tls_in.bundle} ca-file {hop.tls_in.roots} verify required"
    if hop.tls_out is not None:
        # It checks the chain alone: it cannot match a URI name.
        server = f" ssl crt {hop.tls_out.bundle} ca-file {hop.tls_out.roots} verify required"
    text = CONFIGURATION.format(
        listen=hop.listen, forward_to=hop.forward_to, bind=bind, server=server
    )
    return ["haproxy", "-db", "-q", "-f", hop.write("haproxy.cfg", text)]
