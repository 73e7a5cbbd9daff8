"""The command line against a control plane of the test's own.

`plane` is a small real HTTP server on a Unix socket. It keeps resources in memory and
answers the calls of the API with the shapes that the real one answers with; what it
shows of traffic and sidecars is what the test puts there. `tulle` runs a command line
in this process, in an empty folder, and returns its exit code and what it printed.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tulle.cli.kinds import KINDS
from tulle.cli.main import run

Object = dict[str, Any]
Answer = tuple[int, Any]


class Plane:
    """The state of the fake and its calls."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.revision = 0
        self.edges: list[Object] = []
        self.rows: list[Object] = []
        self.proxies: list[Object] = []
        self.records: dict[str, Object] = {}
        self.tokens: list[Object] = []
        self.entries: list[Object] = []
        self.watches: list[list[Object]] = []
        """The events of each watch to come; one more is told that its revision is gone."""
        self.resolved: Object = {}
        self.bundle = ""
        self.version = "0.1.0"
        self.asked: list[tuple[str, str, Any]] = []
        """Method, path with query and body of every call, in order."""
        self.refuse: Answer | None = None
        """What every call is answered with, if anything."""
        self.meanwhile: list[Callable[[], None]] = []
        """What happens before each of the next calls of `apply` is answered."""
        self.violations: list[Object] = []
        """What `apply` and `diff` find wrong."""

    def put(self, kind: str, name: str, spec: Object | None = None, **more: Any) -> Object:
        """Store an object and return it as stored."""
        known = next(k for k in KINDS if k.name == kind)
        metadata = {"name": name, "labels": more.pop("labels", {})}
        if known.namespaced:
            metadata["namespace"] = more.pop("namespace", "default")
        item = {"apiVersion": known.api_version, "kind": kind, "metadata": metadata, **more}
        if spec is not None:
            item["spec"] = spec
        self.store(item)
        return self.objects[kind, metadata.get("namespace", ""), name]

    def store(self, item: Object) -> str:
        """Put *item* in, as the real store does, and return what was done."""
        metadata = item["metadata"]
        key = (item["kind"], metadata.get("namespace", ""), metadata["name"])
        before = self.objects.get(key)
        if before and _body(before) == _body(item):
            return "unchanged"
        self.revision += 1
        store_fields = {
            "resourceVersion": str(self.revision),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }
        self.objects[key] = {**item, "metadata": {**metadata, **store_fields}}
        return "configured" if before else "created"

    def answer(self, method: str, target: str, body: Any) -> Answer:
        """Answer one call."""
        self.asked.append((method, target, body))
        if self.refuse is not None:
            return self.refuse
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        fixed: dict[str, Callable[[], Any]] = {
            "/version": lambda: {"version": self.version},
            "/livez": lambda: "ok",
            "/readyz": lambda: "ok",
            "/tulle/v1/ca/bundle": lambda: self.bundle,
            "/tulle/v1/edges": lambda: {"edges": _within(self.edges, query, "source")},
            "/tulle/v1/stat": lambda: {"rows": _within(self.rows, query, "name")},
            "/tulle/v1/proxies": lambda: {"proxies": self.proxies},
            "/tulle/v1/apply": lambda: self._apply(body),
            "/tulle/v1/diff": lambda: {"changes": [self._change(i) for i in body["resources"]]},
            "/tulle/v1/delete": lambda: self._delete(body),
            "/tulle/v1/resolve": lambda: self.resolved,
            "/tulle/v1/tokens": lambda: self._tokens(method, body),
        }
        if self.violations and parts.path in {"/tulle/v1/apply", "/tulle/v1/diff"}:
            return 422, {"message": "invalid", "violations": self.violations}
        if parts.path == "/tulle/v1/apply" and self.meanwhile:
            self.meanwhile.pop(0)()
        if parts.path == "/tulle/v1/apply" and (stale := self._stale(body["resources"])):
            return 409, {"message": f"{stale} is at another resource version"}
        if parts.path in fixed:
            return 200, fixed[parts.path]()
        if parts.path.startswith("/tulle/v1/tokens/"):
            self.tokens = [t for t in self.tokens if t["id"] != parts.path.rpartition("/")[2]]
            return 200, {}
        if parts.path.startswith("/tulle/v1/records/"):
            return 200, self.records[parts.path.removeprefix("/tulle/v1/records/")]
        return self._resource(parts.path, query)

    def _resource(self, path: str, query: dict[str, str]) -> Answer:
        for kind in KINDS:
            prefix = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.version}"
            match = re.fullmatch(
                rf"{prefix}(?:/namespaces/([^/]+))?/{kind.plural}(?:/([^/]+))?", path
            )
            if match is None:
                continue
            namespace, name = match.groups()
            if name is None:
                items = [
                    item
                    for (kind_name, space, _), item in sorted(self.objects.items())
                    if kind_name == kind.name and namespace in {None, space} and _fits(item, query)
                ]
                return 200, {"metadata": {"resourceVersion": str(self.revision)}, "items": items}
            found = self.objects.get((kind.name, namespace or "", name))
            if found is not None:
                return 200, found
        return 404, {"kind": "Status", "message": f"not found: {path}", "code": 404}

    def _apply(self, body: Object) -> Object:
        results = [
            {
                "kind": item["kind"],
                "namespace": item["metadata"].get("namespace", ""),
                "name": item["metadata"]["name"],
                "action": self._change(item)["action"] if body["dry_run"] else self.store(item),
            }
            for item in body["resources"]
        ]
        return {"results": results, "revision": self.revision}

    def _stale(self, resources: list[Object]) -> str | None:
        for item in resources:
            metadata = item["metadata"]
            key = (item["kind"], metadata.get("namespace", ""), metadata["name"])
            now = self.objects.get(key, {"metadata": {}})["metadata"].get("resourceVersion")
            if metadata.get("resourceVersion") not in {None, now}:
                return "/".join(key)
        return None

    def _change(self, item: Object) -> Object:
        namespace, name = item["metadata"].get("namespace", ""), item["metadata"]["name"]
        before = self.objects.get((item["kind"], namespace, name))
        same = before is not None and _body(before) == _body(item)
        return {
            "kind": item["kind"],
            "namespace": namespace,
            "name": name,
            "action": "unchanged" if same else "configured" if before else "created",
            "before": before,
            "after": item,
        }

    def _delete(self, body: Object) -> Object:
        results = []
        for item in body["resources"]:
            metadata = item["metadata"]
            namespace, name = metadata.get("namespace", ""), metadata["name"]
            if self.objects.pop((item["kind"], namespace, name), None):
                results.append({"kind": item["kind"], "namespace": namespace, "name": name})
        self.revision += 1
        return {"results": results, "revision": self.revision}

    def _tokens(self, method: str, body: Object) -> Object:
        if method == "GET":
            return {"tokens": self.tokens}
        token = {"id": f"{len(self.tokens):04x}", "expires": "2026-01-01T00:15:00Z"}
        self.tokens.append({**body, **token, "uses_left": body["uses"]})
        return {"token": f"secret-{token['id']}", **token}


def _body(item: Object) -> Object:
    """Return what a user writes of *item*."""
    metadata = {k: item["metadata"].get(k) for k in ("name", "namespace", "labels")}
    return {"metadata": {k: v for k, v in metadata.items() if v}, "spec": item.get("spec")}


def _fits(item: Object, query: dict[str, str]) -> bool:
    wanted = dict(part.split("=") for part in query.get("labelSelector", "").split(",") if part)
    labels = item["metadata"].get("labels", {})
    return all(labels.get(key) == value for key, value in wanted.items())


def _within(rows: list[Object], query: dict[str, str], name: str) -> list[Object]:
    namespace = query.get("namespace")
    return [row for row in rows if namespace in {None, row[name].partition("/")[0]}]


class Handler(BaseHTTPRequestHandler):
    """Carries calls to the plane of its server."""

    protocol_version = "HTTP/1.1"
    server: "UnixServer"

    def handle_call(self) -> None:
        """Answer a call of any method."""
        length = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        plane = self.server.plane
        watch = "watch=true" in self.path
        if plane.refuse is None and (watch or self.path.startswith("/tulle/v1/tap")):
            plane.asked.append((self.command, self.path, None))
            if watch and not plane.watches:
                self._send(410, {"message": "the revision is gone"})
                return
            lines = plane.watches.pop(0) if watch else plane.entries
            self._send(200, "".join(json.dumps(line) + "\n" for line in lines))
            return
        self._send(*plane.answer(self.command, self.path, body))

    do_GET = do_POST = do_DELETE = handle_call  # noqa: N815, names of the base class

    def _send(self, status: int, answer: Any) -> None:
        content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def address_string(self) -> str:
        """Return a name for a client that has no address."""
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, the base class's name
        """Say nothing."""


class UnixServer(ThreadingUnixStreamServer):
    """Serves one plane."""

    daemon_threads = True
    plane: Plane


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in an empty folder, with nothing of the environment that the command line reads."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "SERVER", "NAMESPACE", "TOKEN"):
        monkeypatch.delenv(f"TULLE_{name}", raising=False)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def plane(folder: Path) -> Iterator[Plane]:
    """Serve a plane on the socket where the command line looks for one."""
    data = folder / ".tulle"
    data.mkdir()
    with UnixServer(str(data / "api.sock"), Handler) as server:
        server.plane = Plane()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.plane
        server.shutdown()
        thread.join()


@dataclass(frozen=True, slots=True)
class Result:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What was printed, line by line."""
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        """What was printed, as JSON."""
        return json.loads(self.out)


@pytest.fixture
def tulle(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Return a function that runs `tulle` with its arguments."""

    def call(*arguments: str) -> Result:
        code = run(arguments)
        printed = capsys.readouterr()
        return Result(code, printed.out, printed.err)

    return call
