"""The demo as a user runs it: by the command line, in an empty folder."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CHECK_SECONDS = "8"


def test_the_check_finds_nothing_wrong_and_tells_what_it_saw(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tulle", "demo", "--check", "--seconds", CHECK_SECONDS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )

    told = json.loads(ended.stdout)
    assert (ended.returncode, told["failures"], told["ok"]) == (0, [], True), ended.stderr
    assert told["success_rate"] == 1
    assert told["requests"] > 500
    assert all(edge["mtls"] for edge in told["edges"])
    assert set(told["rss_mib"]["sidecars"]) >= {"web-1", "cart-1", "payments-1", "catalog-v2-1"}
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running demo in the folder `folder`, its output in the file `output`."""
    (tmp_path / "folder").mkdir()
    with (tmp_path / "output").open("w") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "tulle", "demo"],
            cwd=tmp_path / "folder",
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    yield running
    running.send_signal(signal.SIGINT)
    running.wait(30)


def test_the_demo_runs_until_ctrl_c_and_leaves_nothing(
    tmp_path: Path, demo: "subprocess.Popen[bytes]"
) -> None:
    output, folder = tmp_path / "output", tmp_path / "folder"
    deadline = time.monotonic() + 60
    while "try in another terminal" not in output.read_text():
        assert demo.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)

    command = [sys.executable, "-m", "tulle", "edges", "-n", "shop"]
    while "recommendations" not in subprocess.check_output(command, cwd=folder, text=True):
        assert time.monotonic() < deadline
    front = re.search(r"its front: (http://\S+)", output.read_text())
    assert front is not None
    with urllib.request.urlopen(f"{front[1]}snoop", timeout=10) as page:
        assert json.load(page) == {"payments": "PERMISSION_DENIED"}
    os.killpg(demo.pid, signal.SIGINT)

    assert demo.wait(30) == 0
    assert list(folder.iterdir()) == []
