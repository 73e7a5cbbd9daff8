"""Requests at a fixed rate, over connections that stay open, with every failure kept."""

import http.client
import threading
import time
from typing import Self

CALL_SECONDS = 10.0


class Load:
    """GETs to *address* from the beginning of a `with` block to its end."""

    def __init__(self, address: str, per_second: int = 200, connections: int = 8) -> None:
        """Each connection sends its part of *per_second*, one request after the other."""
        self.failures: list[str] = []
        self.requests = 0
        self._address = address
        self._pause = connections / per_second
        self._ending = threading.Event()
        self._counting = threading.Lock()
        self._threads = [threading.Thread(target=self._send) for _ in range(connections)]

    def __enter__(self) -> Self:
        """Start."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop, and wait for the last answers."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=CALL_SECONDS)
        due = time.monotonic()
        while not self._ending.wait(max(0.0, due - time.monotonic())):
            due += self._pause
            self._note(self._one(connection))
        connection.close()

    def _one(self, connection: http.client.HTTPConnection) -> str | None:
        """Return what went wrong with a request, if anything did."""
        try:
            connection.request("GET", "/load")
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return repr(error)
        return None if response.status == 200 else f"{response.status} {body.decode()}"

    def _note(self, failure: str | None) -> None:
        with self._counting:
            self.requests += 1
            if failure is not None:
                self.failures.append(f"{time.strftime('%X')} {failure}")
