"""A resolver that knows `world.example` and `nas`, and answers everything else with NXDOMAIN."""

import os
import socketserver
import struct

KNOWN = b"\x05world\x07example\0", b"\x03nas\0"
A = b"\0\x01"
ADDRESS = bytes(map(int, os.environ["ADDRESS"].split(".")))


def answer(query):
    end = query.index(b"\0", 12) + 5
    known = query[12:].lower().startswith(KNOWN)
    counts = 1, int(known and query[end - 4 : end - 2] == A), 0, 0
    head = query[:2] + struct.pack(">HHHHH", 0x8180 if known else 0x8183, *counts)
    record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04" + ADDRESS
    return head + query[12:end] + record * counts[1]


class Datagram(socketserver.BaseRequestHandler):
    """A question by UDP."""

    def handle(self):
        query, socket = self.request
        socket.sendto(answer(query), self.client_address)


class Stream(socketserver.StreamRequestHandler):
    """Questions by TCP."""

    def handle(self):
        while size := self.rfile.read(2):
            reply = answer(self.rfile.read(int.from_bytes(size, "big")))
            self.wfile.write(len(reply).to_bytes(2, "big") + reply)


if __name__ == "__main__":
    from threading import Thread

    socketserver.ThreadingTCPServer.allow_reuse_address = True
    tcp = socketserver.ThreadingTCPServer(("", 53), Stream)
    Thread(target=tcp.serve_forever, daemon=True).start()
    socketserver.ThreadingUDPServer(("", 53), Datagram).serve_forever()
