"""A TCP server that speaks first: its name, then everything it gets, until the client ends."""

import asyncio
import os


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client."""
    writer.write(os.environ["NAME"].encode() + b"\n")
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return
    finally:
        writer.close()


async def serve() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(greet, "127.0.0.1", int(os.environ["PORT"]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
