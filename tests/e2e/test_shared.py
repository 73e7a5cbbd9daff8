"""One process carries many workloads: each apart from the others, and cheap."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.e2e.http_client import connect, get
from tests.e2e.mesh import SETTINGS, Mesh
from tests.e2e.processes import eventually
from tulle.local.shared import WORKERS_MAX, command

pytestmark = pytest.mark.e2e

FEW, MANY = 2, 42
MIB_PER_WORKLOAD_MAX = 0.5

SERVER = "exec python3 -m http.server $PORT --bind 127.0.0.1 --directory /usr/share/python3"
SLEEPER = "exec sleep 1000"
PROJECT = f"""
mesh: {{namespace: shop}}
resources: policy.yaml
apps:
  cart: {{command: '{SERVER}', protocol: http}}
  stock: {{command: '{SERVER}', protocol: http}}
  web: {{command: '{SLEEPER}', service: null}}
  spy: {{command: '{SLEEPER}', service: null}}
"""
POLICY = """
apiVersion: tulle.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: cart}]
  action: ALLOW
  rules: [{from: [{source: {serviceAccounts: [web]}}]}]
"""


class Project:
    """A project that runs with one process for all sidecars."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tulle.yaml").write_text(PROJECT)
        (folder / "policy.yaml").write_text(POLICY)

    def tulle(self, *words: str, code: int = 0) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "tulle", *words],
            cwd=self.folder,
            env={**os.environ, "TULLE_HOME": str(self.folder / ".tulle")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def state(self, replica: str) -> Path:
        return self.folder / ".tulle" / "sidecars" / replica

    def known(self, replica: str) -> Any:
        return json.loads((self.state(replica) / "sidecar.json").read_text())

    def call(self, replica: str, service: str) -> int:
        try:
            return get(self.known(replica)["addresses"]["proxy"], f"http://{service}/").status
        except OSError:
            return 0

    def metrics(self, replica: str) -> str:
        answer = get(self.known(replica)["addresses"]["admin"], "/metrics", host="localhost")
        return answer.body.decode()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("shared"))
    project.tulle("up", "--shared", "--detach")
    yield project
    project.tulle("down")


REPLICAS = ("cart-1", "stock-1", "web-1", "spy-1")


def test_each_has_its_own_identity_policy_and_metrics_in_one_process(project: Project) -> None:
    assert len({project.known(one)["pid"] for one in REPLICAS}) == 1
    # In turns, so that a connection of web's would be there for spy to be mistaken for it.
    for _ in range(3):
        assert project.call("web-1", "cart") == 200
        assert project.call("spy-1", "cart") == 403
        assert project.call("spy-1", "stock") == 200

    assert 'service="shop/stock"' not in project.metrics("web-1")
    assert 'service="shop/cart"' in project.metrics("web-1")
    assert 'sa/web"' not in project.metrics("stock-1")
    for one in REPLICAS:
        mode = stat.S_IMODE((project.state(one) / "identity.json").stat().st_mode)
        assert mode == 0o600


def switches(pid: int) -> dict[str, int]:
    """Return how often each thread that carries traffic has waited."""
    told = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        if name.startswith("tulle-worker-"):
            lines = (task / "status").read_text().splitlines()
            line = next(line for line in lines if line.startswith("voluntary_ctxt_switches"))
            told[name] = int(line.split()[1])
    return told


def test_each_processor_carries_its_part_of_the_connections(project: Project) -> None:
    pid = project.known("web-1")["pid"]
    before = switches(pid)
    assert len(before) == min(len(os.sched_getaffinity(0)), WORKERS_MAX)

    # The kernel spreads connections by a hash of their ports.
    for _ in range(64 * len(before)):
        assert project.call("web-1", "stock") == 200

    after = switches(pid)
    waited = {name: after[name] - before[name] for name in before}
    assert all(count > 50 for count in waited.values()), waited


class Caller:
    """Calls on through a sidecar as long as it is awaited; keeps every status."""

    def __init__(self, project: Project, replica: str, service: str) -> None:
        self.statuses: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._call_on, args=(project, replica, service))

    def _call_on(self, project: Project, replica: str, service: str) -> None:
        while not self._over.is_set():
            self.statuses.append(project.call(replica, service))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def test_one_restarts_while_another_loses_no_request(project: Project) -> None:
    with Caller(project, "web-1", "stock") as caller:
        assert project.tulle("restart", "cart") == "cart-1\n"

    assert set(caller.statuses) == {200}
    eventually(lambda: project.call("web-1", "cart") == 200, "cart is back")
    assert len({project.known(one)["pid"] for one in REPLICAS}) == 1


def test_all_move_to_a_new_process_without_a_failed_request(project: Project) -> None:
    before = project.known("web-1")["pid"]

    with Caller(project, "web-1", "cart") as good, Caller(project, "spy-1", "cart") as refused:
        assert project.tulle("restart", "--sidecars", "cart") == "cart-1\n"
        assert project.known("cart-1")["pid"] != before
        assert project.known("web-1")["pid"] == before
        project.tulle("restart", "--sidecars", "web", "spy", "stock")

    assert set(good.statuses) == {200}
    assert set(refused.statuses) == {403}
    (now,) = {project.known(one)["pid"] for one in REPLICAS}
    assert now != before
    eventually(lambda: not Path(f"/proc/{before}").exists(), "the old process has ended")


def test_where_the_new_process_fails_the_old_one_goes_on(project: Project) -> None:
    before = project.known("cart-1")["pid"]
    identity = project.state("cart-1") / "identity.json"
    kept = identity.read_bytes()
    identity.write_text("no identity")
    try:
        told = project.tulle("restart", "--sidecars", "cart", code=1)
    finally:
        identity.write_bytes(kept)

    assert "the old one goes on" in told
    assert project.known("cart-1")["pid"] == before
    assert project.call("web-1", "cart") == 200


def test_all_come_back_after_a_crash_of_the_process(project: Project) -> None:
    before = project.known("web-1")["pid"]

    os.kill(before, signal.SIGKILL)

    eventually(lambda: project.known("web-1")["pid"] != before, "there is another process")
    eventually(lambda: project.call("web-1", "cart") == 200, "web calls cart again")
    eventually(lambda: project.call("spy-1", "cart") == 403, "spy is refused as before")
    assert len({project.known(one)["pid"] for one in REPLICAS}) == 1


class Shared:
    """The shared process alone, as the runner drives it."""

    def __init__(self, mesh: Mesh, folder: Path, before: tuple[str, ...]) -> None:
        self.mesh = mesh
        self.folder = folder
        self._told: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [*before, *command(WORKERS_MAX)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, *words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\t".join(words).encode() + b"\n")
        self.process.stdin.flush()

    def add(self, name: str, **changes: Any) -> None:
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        workload = {"namespace": "many", "name": name, "service_account": name, "labels": {}}
        settings = {
            "workload": {**workload, "zone": None},
            "inbound": [
                {
                    "port": 80,
                    "protocol": "http",
                    "listen": "127.0.0.1:0",
                    "app": "127.0.0.1:9",
                    "proxy_protocol": False,
                }
            ],
            "outbound": [],
            "control": self.mesh.hub,
            "state_dir": str(folder),
            "probe": None,
            "access_log_path": None,
            **SETTINGS,
            "workers": WORKERS_MAX,
            **changes,
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        self.ask("add", name, str(folder / "settings.json"), str(folder), "")
        self.ask("join", name, str(self.mesh.roots), self.mesh.plane.new_token("many", name))

    def wait(self, event: str, names: set[str]) -> list[dict[str, Any]]:
        """Return the *event* of each of *names*."""
        assert self.process.stdout is not None
        while True:
            found = {one["sidecar"]: one for one in self._told if one["event"] == event}
            left = names - set(found)
            if not left:
                return [found[name] for name in sorted(names)]
            told = json.loads(self.process.stdout.readline())
            broken = told["sidecar"] in left and told["event"] in {"failed", "ended"} - {event}
            assert not broken, told
            self._told.append(told)

    def proportional_bytes(self) -> int:
        """Return its memory, with its part of what other processes use, too."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        line = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
        return int(line.split()[1]) * 1024


@pytest.fixture
def shared(request: pytest.FixtureRequest, mesh: Mesh, tmp_path: Path) -> Iterator[Shared]:
    """The process; a test may name the words before its command."""
    shared = Shared(mesh, tmp_path, getattr(request, "param", ()))
    yield shared
    shared.process.kill()
    shared.process.communicate()


def test_an_idle_workload_costs_half_a_mebibyte_at_most(shared: Shared) -> None:
    names = [f"w-{number}" for number in range(MANY)]
    for name in names[:FEW]:
        shared.add(name)
    shared.wait("ready", set(names[:FEW]))
    few = shared.proportional_bytes()
    for name in names[FEW:]:
        shared.add(name)
    shared.wait("ready", set(names[FEW:]))

    each = (shared.proportional_bytes() - few) / (MANY - FEW) / 2**20
    assert each <= MIB_PER_WORKLOAD_MAX, f"{each:.3f} MiB, {few / 2**20:.1f} MiB with {FEW}"

    shared.process.send_signal(signal.SIGTERM)
    shared.wait("ended", set(names))
    assert shared.process.wait(10) == 0


def test_one_that_cannot_start_is_named_and_the_others_run(shared: Shared) -> None:
    shared.add("good")
    shared.add("odd", workers=0)
    (failed,) = shared.wait("failed", {"odd"})
    assert "workers" in failed["error"]
    shared.wait("ended", {"odd"})
    shared.wait("ready", {"good"})
    shared.add("single", workers=1)
    (failed,) = shared.wait("failed", {"single"})
    assert f"allowed: {WORKERS_MAX}" in failed["error"]

    shared.ask("add", "lost", str(shared.folder / "none.json"), str(shared.folder), "")
    (failed,) = shared.wait("failed", {"lost"})
    assert "No such file" in failed["error"]
    shared.add("late", control="127.0.0.1:9")
    shared.ask("drain", "late")
    shared.wait("ended", {"late"})

    shared.ask("drain", "good")
    shared.wait("ended", {"good"})


FILES = 400


@pytest.mark.parametrize("shared", [("prlimit", f"--nofile={FILES}:{FILES}")], indirect=True)
def test_one_that_is_flooded_leaves_room_for_the_others(shared: Shared) -> None:
    for name in ("loud", "quiet"):
        shared.add(name)
    loud, quiet = (
        told["addresses"]["proxy"] for told in shared.wait("listening", {"loud", "quiet"})
    )
    shared.wait("ready", {"loud", "quiet"})

    held = [connect(loud) for _ in range(FILES)]

    with pytest.raises(OSError, match=r"(?i)closed|reset"):
        get(loud, "http://nobody/")
    for _ in range(3):
        assert get(quiet, "http://nobody/").status == 404
    for one in held:
        one.close()
    eventually(lambda: answers(loud), "it has room again")


def answers(proxy: str) -> bool:
    try:
        return get(proxy, "http://nobody/").status == 404
    except OSError:
        return False
