"""`tulle up` with everything real: control plane, sidecars, programs."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tulle.errors import NotFound, StartError, Unreachable
from tulle.local import remote
from tulle.local.logs import read_logs
from tulle.local.starter import write_starter
from tulle.local.status import AppStatus
from tulle.local.up import UpOptions, up_detached

pytestmark = pytest.mark.e2e

Eventually = Callable[[Callable[[], Any], str], Any]

HELLO = """
  hello:
    command: python3 -m http.server $PORT --bind 127.0.0.1
    replicas: 2
    readiness: {http: /}
"""

CALLER = """
  caller: {command: python3 -u caller.py, service: null, dependsOn: [hello]}
"""

CALLER_PROGRAM = """
import time, urllib.request
while True:
    print('answered', urllib.request.urlopen('http://hello/').status)
    time.sleep(0.05)
"""


class Running:
    """A project in a folder of its own, stopped at the end of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / ".tulle"

    def write(self, apps: str, **files: str) -> UpOptions:
        for name, text in files.items():
            (self.folder / f"{name}.yaml").write_text(text)
        (self.folder / "caller.py").write_text(CALLER_PROGRAM)
        resources = [f"{name}.yaml" for name in files]
        text = f"resources: {json.dumps(resources)}\napps:{apps}"
        (self.folder / "tulle.yaml").write_text(text)
        return UpOptions(project=self.folder / "tulle.yaml", home=self.home)

    def up(self, apps: str, **files: str) -> dict[str, AppStatus]:
        return {one.name: one for one in up_detached(self.write(apps, **files), 30)}

    def status(self, name: str) -> AppStatus:
        return next(one for one in remote.status(self.home) if one.name == name)

    def pids(self) -> list[int]:
        found = remote.status(self.home)
        runner = json.loads((self.home / "up.json").read_text())["pid"]
        pids = [pid for one in found for pid in (one.pid, one.sidecar_pid) if pid]
        return [*pids, runner]

    def lines(self, name: str) -> list[str]:
        return [line.text for line in read_logs(self.home, [name])]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and not is_zombie(pid)]


def is_zombie(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    remote.down(running.home)


def test_programs_call_each_other_by_name_and_down_leaves_nothing(
    project: Running, eventually: Eventually
) -> None:
    found = project.up(HELLO + CALLER)

    assert {name: one.state for name, one in found.items()} == {
        "control-plane": "ready",
        "hello-1": "ready",
        "hello-2": "ready",
        "caller-1": "running",
    }
    eventually(lambda: project.lines("caller").count("answered 200") > 5, "calls are answered")
    pids = project.pids()
    assert len(alive(pids)) == 8

    assert remote.down(project.home) is True
    eventually(lambda: not alive(pids), "all processes have ended")
    assert remote.down(project.home) is False
    with pytest.raises(Unreachable, match="tulle up"):
        remote.status(project.home)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_however_the_runner_ends_no_process_is_left(
    project: Running, eventually: Eventually, number: int
) -> None:
    project.up(HELLO + CALLER)
    pids = project.pids()

    os.kill(pids[-1], number)

    eventually(lambda: not alive(pids), "all processes have ended")
    assert project.up(HELLO)["hello-1"].state == "ready"


def test_what_cannot_run_is_named_with_what_to_do(project: Running, eventually: Eventually) -> None:
    def failure(name: str) -> str | None:
        found = project.status(name)
        return found.reason if found.state == "failed" else None

    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        project.up(
            "\n  missing: {command: [no-such-program]}"
            "\n  shell: {command: no-such-program --flag}"
            f"\n  busy: {{command: sleep 100, port: {port}}}"
            "\n  crash: {command: 'echo the reason; exit 3', service: null}"
        )

        missing = eventually(lambda: failure("missing-1"), "missing has failed")
        busy = eventually(lambda: failure("busy-1"), "busy has failed")

    assert 'command "no-such-program" not found; install it' in missing
    assert "tulle.yaml:3" in missing
    assert f"port {port} is in use by process {os.getpid()}" in busy


def test_a_crashed_program_is_started_again_ever_more_slowly(
    project: Running, eventually: Eventually
) -> None:
    project.up(HELLO + "\n  crash: {command: 'echo the reason; exit 3', service: null}\n")

    crashed = eventually(
        lambda: (one := project.status("crash-1")).restarts >= 3 and one, "it is restarted"
    )

    assert crashed.state in {"backoff", "running"}
    words = (project.home / "logs" / "up.out").read_text()
    assert "crash-1 exited with code 3" in words
    assert "restart 1 in 0.2 s" in words
    assert "restart 3 in 0.8 s" in words
    assert "  the reason" in words


def test_an_app_waits_for_what_it_depends_on(project: Running, eventually: Eventually) -> None:
    options = project.write(
        "\n  late: {command: 'sleep 2; exec python3 -m http.server $PORT --bind 127.0.0.1'}"
        "\n  caller: {command: 'echo started; sleep 100', service: null, dependsOn: [late]}\n"
    )
    runner = subprocess.Popen(
        [sys.executable, "-m", "tulle", "up"],
        cwd=options.project.parent,
        stdout=subprocess.DEVNULL,
    )

    def waits() -> bool:
        try:
            return project.status("caller-1").reason == "for late"
        except (Unreachable, StopIteration):
            return False

    eventually(waits, "the caller waits")
    assert project.lines("caller") == []
    eventually(lambda: project.lines("caller") == ["started"], "the caller is started")
    assert project.status("late-1").state == "ready"
    runner.send_signal(signal.SIGINT)
    assert runner.wait(15) == 0


def test_a_restart_takes_one_replica_after_the_other_and_loses_no_call(
    project: Running, eventually: Eventually
) -> None:
    before = project.up(HELLO + CALLER)
    eventually(lambda: project.lines("caller"), "calls are answered")

    assert remote.restart(project.home, ["hello"]) == ["hello-1", "hello-2"]
    with pytest.raises(NotFound, match='no app "helo" is running; did you mean "hello"'):
        remote.restart(project.home, ["helo"])

    after = {one.name: one for one in remote.status(project.home)}
    assert after["hello-1"].pid != before["hello-1"].pid
    assert after["hello-1"].ports == before["hello-1"].ports
    assert after["caller-1"].restarts == 0
    assert set(project.lines("caller")) == {"answered 200"}


def test_new_sidecars_take_over_while_the_apps_go_on(
    project: Running, eventually: Eventually
) -> None:
    before = project.up(HELLO + CALLER)
    eventually(lambda: project.lines("caller"), "calls are answered")

    replaced = remote.restart(project.home, ["hello", "caller"], sidecars=True)
    assert replaced == ["hello-1", "hello-2", "caller-1"]
    with pytest.raises(NotFound, match='no app "control-plane" is running'):
        remote.restart(project.home, ["control-plane"], sidecars=True)

    after = {one.name: one for one in remote.status(project.home)}
    old = {one.sidecar_pid for one in before.values() if one.sidecar_pid}
    assert not old & {one.sidecar_pid for one in after.values()}
    assert {name: one.pid for name, one in after.items()} == {
        name: one.pid for name, one in before.items()
    }
    seen = len(project.lines("caller"))
    eventually(lambda: len(project.lines("caller")) > seen + 5, "calls go on")
    eventually(lambda: not alive(list(old)), "the old sidecars have ended")
    assert set(project.lines("caller")) == {"answered 200"}


LAST_WORDS = """
  hello: {command: python3 -m http.server $PORT --bind 127.0.0.1}
  leaver: {command: python3 -u leaver.py, dependsOn: [hello]}
"""

LEAVER_PROGRAM = """
import http.server, os, signal, sys, urllib.request
def call(when):
    print(when, urllib.request.urlopen('http://hello/', timeout=5).status)
def leave(*_):
    call('last')
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
call('first')
place = ('127.0.0.1', int(os.environ['PORT']))
http.server.HTTPServer(place, http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.mark.parametrize("end", ["restart", "down"])
def test_an_app_can_call_from_its_first_moment_to_its_last(project: Running, end: str) -> None:
    """Its sidecar serves before it starts, and ends after it."""
    (project.folder / "leaver.py").write_text(LEAVER_PROGRAM)
    project.up(LAST_WORDS)

    if end == "restart":
        assert remote.restart(project.home, ["leaver"]) == ["leaver-1"]
    else:
        assert remote.down(project.home)

    calls = [line for line in project.lines("leaver") if line.startswith(("first", "last"))]
    assert calls[:2] == ["first 200", "last 200"]
    assert calls[2:] == (["first 200"] if end == "restart" else [])


def test_a_killed_control_plane_comes_back_and_calls_go_on(
    project: Running, eventually: Eventually
) -> None:
    killed = project.up(HELLO + CALLER)["control-plane"].pid
    assert killed is not None
    eventually(lambda: project.lines("caller"), "calls are answered")

    os.kill(killed, signal.SIGKILL)

    eventually(lambda: project.status("control-plane").restarts == 1, "its end is seen")
    eventually(lambda: project.status("control-plane").state == "ready", "it is back")
    count = len(project.lines("caller"))
    eventually(lambda: len(project.lines("caller")) > count + 5, "calls go on")
    assert set(project.lines("caller")) == {"answered 200"}


def test_a_killed_sidecar_comes_back_at_the_same_addresses(
    project: Running, eventually: Eventually
) -> None:
    before = project.up(HELLO + CALLER)["caller-1"]
    told = project.home / "sidecars" / "caller-1" / "sidecar.json"
    addresses = json.loads(told.read_text())["addresses"]
    assert before.sidecar_pid is not None

    os.kill(before.sidecar_pid, signal.SIGKILL)

    eventually(
        lambda: project.status("caller-1").sidecar_pid not in (None, before.sidecar_pid),
        "another sidecar runs",
    )
    eventually(lambda: json.loads(told.read_text())["pid"] != before.sidecar_pid, "it listens")
    assert json.loads(told.read_text())["addresses"] == addresses
    count = len(project.lines("caller"))
    eventually(lambda: len(project.lines("caller")) > count + 5, "calls go on")


def test_a_second_runner_is_refused(project: Running) -> None:
    project.up(HELLO)

    with pytest.raises(StartError, match="is running already; see: tulle ps"):
        up_detached(project.write(HELLO))


def test_wrong_resources_stop_the_start_and_nothing_is_left(project: Running) -> None:
    route = (
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n"
        "metadata: {name: hello}\nspec: {parentRef: []}\n"
    )
    with pytest.raises(StartError, match="parentRef"):
        project.up(HELLO, routes=route)
    assert remote.down(project.home) is False


RUNS = [(["sh", "-c", "exit 3"], 3), (["sh", "-c", "kill -9 $$"], 137), (["no-such-program"], 1)]


@pytest.mark.parametrize(("command", "code"), RUNS, ids=["code", "signal", "missing"])
def test_run_ends_with_the_code_of_its_program(
    tmp_path: Path, command: list[str], code: int
) -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "tulle",
            "run",
            "--service",
            "one",
            "--port",
            "9217",
            "--",
            *command,
        ],
        cwd=tmp_path,
        env={**os.environ, "TULLE_HOME": str(tmp_path / ".tulle")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == code, ended.stderr
    if code == 3:
        assert "meshed as spiffe://tulle.local/ns/default/sa/one; outbound http://" in ended.stderr
    if command == ["no-such-program"]:
        assert 'command "no-such-program" not found; install it' in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_passes_on_how_a_program_ends_that_was_asked_to(
    tmp_path: Path, number: signal.Signals
) -> None:
    program = "import signal; signal.signal(15, lambda *_: exit(7)); print(1, flush=True)"
    command = [sys.executable, "-m", "tulle", "run", "--", sys.executable, "-c"]
    runner = subprocess.Popen(
        [*command, f"{program}; signal.pause()"],
        env={**os.environ, "TULLE_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    assert runner.stdout is not None
    with runner:
        runner.stdout.readline()
        runner.send_signal(number)

    assert runner.returncode == 7


def test_run_joins_the_mesh_that_is_there(project: Running) -> None:
    project.up(HELLO)
    program = "import urllib.request; print(urllib.request.urlopen('http://hello/').status)"

    ended = subprocess.run(
        [sys.executable, "-m", "tulle", "run", "--", sys.executable, "-c", program],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (0, "200\n"), ended.stderr
    assert project.status("hello-1").state == "ready"


def test_run_takes_its_service_with_it_when_it_ends(project: Running) -> None:
    project.up(HELLO)
    program = [sys.executable, "-m", "tulle", "run", "--service", "one", "--port", "8123", "--"]
    names = [sys.executable, "-m", "tulle", "get", "services", "-o", "name"]

    during = subprocess.check_output([*program, *names], cwd=project.folder, text=True)
    after = subprocess.check_output(names, cwd=project.folder, text=True)

    assert (during.split(), after.split()) == (
        ["service/default/hello", "service/default/one"],
        ["service/default/hello"],
    )


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("source", ["init", "hello"])
def test_the_starter_and_the_example_work_as_they_are(
    project: Running, eventually: Eventually, source: str
) -> None:
    if source == "init":
        write_starter(project.folder)
    else:
        shutil.copytree(EXAMPLES / source, project.folder, dirs_exist_ok=True)

    up_detached(UpOptions(project=project.folder / "tulle.yaml", home=project.home))

    eventually(lambda: any("200" in line for line in project.lines("caller")), "hello answers")
