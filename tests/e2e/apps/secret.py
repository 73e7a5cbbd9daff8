"""A TLS server that says its name; its certificate and key are in the file $CERTIFICATE."""

import asyncio
import os
import ssl


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client."""
    writer.write(os.environ["NAME"].encode() + b"\n")
    writer.close()


async def serve() -> None:
    """Serve until killed."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(os.environ["CERTIFICATE"])
    server = await asyncio.start_server(greet, "127.0.0.1", int(os.environ["PORT"]), ssl=tls)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
