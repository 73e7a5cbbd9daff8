"""Before the host runs: ports kept from the last run, whom it succeeds, and wrong settings."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tulle.errors import SettingsError
from tulle.sidecar.launch import (
    TUNABLES,
    environment,
    exec_host,
    host_command,
    keep_ports,
    runs_already,
)


def settings(**changes: Any) -> dict[str, Any]:
    given = {
        "proxy_listen": "127.0.0.1:0",
        "admin_listen": "127.0.0.1:0",
        "inbound": [{"port": 80, "listen": "127.0.0.1:0"}],
        "outbound": [{"service": "shop/cart", "port": 80, "listen": "127.0.0.1:0"}],
    }
    return {**given, **changes}


@pytest.fixture
def last_run(tmp_path: Path) -> dict[str, str]:
    """A state folder with the addresses of a run before; they are free now."""
    addresses = {}
    holders = []
    for name in ("proxy", "admin", "inbound", "outbound"):
        holder = socket.create_server(("127.0.0.1", 0))
        addresses[name] = f"127.0.0.1:{holder.getsockname()[1]}"
        holders.append(holder)
    for holder in holders:
        holder.close()
    told = {
        "proxy": addresses["proxy"],
        "admin": addresses["admin"],
        "inbound": [{"port": 80, "listen": addresses["inbound"]}],
        "outbound": [{"service": "shop/cart", "port": 80, "listen": addresses["outbound"]}],
    }
    (tmp_path / "sidecar.json").write_text(json.dumps({"pid": 1, "addresses": told}))
    return addresses


def test_a_second_run_listens_where_the_first_did(tmp_path: Path, last_run: dict[str, str]) -> None:
    given = settings()

    assert keep_ports(given, tmp_path) == []
    assert (given["proxy_listen"], given["admin_listen"]) == (last_run["proxy"], last_run["admin"])
    assert given["inbound"][0]["listen"] == last_run["inbound"]
    assert given["outbound"][0]["listen"] == last_run["outbound"]


def test_a_port_that_somebody_took_is_given_up_with_an_event(
    tmp_path: Path, last_run: dict[str, str]
) -> None:
    given = settings()
    port = int(last_run["inbound"].rpartition(":")[2])

    with socket.create_server(("127.0.0.1", port)):
        events = keep_ports(given, tmp_path)

    was = last_run["inbound"]
    assert events == [{"event": "port-changed", "listener": "inbound 80", "was": was}]
    assert given["inbound"][0]["listen"] == "127.0.0.1:0"


def test_an_address_that_the_settings_name_is_never_changed(
    tmp_path: Path, last_run: dict[str, str]
) -> None:
    given = settings(proxy_listen="127.0.0.1:15001", outbound=[])

    keep_ports(given, tmp_path)

    assert given["proxy_listen"] == "127.0.0.1:15001"


@pytest.mark.parametrize("text", ["", "{", '{"pid": 1}'], ids=["empty", "torn", "foreign"])
def test_a_spoiled_record_of_the_last_run_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "sidecar.json").write_text(text)
    given = settings()

    assert keep_ports(given, tmp_path) == []
    assert given == settings()


WRONG = [("{", "Expecting property name"), ("{}", "'state_dir' is missing")]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "settings.json"
    file.write_text(text)

    with pytest.raises(SettingsError, match=message):
        exec_host(file)
    told = subprocess.run(host_command(file, None), capture_output=True, check=False)
    assert (told.returncode, json.loads(told.stdout)["event"]) == (1, "failed")


def test_missing_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        exec_host(tmp_path / "gone.json")


def test_the_host_is_a_bare_interpreter(tmp_path: Path) -> None:
    command = host_command(tmp_path / "s.json", 5)

    assert command[:4] == [sys.executable, "-I", "-S", "-c"]
    assert f"'{tmp_path}/s.json', 5" in command[4]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(None, TUNABLES), ("glibc.malloc.check=3", f"{TUNABLES}:glibc.malloc.check=3")],
)
def test_the_host_copies_quickly_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: str | None, wanted: str
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if given is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", given)

    assert environment()["GLIBC_TUNABLES"] == wanted


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    """The state folder of a sidecar that waits for a successor, and holds its ports."""
    with socket.socket(socket.AF_UNIX) as meeting:
        meeting.bind(str(tmp_path / "takeover.sock"))
        meeting.listen()
        yield tmp_path


def test_a_successor_is_told_the_ports_that_the_running_one_holds(
    running: Path, last_run: dict[str, str]
) -> None:
    given = settings()
    port = int(last_run["inbound"].rpartition(":")[2])

    with socket.create_server(("127.0.0.1", port)):
        assert runs_already(running)
        assert keep_ports(given, running, succeeds=True) == []

    assert given["inbound"][0]["listen"] == last_run["inbound"]


def test_what_a_dead_sidecar_has_left_is_nobody_to_succeed(running: Path) -> None:
    with socket.socket(socket.AF_UNIX) as meeting:
        (running / "takeover.sock").unlink()
        meeting.bind(str(running / "takeover.sock"))

    assert not runs_already(running)
