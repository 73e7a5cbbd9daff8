"""A mesh of fifty sidecars: what they and the control plane weigh, how fast a change reaches all.

usage: python -m bench.mesh [--sidecars N] [--changes N]

Real processes: one `tulle server`, N `tulle sidecar`. A change is a new target for a redirect; it
is in force in a sidecar when that sidecar's own listener answers with it, so nothing the control
plane believes is taken for granted. Time runs from the moment the change is sent to the API.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import signal
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bench import process
from bench.goals import GOALS
from bench.process import START_SECONDS_MAX, StartError
from bench.report import Report, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.process import Process

NAMESPACE = "bench"
SETTLE_SECONDS = 3.0
"""How long everything is left alone before its memory is read."""
CHANGE_SECONDS_MAX = 5.0
KIB_PER_MIB = 1024
CONTENDER = "tulle"
REQUEST = b"GET /old HTTP/1.1\r\nhost: echo.bench\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Api:
    """The control plane's REST API on its Unix socket."""

    path: Path

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send *body* as JSON and return the answer.

        Raises:
            StartError: the control plane refused it.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.path))
            client = http.client.HTTPConnection("localhost", timeout=10)
            client.sock = connection
            client.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = client.getresponse()
            answer = response.read()
        if response.status >= 300:
            raise StartError(f"{path}: {response.status} {answer.decode()}")
        document: dict[str, Any] = json.loads(answer)
        return document


@dataclass(frozen=True, slots=True)
class Sidecar:
    """One sidecar and a keep-alive connection to its listener."""

    process: Process
    connection: socket.socket

    def redirects_to(self, path: str) -> bool:
        """Ask the sidecar, and return whether it redirects to *path* now."""
        self.connection.sendall(REQUEST)
        for line in self.connection.recv(4096).decode().split("\r\n"):
            name, _, value = line.partition(":")
            if name.lower() == "location":
                return urlsplit(value.strip()).path == path
        return False


def main() -> int:
    """Start the mesh, measure it, add the rows to the results; 1 when a goal was missed."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped
    count = options.sidecars
    report = Report()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tulle-mesh-")))
        server, described = _start_server(directory, stack)
        api = Api(Path(described["socket"]))
        api.post("/tulle/v1/apply", {"resources": _resources("/0")})
        sidecars = _start_sidecars(count, described, api, directory, stack)
        times_ms = [_change(api, sidecars, number) for number in range(1, options.changes + 1)]
        time.sleep(SETTLE_SECONDS)
        weights = [sidecar.process.rss_kib() / KIB_PER_MIB for sidecar in sidecars]
        report.add(
            Row(
                f"mesh-{count}-control-plane",
                CONTENDER,
                rss_mib=server.rss_kib() / KIB_PER_MIB,
            )
        )
    report.add(Row(f"mesh-{count}-sidecar", CONTENDER, rss_mib=statistics.median(weights)))
    report.add(
        Row(
            f"mesh-{count}-change-in-force",
            CONTENDER,
            p50_ms=statistics.median(times_ms),
            p99_ms=statistics.quantiles(times_ms, n=100, method="inclusive")[98],
        )
    )
    report.save({}, {"mesh_changes": options.changes, "mesh_sidecars": count})
    return 0 if report.print(GOALS) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.mesh")
    parser.add_argument("--sidecars", type=int, default=50)
    parser.add_argument("--changes", type=int, default=100)
    return parser


def _start_server(directory: Path, stack: contextlib.ExitStack) -> tuple[Process, dict[str, Any]]:
    home = directory / "home"
    command: list[str | Path] = [sys.executable, "-m", "tulle", "server"]
    command += ["--data-dir", home, "--hub", "127.0.0.1:0"]
    server = process.start("server", command, core=None, directory=directory)
    stack.callback(server.stop)
    ready = home / "server.json"
    _wait(server, ready.exists, "writes server.json")
    described: dict[str, Any] = json.loads(ready.read_text())
    return server, described


def _start_sidecars(
    count: int,
    described: dict[str, Any],
    api: Api,
    directory: Path,
    stack: contextlib.ExitStack,
) -> list[Sidecar]:
    token_file = directory / "token"
    body = {
        "namespace": NAMESPACE,
        "service_account": "client",
        "service": None,
        "ttl_s": 600,
        "uses": count,
    }
    token_file.write_text(api.post("/tulle/v1/tokens", body)["token"])
    started = []
    for number in range(count):
        folder = directory / f"client-{number}"
        folder.mkdir()
        settings = folder / "settings.json"
        settings.write_text(json.dumps(_settings(number, described, folder)))
        command: list[str | Path] = [sys.executable, "-m", "tulle", "sidecar"]
        command += ["--settings", settings]
        command += ["--token-file", token_file]
        one = process.start(f"client-{number}", command, core=None, directory=folder)
        stack.callback(one.stop)
        started.append((one, folder / "state" / "sidecar.json"))
    sidecars = []
    for one, addresses in started:
        _wait(one, addresses.exists, "binds its listeners")
        outbound = json.loads(addresses.read_text())["addresses"]["outbound"][0]["listen"]
        host, _, port = outbound.rpartition(":")
        connection = stack.enter_context(socket.create_connection((host, int(port)), 10))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sidecar = Sidecar(one, connection)
        _wait(one, partial(sidecar.redirects_to, "/0"), "holds the route")
        sidecars.append(sidecar)
    return sidecars


def _change(api: Api, sidecars: Sequence[Sidecar], number: int) -> float:
    """Return the milliseconds from sending a change until every sidecar answers with it."""
    target = f"/{number}"
    begin = time.perf_counter()
    api.post("/tulle/v1/apply", {"resources": _resources(target)[-1:]})
    behind = list(sidecars)
    while behind:
        behind = [sidecar for sidecar in behind if not sidecar.redirects_to(target)]
        if time.perf_counter() - begin > CHANGE_SECONDS_MAX:
            raise StartError(f"{len(behind)} sidecars do not have change {number}")
    return (time.perf_counter() - begin) * 1000


def _wait(of: Process, condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while not condition():
        of.require_alive()
        if time.monotonic() > deadline:
            raise StartError(f"{of.name} never {what}:\n{of.log.read_text()[-2000:]}")
        time.sleep(process.POLL_SECONDS)


def _settings(number: int, described: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {
        "workload": {
            "namespace": NAMESPACE,
            "name": f"client-{number}",
            "service_account": "client",
            "labels": {},
            "zone": None,
        },
        "trust_domain": "tulle.local",
        "inbound": [],
        "outbound": [{"service": f"{NAMESPACE}/echo", "port": 80, "listen": "127.0.0.1:0"}],
        "proxy_listen": None,
        "admin_listen": "127.0.0.1:0",
        "control": described["hub"],
        "roots_pem_path": described["roots_path"],
        "state_dir": str(folder / "state"),
        "probe": None,
        "workers": 1,
        "access_log": "off",
        "access_log_path": None,
        "drain_seconds": 1,
        "reason_header": True,
    }


def _resources(target: str) -> list[dict[str, Any]]:
    """Return the mesh's resources; the last one redirects to *target*."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "echo", "namespace": NAMESPACE},
            "spec": {
                "selector": {"app": "echo"},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
            },
        },
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "echo", "namespace": NAMESPACE},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "echo"}],
                "rules": [{"filters": [_redirect(target)]}],
            },
        },
    ]


def _redirect(target: str) -> dict[str, Any]:
    path = {"type": "ReplaceFullPath", "replaceFullPath": target}
    return {"type": "RequestRedirect", "requestRedirect": {"path": path, "statusCode": 302}}


if __name__ == "__main__":
    sys.exit(main())
