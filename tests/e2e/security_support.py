"""A mesh whose every part a test can reach: real control plane and sidecars, apps in the test.

`Mesh` starts the processes without a runner, so that a test may kill one of them and nobody
starts it again. Sidecars keep their ports over restarts; the control plane keeps its hub's.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tulle.local.plane import Plane, server_command
from tulle.local.ports import Ports
from tulle.resources.parse import attach_source, parse_texts
from tulle.sidecar.launch import host_command

PORTS = Ports(f"e2e {os.getpid()}")
WAIT_SECONDS = 20.0
CALL_SECONDS = 10.0

Found = TypeVar("Found")


def eventually(look: Callable[[], Found], what: str, seconds: float = WAIT_SECONDS) -> Found:
    """Return the first true value of *look*; fail the test if none comes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.02)
    pytest.fail(f"still not so after {seconds:.0f} s: {what}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call was answered with."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def reason(self) -> str | None:
        """Why the mesh answered in place of the app; None when the app did."""
        return self.headers.get("x-tulle-reason")


def call(
    address: str,
    path: str = "/",
    method: str = "GET",
    headers: Sequence[tuple[str, str]] = (),
) -> Answer:
    """Send one request to *address* on a connection of its own, the path as it is given."""
    connection = http.client.HTTPConnection(address, timeout=CALL_SECONDS)
    with contextlib.closing(connection):
        connection.putrequest(method, path)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, body)


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as the app saw it."""

    method: str
    path: str
    headers: Mapping[str, str]


class EchoApp(ThreadingHTTPServer):
    """An app that remembers what reaches it and answers with its path."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _EchoHandler)
        self.seen: list[Seen] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        """`host:port` it listens on."""
        return f"127.0.0.1:{self.server_address[1]}"

    def paths(self) -> list[str]:
        """The paths that reached it, in order."""
        return [seen.path for seen in self.seen]

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        super().__exit__(*args)


class _EchoHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: EchoApp

    def answer(self) -> None:
        """Remember the request and answer."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.rfile.read(int(headers.get("content-length", 0)))
        self.server.seen.append(Seen(self.command, self.path, headers))
        content = self.path.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815, the base class's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, the base class's name
        """Say nothing."""


@contextlib.contextmanager
def echo_bytes() -> Iterator[str]:
    """Serve what sends every byte back; yield its address."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=echo, args=(connection,), daemon=True).start()

    def echo(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@dataclass(slots=True)
class Port:
    """A port of an app."""

    number: int
    protocol: str
    app: str
    listen: int = field(default_factory=lambda: PORTS.take("inbound"))


class Sidecar:
    """One sidecar: `start`, `kill` and `stop` as often as a test likes."""

    def __init__(self, mesh: "Mesh", settings: dict[str, Any]) -> None:
        self.settings = settings
        self.state_dir = Path(settings["state_dir"])
        self.log = mesh.logs / f"{settings['workload']['name']}.sidecar.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._settings_file = self.state_dir.with_suffix(".json")

    @property
    def name(self) -> str:
        """`namespace/name` of its workload."""
        return "{namespace}/{name}".format(**self.settings["workload"])

    @property
    def pid(self) -> int:
        """The pid of the process."""
        assert self.process is not None
        return self.process.pid

    def start(self, token: str | None) -> None:
        """Start the process; without a token it uses the identity that it has kept."""
        self._settings_file.write_text(json.dumps(self.settings))
        self.log.write_bytes(b"")
        reader, writer = os.pipe()
        try:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    host_command(self._settings_file, reader),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(reader,),
                )
            os.write(writer, (token or "").encode())
        finally:
            os.close(reader)
            os.close(writer)

    def events(self) -> list[dict[str, Any]]:
        """What it has told since it was started last."""
        whole, _, _ = self.log.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def wait_event(self, name: str) -> dict[str, Any]:
        """Return the last event of this name, once there is one."""
        return eventually(
            lambda: next((e for e in reversed(self.events()) if e["event"] == name), None),
            f"{self.name} tells {name}: {self.events()}",
        )

    def outbound(self, port: int = 80) -> str:
        """The address that stands for the service it calls."""
        listeners = self.wait_event("listening")["addresses"]["outbound"]
        address: str = next(one["listen"] for one in listeners if one["port"] == port)
        return address

    def inbound(self, port: int) -> tuple[str, int]:
        """Host and port where other sidecars reach its app's *port*."""
        listen = next(one["listen"] for one in self.settings["inbound"] if one["port"] == port)
        host, _, number = listen.rpartition(":")
        return host, int(number)

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        admin = self.wait_event("listening")["addresses"]["admin"]
        lines = call(admin, "/metrics").body.decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])

    def access_log(self) -> list[dict[str, Any]]:
        """The lines of its access log."""
        whole, _, _ = Path(self.settings["access_log_path"]).read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End it, and return its exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        return self.process.wait(20)


class Mesh:
    """A control plane and sidecars; `close` ends all of them."""

    def __init__(self, folder: Path, certificate_ttl: str = "24h") -> None:
        self.folder = folder
        self.home = folder / ".tulle"
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.hub = f"127.0.0.1:{PORTS.take('hub')}"
        self.plane = Plane(self.home / "api.sock")
        self.sidecars: dict[str, Sidecar] = {}
        self.server: subprocess.Popen[bytes] | None = None
        self.certificate_ttl = certificate_ttl

    def start_server(self) -> None:
        """Start the control plane and wait until it serves."""
        (self.home / "server.json").unlink(missing_ok=True)
        command = server_command(self.home, self.hub, "tulle.local", self.certificate_ttl)
        with (self.logs / "server.log").open("ab") as log:
            self.server = subprocess.Popen(command, stdout=log, stderr=log)
        eventually((self.home / "server.json").exists, "the control plane serves")

    def kill_server(self, number: int = signal.SIGKILL) -> None:
        """End the control plane."""
        assert self.server is not None
        self.server.send_signal(number)
        self.server.wait(20)

    def close(self) -> None:
        """End everything."""
        running = [one.process for one in self.sidecars.values()]
        for process in (*running, self.server):
            if process is not None:
                process.kill()
                process.wait()

    def add(
        self,
        name: str,
        *ports: Port,
        account: str | None = None,
        calls: Mapping[str, Sequence[int]] | None = None,
        start: bool = True,
    ) -> Sidecar:
        """Add the sidecar of workload *name*, `shop/cart-1`, with the label app=<account>."""
        namespace, _, own = name.partition("/")
        account = account or own.rpartition("-")[0] or own
        state_dir = self.folder / "state" / own
        state_dir.mkdir(mode=0o700, parents=True)
        outbound = [
            {"service": service, "port": port, "listen": "127.0.0.1:0"}
            for service, numbers in (calls or {}).items()
            for port in numbers
        ]
        inbound = [
            {
                "port": port.number,
                "protocol": port.protocol,
                "listen": f"127.0.0.1:{port.listen}",
                "app": port.app,
            }
            for port in ports
        ]
        settings = {
            "workload": {
                "namespace": namespace,
                "name": own,
                "service_account": account,
                "labels": {"app": account},
                "zone": None,
            },
            "trust_domain": "tulle.local",
            "inbound": inbound,
            "outbound": outbound,
            "proxy_listen": "127.0.0.1:0",
            "admin_listen": "127.0.0.1:0",
            "control": self.hub,
            "state_dir": str(state_dir),
            "probe": {"kind": "tcp"} if ports else None,
            "workers": 1,
            "access_log": "all",
            "access_log_path": str(self.logs / f"{own}.access.json"),
            "drain_seconds": 5,
            "reason_header": True,
            "roots_pem_path": str(self.home / "roots.pem"),
        }
        sidecar = self.sidecars[name] = Sidecar(self, settings)
        if start:
            sidecar.start(self.plane.new_token(namespace, account))
        return sidecar

    def apply(self, text: str, file: str = "mesh.yaml", namespace: str = "shop") -> None:
        """Apply YAML as `tulle apply -f` does, and wait until it is in force everywhere."""
        (self.folder / file).write_text(text)
        parsed = parse_texts([(file, text.encode())], namespace)
        self.plane.apply([attach_source(one).to_object() for one in parsed])
        self.settle()

    def delete(self, kind: str, *names: str, namespace: str = "shop") -> None:
        """Delete resources of tulle.dev, and wait until that is in force everywhere."""
        resources = [
            {
                "apiVersion": "tulle.dev/v1alpha1",
                "kind": kind,
                "metadata": {"name": name, "namespace": namespace},
            }
            for name in names
        ]
        self.plane.call("POST", "/tulle/v1/delete", {"resources": resources})
        self.settle()

    def proxy(self, name: str) -> dict[str, Any]:
        """How the control plane sees the sidecar of workload *name*."""
        row: dict[str, Any] = self.plane.call("GET", f"/tulle/v1/proxies/{name}")
        return row

    def record(self, sidecar: str, name: str) -> dict[str, Any]:
        """What the control plane says of a record at a sidecar."""
        records = self.proxy(sidecar)["records"]
        return next((one for one in records if one["name"] == name), {})

    def settle(self) -> None:
        """Wait until every running sidecar is connected, ready and holds the newest of all."""
        wanted = [
            name
            for name, one in self.sidecars.items()
            if one.process is not None and one.process.poll() is None
        ]

        def is_settled() -> bool:
            rows = {row["workload"]: row for row in self.plane.call("GET", PROXIES)["proxies"]}
            return all(name in rows and _is_settled(rows[name]) for name in wanted)

        eventually(is_settled, "every sidecar holds the newest records")

    def tulle(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line in the mesh's folder."""
        return subprocess.run(
            [sys.executable, "-m", "tulle", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


PROXIES = "/tulle/v1/proxies"


def _is_settled(row: dict[str, Any]) -> bool:
    records = row["records"]
    return bool(
        row["connected"] and row["ready"] and records and all(one["in_sync"] for one in records)
    )


@contextlib.contextmanager
def running_mesh(folder: Path, certificate_ttl: str = "24h") -> Iterator[Mesh]:
    """Run a control plane in *folder*, and end all that the test has added to it."""
    mesh = Mesh(folder, certificate_ttl)
    try:
        mesh.start_server()
        yield mesh
    finally:
        mesh.close()
