"""An HTTP server that answers with its name and the address it is called from; IPv4 and IPv6."""

import os
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Listens on IPv4 as well."""

    address_family = socket.AF_INET6

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Handler(BaseHTTPRequestHandler):
    """Answers any GET."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        address = self.client_address[0].removeprefix("::ffff:")
        body = f"{os.environ['NAME']} {address} {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        return


if __name__ == "__main__":
    with Server(("::", int(os.environ["PORT"])), Handler) as server:
        server.serve_forever()
