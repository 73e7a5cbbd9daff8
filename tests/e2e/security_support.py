"""A mesh whose parts can be killed and started again: control plane, sidecars, apps in the test.

`Mesh` of `mesh.py` starts each process once; here a test may end one and start it anew. Sidecars
keep their ports over that, and the control plane keeps its hub's.
"""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.e2e.http_client import get
from tests.e2e.processes import Process, eventually, reserve_port
from tulle.local.plane import Plane, server_command
from tulle.resources.parse import attach_source, parse_texts

TULLE = (sys.executable, "-m", "tulle")
PROXIES = "/tulle/v1/proxies"


_PORTS = {
    80: "{name: web, port: 80, targetPort: 8080, appProtocol: http}",
    90: "{name: calls, port: 90, targetPort: 9090, appProtocol: grpc}",
    70: "{name: bytes, port: 70, targetPort: 7070, appProtocol: tcp}",
    60: "{name: sockets, port: 60, targetPort: 6060, appProtocol: http}",
}


def shop_with(*ports: int, service: str = "cart") -> str:
    """Return the namespace `shop` and a service in it with these ports, for more to follow."""
    return f"""
apiVersion: v1
kind: Namespace
metadata: {{name: shop}}
---
apiVersion: v1
kind: Service
metadata: {{name: {service}, namespace: shop}}
spec:
  selector: {{app: {service}}}
  ports: [{", ".join(_PORTS[port] for port in ports)}]
---
"""


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

    status = 200
    extra_headers: Sequence[tuple[str, str]] = ()

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        super().__init__(address, _EchoHandler)
        self.seen: list[Seen] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        """`host:port` it listens on."""
        return f"127.0.0.1:{self.server_address[1]}"

    def paths(self) -> list[str]:
        """The paths that reached it, in order."""
        return [seen.path for seen in self.seen]

    def handle_error(self, request: object, client_address: object) -> None:
        """A sidecar that is killed breaks its connections; what else goes wrong, tests see."""

    def server_close(self) -> None:
        """Stop to serve, too."""
        self.shutdown()
        super().server_close()


class _EchoHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # One write for each answer: what a killed sidecar passed on is then all of it or nothing.
    wbufsize = 64 * 1024
    server: EchoApp

    def answer(self) -> None:
        """Remember the request and answer."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.rfile.read(int(headers.get("content-length", 0)))
        # Not self.path, in which the base class has merged slashes.
        path = self.requestline.split(" ")[1]
        self.server.seen.append(Seen(self.command, path, headers))
        content = path.encode()
        self.send_response(self.server.status)
        for name, value in self.server.extra_headers:
            self.send_header(name, value)
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
    keeper: socket.socket = field(default_factory=reserve_port)
    """Keeps the port on which its sidecar takes traffic, from one process to the next."""

    @property
    def listen(self) -> str:
        """Where the sidecar listens for it."""
        return "{}:{}".format(*self.keeper.getsockname())


class Sidecar:
    """One sidecar: `start`, `kill` and `stop` as often as a test likes."""

    def __init__(self, mesh: "Mesh", settings: dict[str, Any]) -> None:
        self.settings = settings
        self.state_dir = Path(settings["state_dir"])
        self.log = mesh.logs / f"{settings['workload']['name']}.sidecar.log"
        self.settings_file = self.state_dir.with_suffix(".json")
        self.token_file = self.state_dir.with_suffix(".token")
        self._process: Process | None = None

    @property
    def name(self) -> str:
        """`namespace/name` of its workload."""
        return "{namespace}/{name}".format(**self.settings["workload"])

    @property
    def process(self) -> Process:
        """The process that was started last."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.running

    def start(self, token: str | None) -> None:
        """Start the process; without a token it uses the identity that it has kept."""
        self.settings_file.write_text(json.dumps(self.settings))
        command = [*TULLE, "sidecar", "--settings", str(self.settings_file)]
        if token is not None:
            self.token_file.write_text(token)
            command += ["--token-file", str(self.token_file)]
        self._process = Process(command, self.log)

    def events(self) -> list[dict[str, Any]]:
        """What it has told since it was started last."""
        whole, _, _ = self.process.output.rpartition("\n")
        # grpcio in this process may write to a child's output between fork and exec.
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def wait_event(self, name: str) -> dict[str, Any]:
        """Return the last event of this name, once there is one."""
        found = eventually(
            lambda: [event for event in self.events() if event["event"] == name],
            f"{self.name} tells {name}",
        )
        return found[-1]

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

    @property
    def admin(self) -> str:
        """Where its metrics are."""
        address: str = self.wait_event("listening")["addresses"]["admin"]
        return address

    def is_ready(self) -> bool:
        """Whether it says that traffic may come."""
        return self.running and get(self.admin, "/readyz").status == 200

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        lines = get(self.admin, "/metrics").body.decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])

    def records(self) -> list[Path]:
        """The files in which it keeps its records, one each."""
        return list((self.state_dir / "records").glob("*.record"))

    def access_log(self) -> list[dict[str, Any]]:
        """The lines of its access log."""
        whole, _, _ = Path(self.settings["access_log_path"]).read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def logged(self, path: str) -> dict[str, Any]:
        """The line of the access log about *path*, once it is there."""
        found = eventually(
            lambda: [line for line in self.access_log() if line["path"] == path],
            f"{self.name} logs {path}",
        )
        return found[-1]

    def end(self, number: int = signal.SIGKILL) -> int:
        """End it, and return its exit code."""
        self.process.signal(number)
        return self.process.wait()


class Mesh:
    """A control plane and sidecars; `close` ends all of them."""

    def __init__(self, folder: Path, certificate_ttl: str = "24h") -> None:
        self.folder = folder
        self.home = folder / ".tulle"
        self.logs = folder / "logs"
        self.logs.mkdir()
        self._keepers = [reserve_port()]
        self.hub = "{}:{}".format(*self._keepers[0].getsockname())
        self.plane = Plane(self.home / "api.sock")
        self.sidecars: dict[str, Sidecar] = {}
        self.certificate_ttl = certificate_ttl
        self.start_server()

    def start_server(self) -> None:
        """Start the control plane and wait until it serves."""
        (self.home / "server.json").unlink(missing_ok=True)
        command = server_command(self.home, self.hub, "tulle.local", self.certificate_ttl)
        starts = len(list(self.logs.glob("server*.log")))
        self.server = Process(command, self.logs / f"server{starts}.log")
        eventually((self.home / "server.json").exists, "the control plane serves")

    def close(self) -> None:
        """End everything."""
        for one in self.sidecars.values():
            if one.running:
                one.process.kill()
        if self.server.running:
            self.server.kill()
        for keeper in self._keepers:
            keeper.close()

    def add(
        self,
        name: str,
        *ports: Port,
        account: str | None = None,
        calls: Mapping[str, Sequence[int]] | None = None,
        start: bool = True,
    ) -> Sidecar:
        """Add the sidecar of workload *name*, `shop/cart-1`, with the label app=<account>."""
        self._keepers += [port.keeper for port in ports]
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
                "listen": port.listen,
                "app": port.app,
                "proxy_protocol": False,
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
        wanted = [name for name, one in self.sidecars.items() if one.running]

        def is_settled() -> bool:
            rows = {row["workload"]: row for row in self.plane.call("GET", PROXIES)["proxies"]}
            return all(name in rows and _is_settled(rows[name]) for name in wanted)

        eventually(is_settled, "every sidecar holds the newest records")

    def text(self, path: str) -> str:
        """What the API answers to a GET of *path*."""
        status, data = self.plane._request("GET", path, None)
        assert status == 200, data
        return data.decode()

    def tulle(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line in the mesh's folder."""
        return subprocess.run(
            [*TULLE, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


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
        yield mesh
    finally:
        mesh.close()
