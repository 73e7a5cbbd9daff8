"""The control plane is killed while it writes: what it has acknowledged is there afterwards."""

import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.processes import eventually
from tests.e2e.security_support import Mesh, running_mesh
from tulle.errors import TulleError

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

KILLS = 5
WRITES_BETWEEN = 20


class Writer(threading.Thread):
    """Creates services in pairs, each pair in one batch, and notes what was acknowledged."""

    def __init__(self, mesh: Mesh, name: str) -> None:
        super().__init__()
        self.acknowledged: list[str] = []
        self.asked: list[str] = []
        self.revisions: list[int] = []
        self._mesh = mesh
        self._name = name
        self._ending = threading.Event()

    def run(self) -> None:
        """Write until `end`, whether somebody answers or not."""
        while not self._ending.is_set():
            name = f"{self._name}-{len(self.asked)}"
            self.asked.append(name)
            pair = [service(f"{name}-left"), service(f"{name}-right")]
            body = {"resources": pair, "dry_run": False}
            try:
                answer = self._mesh.plane.call("POST", "/tulle/v1/apply", body)
            except TulleError:
                self._ending.wait(0.02)
                continue
            self.acknowledged.append(name)
            self.revisions.append(answer["revision"])

    def end(self) -> None:
        """Stop, and wait for the last answer."""
        self._ending.set()
        self.join()


def service(name: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80}]},
    }


def stored(mesh: Mesh) -> set[str]:
    listed = mesh.plane.call("GET", "/api/v1/namespaces/default/services")
    return {one["metadata"]["name"] for one in listed["items"]}


def is_intact(database: Path) -> bool:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        answer: str = connection.execute("PRAGMA integrity_check").fetchone()[0]
    return answer == "ok"


def test_what_is_acknowledged_survives_a_sigkill_and_batches_are_whole(tmp_path: Path) -> None:
    with running_mesh(tmp_path) as mesh:
        writers = [Writer(mesh, name) for name in ("one", "two")]
        for writer in writers:
            writer.start()
        for _ in range(KILLS):
            wanted = [len(writer.acknowledged) + WRITES_BETWEEN for writer in writers]
            eventually(partial(written, writers, wanted), "both go on writing")
            mesh.server.kill()
            mesh.start_server()
        for writer in writers:
            writer.end()

        names = stored(mesh)

        for writer in writers:
            assert writer.revisions == sorted(set(writer.revisions))
            for name in writer.asked:
                halves = {f"{name}-left", f"{name}-right"} & names
                assert len(halves) == 2 or (not halves and name not in writer.acknowledged), name
        assert is_intact(mesh.home / "mesh.db")


def written(writers: list[Writer], wanted: list[int]) -> bool:
    counts = (len(writer.acknowledged) for writer in writers)
    return all(count >= least for count, least in zip(counts, wanted, strict=True))
