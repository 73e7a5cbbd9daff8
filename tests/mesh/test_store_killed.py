"""A writer is killed a hundred times: what it was told is stored is there, and nothing is torn.

The writer commits batches of three objects that all carry the batch's number, and tells each
number on its standard output when `commit` has returned. It is killed with SIGKILL as soon as a
random number of acknowledgements has been read, that is, while it writes on. Each writer is
forked from a process that has imported everything, so that a hundred of them start quickly.
"""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tulle.mesh.store import Store

KILLS = 100
OBJECTS = 3
HISTORY = 500

NURSERY = """
import os, sys
from pathlib import Path
from tulle.mesh.change import Put
from tulle.mesh.store import Store
from tulle.resources.parse import parse_object

def service(name, number):
    spec = {"ports": [{"port": 80}]}
    metadata = {"name": name, "annotations": {"number": str(number)}}
    return Put(parse_object(
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    ))

def say(word, number):
    # In one call: two processes write to the pipe, and print may need several.
    os.write(1, f"{word} {number}\\n".encode())

def write(path, number, objects, history):
    store = Store(Path(path), history_max=history)
    while True:
        number += 1
        store.commit([service(f"s{index}", number) for index in range(objects)])
        say("stored", number)

for line in sys.stdin:
    path, *numbers = line.split()
    writer = os.fork()
    if writer == 0:
        write(path, *map(int, numbers))
    say("writer", writer)
    os.waitpid(writer, 0)
    say("dead", writer)
"""


class _Nursery:
    """Starts writers, one at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def write_and_die(self, path: Path, start: int, acknowledgements: int) -> int:
        """Let a writer go on from *start*, kill it, and return the last number it told."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path} {start} {OBJECTS} {HISTORY}\n")
        self.process.stdin.flush()
        said = {"stored": start}
        while "writer" not in said or said["stored"] < start + acknowledgements:
            said |= self._said()
        os.kill(said["writer"], signal.SIGKILL)
        while "dead" not in said:
            said |= self._said()
        return said["stored"]

    def _said(self) -> dict[str, int]:
        assert self.process.stdout is not None
        word, number = self.process.stdout.readline().split()
        return {word: int(number)}


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_and_nothing_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    seeded = random.Random(20260101)
    stored = 0
    with _Nursery() as nursery:
        for _ in range(KILLS):
            acknowledged = nursery.write_and_die(path, stored, seeded.randint(1, 8))

            stored = _check(path, acknowledged)

    assert stored >= KILLS


def _check(path: Path, acknowledged: int) -> int:
    """Check the store after a kill; return the number that it holds."""
    store = Store(path, history_max=HISTORY)
    store.check_integrity()
    resources = store.list().resources
    numbers = {int(resource.metadata.annotations["number"]) for resource in resources}
    assert len(resources) == OBJECTS
    assert len(numbers) == 1, "a batch was torn"
    (number,) = numbers
    assert number in (acknowledged, acknowledged + 1), "one more may have reached the disk untold"
    assert store.revision == number * OBJECTS
    oldest = max(0, store.revision - HISTORY)
    events = store.events(oldest)
    assert [event.revision for event in events] == list(range(oldest + 1, store.revision + 1))
    assert events[-1].resource == store.get(events[-1].resource.key)
    store.close()
    return number
