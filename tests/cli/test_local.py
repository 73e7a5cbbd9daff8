"""The commands that start or ask processes: their flags, and what they say when nothing runs."""

import json
import socket
import subprocess
import sys

import pytest

from tulle.cli.commands.run import parse_labels
from tulle.cli.exits import CommandError, ExitCode


def test_init_writes_a_project_that_up_accepts(tulle, folder):
    result = tulle("init")
    assert result.code == ExitCode.OK
    assert result.out.strip().endswith("tulle.yaml")
    assert (folder / "tulle.yaml").is_file()
    again = tulle("init")
    assert again.code == ExitCode.CONFLICT
    assert "tulle.yaml" in again.err


@pytest.mark.parametrize("arguments", [("up",), ("up", "-d"), ("up", "-c", "other.yaml")])
def test_up_without_a_project_says_how_to_make_one(tulle, arguments):
    result = tulle(*arguments)
    assert result.code == ExitCode.NOT_FOUND
    assert "tulle init" in result.err


def test_up_tells_every_mistake_of_the_project(tulle, folder):
    (folder / "tulle.yaml").write_text("apps:\n  web:\n    comand: x\n    port: 99999\n")
    result = tulle("up")
    assert result.code == ExitCode.REJECTED
    assert "tulle.yaml:3:" in result.err
    assert "tulle.yaml:4" in result.err
    assert "nothing was changed" in result.err


@pytest.mark.parametrize("arguments", [("ps",), ("ps", "-o", "json"), ("restart", "web")])
def test_asking_a_mesh_that_does_not_run(tulle, arguments):
    result = tulle(*arguments)
    assert result.code == ExitCode.UNREACHABLE
    assert result.out == ""
    assert "tulle up" in result.err


def test_stopping_what_does_not_run_is_no_error(tulle):
    result = tulle("down")
    assert (result.code, result.err) == (ExitCode.OK, "nothing was running\n")


@pytest.fixture
def log(folder):
    logs = folder / ".tulle" / "logs"
    logs.mkdir(parents=True)
    (logs / "cart-1.log").write_text(
        "2026-01-01T10:00:00.000Z first\n2026-01-01T10:00:02.000Z third\n"
    )
    (logs / "web-1.log").write_text("2026-01-01T10:00:01.000Z second\n")
    return logs


def test_logs_are_in_the_order_of_time(tulle, log):
    assert [line.split("| ")[1] for line in tulle("logs").lines] == ["first", "second", "third"]
    assert [line.split("| ")[1] for line in tulle("logs", "cart").lines] == ["first", "third"]
    assert len(tulle("logs", "--tail", "1").lines) == 1


def test_logs_of_one_replica_with_its_sidecar(tulle, log):
    (log / "web-1.sidecar.log").write_text("2026-01-01T10:00:03.000Z beside\n")
    assert len(tulle("logs", "web-1").lines) == 1
    assert tulle("logs", "--sidecars", "web-1").lines[1].endswith("beside")


def test_logs_as_ndjson(tulle, log):
    first = json.loads(tulle("logs", "-o", "ndjson").lines[0])
    assert first == {"time": "2026-01-01T10:00:00+00:00", "process": "cart-1", "text": "first"}


def test_logs_of_an_unknown_app_name_those_there_are(tulle, log):
    result = tulle("logs", "crat")
    assert result.code == ExitCode.NOT_FOUND
    assert "cart" in result.err


def test_run_of_a_service_needs_a_port(tulle):
    result = tulle("run", "--service", "cart", "--", "python", "cart.py")
    assert result.code == ExitCode.USAGE
    assert "hint: tulle run --service cart --port 9000 -- python cart.py" in result.err


def test_run_needs_a_program(tulle):
    assert tulle("run", "--service", "cart", "--port", "1").code == ExitCode.USAGE


def test_labels_are_pairs():
    assert parse_labels(("a=b", "c=d=e", "f=")) == {"a": "b", "c": "d=e", "f": ""}
    for wrong in ("a", "=b"):
        with pytest.raises(CommandError):
            parse_labels((wrong,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--certificate-ttl", "1s"), "a certificate cannot live 1s"),
        (("--certificate-ttl", "48h"), "a certificate cannot live 172800s"),
        (("--listen", "127.0.0.1:0"), "the API on TCP needs a token"),
    ],
)
def test_the_server_refuses_settings_that_cannot_work(tulle, arguments, message):
    result = tulle("server", *arguments)
    assert result.code == ExitCode.USAGE
    assert message in result.err
    assert "hint: " in result.err


def test_the_server_names_a_busy_port(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "tulle", "server", "--hub", f"127.0.0.1:{port}"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode not in {ExitCode.OK, ExitCode.BUG}
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sidecar_takes_its_token_one_way(tulle, folder):
    (folder / "s.json").write_text("{}")
    (folder / "t").write_text("secret")
    result = tulle("sidecar", "--settings", "s.json", "--token-fd", "3", "--token-file", "t")
    assert result.code == ExitCode.USAGE
    assert "not both" in result.err
