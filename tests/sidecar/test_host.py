"""The host process: what it holds, what it says, and how signals end it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tulle.sidecar.host import TOKEN_BYTES_MAX, _read_token
from tulle.sidecar.launch import ROOT, host_command

pytestmark = pytest.mark.e2e

HEAVY = {"asyncio", "ssl", "logging", "json", "threading", "socket", "typing", "re", "enum"}
"""What would cost more memory than the host itself."""

RSS_MIB_MAX = 20


def settings(folder: Path) -> dict[str, Any]:
    return {
        "workload": {
            "namespace": "shop",
            "name": "cart-1",
            "service_account": "cart",
            "labels": {},
            "zone": None,
        },
        "trust_domain": "tulle.local",
        "inbound": [
            {
                "port": 80,
                "protocol": "http",
                "listen": "127.0.0.1:0",
                "app": "127.0.0.1:9",
                "proxy_protocol": False,
            }
        ],
        "outbound": [{"service": "shop/redis", "port": 6379, "listen": "127.0.0.1:0"}],
        "proxy_listen": "127.0.0.1:0",
        "admin_listen": "127.0.0.1:0",
        "control": "127.0.0.1:9",
        "state_dir": str(folder / "state"),
        "probe": None,
        "workers": 1,
        "access_log": "off",
        "access_log_path": None,
        "drain_seconds": 1,
        "reason_header": True,
        "roots_pem_path": None,
    }


class Host:
    """A running host, and the pipe that its token comes through."""

    def __init__(self, folder: Path) -> None:
        file = folder / "settings.json"
        file.write_text(json.dumps(settings(folder)))
        reader, self.token = os.pipe()
        self.process = subprocess.Popen(
            host_command(file, reader), stdout=subprocess.PIPE, pass_fds=(reader,)
        )
        os.close(reader)

    def event(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self.token)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    running = Host(tmp_path)
    yield running
    running.close()


def test_it_listens_and_tells_where_before_it_has_a_token(host: Host, tmp_path: Path) -> None:
    event = host.event()

    assert event["event"] == "listening"
    assert event["pid"] == host.process.pid
    assert [one["port"] for one in event["addresses"]["inbound"]] == [80]
    told = json.loads((tmp_path / "state" / "sidecar.json").read_text())
    assert told == {"pid": event["pid"], "addresses": event["addresses"]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_it_waits_for_its_token(host: Host, number: int) -> None:
    host.event()

    host.process.send_signal(number)

    assert host.process.wait(5) == 0


def test_it_fails_with_a_reason_when_it_can_neither_join_nor_start_from_a_cache(
    host: Host,
) -> None:
    host.event()

    os.close(os.dup2(os.open(os.devnull, os.O_WRONLY), host.token))
    event = host.event()

    assert event["event"] == "failed"
    assert event["error"]
    assert host.process.wait(15) == 1
    host.token = os.open(os.devnull, os.O_WRONLY)


def test_it_stays_small(host: Host) -> None:
    host.event()

    status = Path(f"/proc/{host.process.pid}/status").read_text()
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert rss / 1024 < RSS_MIB_MAX


@pytest.mark.parametrize("module", ["host", "shared"])
def test_it_imports_nothing_heavy(module: str) -> None:
    program = (
        f"import sys; sys.path.append({ROOT!r}); import tulle.sidecar.{module}; "
        "sys.stdout.write(' '.join(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    )

    assert HEAVY & set(loaded.stdout.split()) == set()


def test_a_token_has_so_many_bytes_however_they_come() -> None:
    writer, reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with writer:
        writer.send(b"x" * (TOKEN_BYTES_MAX - 1))
        writer.send(b"yz")

    assert _read_token(reader.detach()) == "x" * (TOKEN_BYTES_MAX - 1) + "y"
