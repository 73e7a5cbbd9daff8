"""A WebSocket server on HTTP/1.1 that sends each message back, and says who it is."""

import os
from collections.abc import Sequence
from http import HTTPStatus

from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol


def echo(connection: ServerConnection) -> None:
    """Answer until the client leaves; `close` makes the server leave."""
    for message in connection:
        if message == "close":
            connection.close(4001, "asked to")
            return
        connection.send(message)


def refuse(connection: ServerConnection, request: Request) -> Response | None:
    """Some paths are not for everybody."""
    if request.path.startswith("/refuse"):
        return connection.respond(HTTPStatus.FORBIDDEN, "no\n")
    return None


def chosen(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Take the first that is offered, if any."""
    return next(iter(offered), None)


def named(connection: ServerConnection, request: Request, response: Response) -> None:
    """Say who answers, and that no body follows a switch, as some do."""
    response.headers["x-app"] = os.environ["NAME"]
    response.headers["x-query"] = request.path
    if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
        response.headers["content-length"] = "0"


if __name__ == "__main__":
    with serve(
        echo,
        "127.0.0.1",
        int(os.environ["PORT"]),
        process_request=refuse,
        process_response=named,
        select_subprotocol=chosen,
        max_size=None,
    ) as server:
        server.serve_forever()
