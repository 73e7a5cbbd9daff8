"""A real mesh for tests: `tulle server`, and workloads that are a program and its sidecar.

    shop = mesh.namespace("shop")
    shop.service("cart")
    shop.add("cart-1", HTTP)
    web = shop.add("web")            # no program: the test itself calls through its sidecar
    shop.settle()                    # all are ready, and hold what is in force

A service's workloads are those whose label `app` is its name; `cart-1` has `app: cart`.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tests.e2e.lan import Host, on
from tests.e2e.processes import Process, eventually, reserve_port
from tulle.errors import NotFound
from tulle.local.plane import Plane
from tulle.resources.text import documents

APPS = Path(__file__).parent / "apps"
CLI_SECONDS = 30
WORKLOAD_PORT = 8080
"""The port of every program as the mesh knows it; each really listens elsewhere."""

SETTINGS = {
    "trust_domain": "tulle.local",
    "proxy_listen": "127.0.0.1:0",
    "admin_listen": "127.0.0.1:0",
    "workers": 1,
    "access_log": "off",
    "drain_seconds": 5,
    "reason_header": True,
}
"""What sidecars have in common, unless a test says otherwise."""

Protocol = Literal["http", "http2", "grpc", "tcp"]


@dataclass(frozen=True, slots=True)
class App:
    """A program that serves on $PORT."""

    command: tuple[str, ...]
    protocol: Protocol
    proxy_protocol: bool = False
    """Whether plain callers have to tell of themselves by the PROXY protocol."""


HTTP = App((sys.executable, "-I", str(APPS / "web.py")), "http")
PEER = App((sys.executable, "-I", str(APPS / "peer.py")), "http")
GRPC = App((sys.executable, str(APPS / "calls.py")), "grpc")
HTTP2 = App((sys.executable, str(APPS / "http2.py")), "http2")
WEBSOCKET = App((sys.executable, str(APPS / "websocket.py")), "http")
BANNER = App((sys.executable, "-I", str(APPS / "banner.py")), "tcp")
SECRET = App((sys.executable, "-I", str(APPS / "secret.py")), "tcp")
SHOWN = App(("haproxy", "-f", str(APPS / "shown.cfg")), "tcp", proxy_protocol=True)
REDIS = App(
    (
        *("sh", "-c", 'exec redis-server --port "$PORT" --bind 127.0.0.1 --save "" "$@"', "redis"),
        *("--appendonly", "no", "--dir", "/tmp"),
    ),
    "tcp",
)


class Mesh:
    """A control plane with an empty store, and its command line."""

    def __init__(self, folder: Path, host: Host | None = None) -> None:
        """Start it in *folder*, on *host* or on this machine."""
        self.folder = folder
        self.home = folder / "control"
        hub = f"{host.ipv4 if host else '127.0.0.1'}:0"
        command = self.command("server", "--data-dir", str(self.home), "--hub", hub)
        self.server = Process(on(host, command), folder / "server.log")
        ready_file = self.home / "server.json"
        eventually(lambda: ready_file.exists() or not self.server.running, "the server is ready")
        assert self.server.running, self.server.output
        told = json.loads(ready_file.read_text())
        self.hub: str = told["hub"]
        self.roots = Path(told["roots_path"])
        self.plane = Plane(Path(told["socket"]))
        self._environment = {**os.environ, "TULLE_SERVER": f"unix:{told['socket']}"}

    def namespace(self, name: str) -> "Namespace":
        """Return a new namespace; whoever asks for it stops it."""
        folder = self.folder / name
        folder.mkdir()
        return Namespace(self, name, folder)

    def tulle(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the real command line, which must exit with *code*."""
        ended = subprocess.run(
            self.command(*words),
            env=self._environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=CLI_SECONDS,
        )
        assert ended.returncode == code, f"{words}: {ended.stdout}{ended.stderr}"
        return ended

    def command(self, *words: str) -> list[str]:
        """Return the command line of `tulle` with *words*, for this control plane."""
        return [sys.executable, "-m", "tulle", *words]

    def start(self, *words: str) -> Process:
        """Start `tulle` with *words* and leave it running; the caller ends it."""
        log = self.folder / f"{words[0]}.log"
        return Process(self.command(*words), log, self._environment)

    def stop(self) -> None:
        """End it."""
        self.server.kill()


class Workload:
    """A sidecar, and the program beside it if there is one."""

    def __init__(
        self,
        name: str,
        app: Process | None,
        sidecar: Process,
        folder: Path,
        host: Host | None = None,
    ) -> None:
        """Use `Namespace.add`."""
        self.name = name
        self.host = host
        self.sidecar = sidecar
        self.folder = folder
        self.left: list[Process] = []
        """Sidecars that were succeeded."""
        self._app = app
        self._addresses: dict[str, Any] | None = None

    @property
    def app(self) -> Process:
        """The program."""
        assert self._app is not None, f"{self.name} has no program"
        return self._app

    @property
    def proxy(self) -> str:
        """Where the sidecar's HTTP proxy listens."""
        return str(self.addresses["proxy"])

    @property
    def inbound(self) -> str:
        """Where the sidecar takes traffic for its program."""
        return str(self.addresses["inbound"][0]["listen"])

    @property
    def admin(self) -> str:
        """Where the sidecar's metrics are."""
        return str(self.addresses["admin"])

    @property
    def app_address(self) -> str:
        """Where the program itself listens."""
        settings = json.loads((self.folder / "settings.json").read_text())
        return str(settings["inbound"][0]["app"])

    def outbound(self, service: str) -> str:
        """Return the local address that stands for *service*, `namespace/name`."""
        found = {one["service"]: one["listen"] for one in self.addresses["outbound"]}
        return str(found[service])

    @property
    def addresses(self) -> dict[str, Any]:
        """All listeners of the sidecar, once they are bound."""
        if self._addresses is None:
            known = self.folder / "state" / "sidecar.json"
            eventually(lambda: known.exists() or not self.sidecar.running, f"{self.name} listens")
            assert self.sidecar.running, self.sidecar.output
            self._addresses = json.loads(known.read_text())["addresses"]
        return self._addresses

    def access_log(self) -> list[dict[str, Any]]:
        """Return what is in the sidecar's access log by now."""
        path = self.folder / "access.json"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def stop(self) -> None:
        """End both at once."""
        for process in (self._app, self.sidecar, *self.left):
            if process is not None and process.running:
                process.kill()


class Namespace:
    """A namespace of a test's own, with all that runs in it."""

    def __init__(self, mesh: Mesh, name: str, folder: Path) -> None:
        """Use `Mesh.namespace`."""
        self.mesh = mesh
        self.name = name
        self.workloads: dict[str, Workload] = {}
        self._folder = folder
        self._ports = ExitStack()
        self.apply(f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}")

    def service(self, name: str, protocol: Protocol = "http") -> None:
        """Create the service *name*, port 80."""
        self.apply(
            f"""
            apiVersion: v1
            kind: Service
            metadata: {{name: {name}}}
            spec:
              selector: {{app: {name}}}
              ports: [{{port: 80, targetPort: {WORKLOAD_PORT}, appProtocol: {protocol}}}]
            """
        )

    def apply(self, text: str) -> None:
        """Apply YAML documents, which are in this namespace, and wait until they are in force."""
        resources = [document.value for document in documents(text)]
        for resource in resources:
            if resource["kind"] != "Namespace":
                resource["metadata"].setdefault("namespace", self.name)
        self.mesh.plane.apply(resources)
        self.settle()

    def delete(self, kind: str, name: str, api_version: str) -> None:
        """Delete one object, and wait until that is in force."""
        reference = {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"name": name, "namespace": self.name},
        }
        self.mesh.plane.call("POST", "/tulle/v1/delete", {"resources": [reference]})
        self.settle()

    def add(
        self,
        name: str,
        app: App | None = None,
        *,
        version: str | None = None,
        outbound: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        host: Host | None = None,
        **settings: Any,
    ) -> Workload:
        """Start a workload and return at once; `settle` waits for it.

        *outbound* are services of this namespace that get a local address. *host* is where both
        run, if not on this machine. *settings* replace those of the sidecar.
        """
        folder = self._folder / name
        folder.mkdir()
        process, app_port = None, None
        if app is not None:
            app_port = self._ports.enter_context(reserve_port()).getsockname()[1]
            told = {**(environment or {}), "PORT": str(app_port), "NAME": name}
            process = Process(on(host, app.command), folder / "app.log", told)
        labels = {"app": re.sub(r"-\d+$", "", name)} | ({"version": version} if version else {})
        text = {
            "workload": {
                "namespace": self.name,
                "name": name,
                "service_account": labels["app"],
                "labels": labels,
                "zone": None,
            },
            "inbound": [_inbound(app, app_port, host)] if app and app_port else [],
            "outbound": [
                {"service": f"{self.name}/{one}", "port": 80, "listen": "127.0.0.1:0"}
                for one in outbound
            ],
            "control": self.mesh.hub,
            "state_dir": str(folder / "state"),
            "probe": {"kind": "tcp"} if app else None,
            "access_log_path": str(folder / "access.json"),
            "roots_pem_path": str(self.mesh.roots),
            **SETTINGS,
            **settings,
        }
        (folder / "settings.json").write_text(json.dumps(text))
        (folder / "token").write_text(self.mesh.plane.new_token(self.name, labels["app"]))
        files = ("--settings", f"{folder}/settings.json", "--token-file", f"{folder}/token")
        command = self.mesh.command("sidecar", *files)
        sidecar = Process(on(host, command), folder / "sidecar.log")
        self.workloads[name] = Workload(name, process, sidecar, folder, host)
        return self.workloads[name]

    def settle(self) -> None:
        """Wait until every running workload is ready and holds the newest of each record."""
        # Twice: what became ready last in the first round is news to the others.
        for workload in (*self.workloads.values(), *self.workloads.values()):
            if workload.sidecar.running:
                eventually(partial(self._is_settled, workload), f"{workload.name} is ready")
            else:
                assert workload.sidecar.wait() != 1, workload.sidecar.output

    def proxy(self, workload: str) -> dict[str, Any]:
        """Return what the control plane knows of a workload's sidecar."""
        found = self.mesh.plane.call("GET", f"/tulle/v1/proxies/{self.name}/{workload}")
        assert isinstance(found, dict)
        return found

    def endpoints(self, service: str) -> list[str]:
        """Return the names of the workloads that take traffic of *service*."""
        record = self.mesh.plane.call("GET", f"/tulle/v1/records/endpoints/{self.name}/{service}")
        return [one["workload"].partition("/")[2] for one in record["endpoints"]]

    def upgrade(self, workload: Workload) -> Process:
        """Put a new sidecar in the place of the running one; return that one, which drains."""
        settings = workload.folder / "settings.json"
        command = on(workload.host, self.mesh.command("sidecar", "--settings", str(settings)))
        first = workload.sidecar
        workload.left.append(first)
        workload.sidecar = Process(command, workload.folder / f"sidecar-after-{first.pid}.log")
        eventually(
            lambda: '"event":"serving"' in workload.sidecar.output or not workload.sidecar.running,
            f"{workload.name} is taken over",
        )
        assert workload.sidecar.running, workload.sidecar.output
        return first

    def drain(self, workload: Workload) -> int:
        """Ask a sidecar to end as an orchestrator would; return its exit code."""
        workload.sidecar.signal(signal.SIGTERM)
        return workload.sidecar.wait()

    def stop(self) -> None:
        """End everything in it."""
        for workload in self.workloads.values():
            workload.stop()
        self._ports.close()

    def _is_settled(self, workload: Workload) -> bool:
        assert workload.sidecar.running, workload.sidecar.output
        try:
            proxy = self.proxy(workload.name)
        except NotFound:
            return False
        return bool(proxy["ready"]) and all(one["in_sync"] for one in proxy["records"])


def _inbound(app: App, port: int, host: Host | None) -> dict[str, Any]:
    return {
        "port": WORKLOAD_PORT,
        "protocol": app.protocol,
        "listen": f"{host.ipv4 if host else '127.0.0.1'}:0",
        "app": f"127.0.0.1:{port}",
        "proxy_protocol": app.proxy_protocol,
    }
