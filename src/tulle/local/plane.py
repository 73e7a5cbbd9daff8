"""The control plane of this machine: how it is started, and the few calls that the runner makes."""

import http.client
import json
import socket
import sys
from pathlib import Path
from typing import Any

from tulle.errors import (
    Conflict,
    InvalidResources,
    NotFound,
    NotPermitted,
    TulleError,
    Unreachable,
    Violation,
)

CALL_SECONDS = 10.0
"""On one machine an answer takes milliseconds; this bounds a control plane that hangs."""

TOKEN_SECONDS = 300
"""A token waits in a pipe for a sidecar that is already running."""


def server_command(
    data_dir: Path, hub: str, trust_domain: str, certificate_ttl: str
) -> tuple[str, ...]:
    """Return the command line of the control plane that keeps its data in *data_dir*."""
    return (
        *(sys.executable, "-m", "tulle", "server"),
        *("--data-dir", str(data_dir)),
        *("--hub", hub),
        *("--trust-domain", trust_domain),
        *("--certificate-ttl", certificate_ttl),
    )


class Plane:
    """The control plane's API over its Unix socket. Calls block; one connection each."""

    def __init__(self, api_socket: Path) -> None:
        """Talk to the API at *api_socket*."""
        self._socket = api_socket

    def is_ready(self) -> bool:
        """Tell whether it answers and says that it is ready."""
        try:
            return self._request("GET", "/readyz", None)[0] == 200
        except Unreachable:
            return False

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Return the JSON answer.

        Raises:
            Unreachable: nobody answers.
            InvalidResources: what was sent is refused, with every violation.
            TulleError: any other refusal, in the control plane's words.
        """
        status, data = self._request(method, path, body)
        answer = json.loads(data) if data else {}
        if status < 300:
            return answer
        if "violations" in answer:
            raise InvalidResources(_violation(one) for one in answer["violations"])
        kind = {403: NotPermitted, 404: NotFound, 409: Conflict}.get(status, TulleError)
        said = answer.get("message") or answer.get("error") or data.decode(errors="replace")
        raise kind(f"{method} {path}: {status} {said}")

    def apply(self, resources: list[dict[str, Any]]) -> None:
        """Create or change *resources*, all or none."""
        self.call("POST", "/tulle/v1/apply", {"resources": resources, "dry_run": False})

    def holds(self, resource: dict[str, Any]) -> bool:
        """Tell whether there is a Namespace or Service of *resource*'s name already."""
        name, namespace = resource["metadata"]["name"], resource["metadata"].get("namespace")
        path = f"{namespace}/services/{name}" if resource["kind"] == "Service" else name
        try:
            self.call("GET", f"/api/v1/namespaces/{path}")
        except NotFound:
            return False
        return True

    def new_token(self, namespace: str, service_account: str) -> str:
        """Return a token that lets one sidecar join under this identity, once."""
        body = {
            "namespace": namespace,
            "service_account": service_account,
            "service": None,
            "ttl_s": TOKEN_SECONDS,
            "uses": 1,
        }
        token: str = self.call("POST", "/tulle/v1/tokens", body)["token"]
        return token

    def _request(self, method: str, path: str, body: object) -> tuple[int, bytes]:
        connection = _UnixConnection(self._socket)
        headers = {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"no control plane answers at {self._socket} ({error}); start it with: tulle up"
            ) from None
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=CALL_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(CALL_SECONDS)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


def _violation(one: dict[str, Any]) -> Violation:
    return Violation(
        resource=one["resource"],
        path=one["path"],
        message=one["message"],
        allowed=one["allowed"] or "",
        line=one.get("line"),
        column=one.get("column"),
        file=one.get("file"),
    )
