"""The server as a process: it says when it serves, is alone, joins sidecars, and ends cleanly."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tulle._engine import Engine
from tulle.control.datadir import AddressInUse, bind_unix
from tulle.errors import SettingsError

RUN = """
import sys
from pathlib import Path
from tulle.control.server import ServerSettings, run
run(ServerSettings(Path(sys.argv[1]), hub="127.0.0.1:0"))
"""
WAIT_S = 20.0
POLL = threading.Event()
"""Never set: real processes tell of their state in files and answers only, which are polled."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the server's socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=WAIT_S)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(str(self.path))


def wait_until(condition):
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        POLL.wait(0.02)
    return found


class Server:
    """One server process."""

    def __init__(self, data_dir):
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(data_dir)], stderr=subprocess.PIPE, text=True
        )

    def facts(self):
        path = self.data_dir / "server.json"
        wait_until(lambda: path.exists() or self.process.poll() is not None)
        return json.loads(path.read_text())

    def call(self, method, path, body=None):
        connection = UnixConnection(self.data_dir / "api.sock")
        headers = {"content-type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        found = json.loads(answer.read())
        connection.close()
        return found

    def stop(self):
        self.process.terminate()
        _, errors = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, errors


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "data")
    yield server
    if server.process.poll() is None:
        server.process.kill()
        server.process.communicate()


@pytest.mark.e2e
def test_it_is_private_alone_and_ends_with_streams_open(server, tmp_path):
    facts = server.facts()
    assert facts["pid"] == server.process.pid
    modes = [Path(path).stat().st_mode & 0o777 for path in (server.data_dir, facts["socket"])]
    assert modes == [0o700, 0o600]

    second = Server(server.data_dir)
    _, errors = second.process.communicate(timeout=WAIT_S)
    assert second.process.returncode != 0
    assert f"in use by another server, pid {facts['pid']}" in errors

    watching = UnixConnection(facts["socket"])
    watching.request("GET", "/api/v1/services?watch=true")
    assert watching.getresponse().status == 200

    assert server.stop()[0] == 0
    watching.close()
    assert not (server.data_dir / "server.json").exists()
    assert not (server.data_dir / "api.sock").exists()


@pytest.mark.e2e
def test_a_killed_server_starts_again_over_its_stale_socket(server):
    server.facts()
    server.process.send_signal(signal.SIGKILL)
    server.process.communicate()
    (server.data_dir / "server.json").unlink()

    again = Server(server.data_dir)
    again.facts()

    assert again.stop()[0] == 0


@pytest.mark.e2e
def test_a_real_engine_joins_connects_and_becomes_an_endpoint(server, tmp_path):
    facts = server.facts()
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {"selector": {"app": "cart"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    server.call("POST", "/tulle/v1/apply", {"resources": [service]})
    wanted = {"namespace": "shop", "service_account": "cart"}
    token = server.call("POST", "/tulle/v1/tokens", wanted)["token"]
    settings = {
        "workload": {
            "namespace": "shop",
            "name": "cart-1",
            "service_account": "cart",
            "labels": {"app": "cart"},
            "zone": None,
        },
        "trust_domain": "tulle.local",
        "inbound": [
            {
                "port": 8080,
                "protocol": "http",
                "listen": "127.0.0.1:0",
                "app": "127.0.0.1:9",
                "proxy_protocol": False,
            }
        ],
        "outbound": [],
        "proxy_listen": None,
        "admin_listen": "127.0.0.1:0",
        "control": facts["hub"],
        "state_dir": str(tmp_path),
        "probe": None,
        "workers": 1,
        "access_log": "off",
        "access_log_path": None,
        "drain_seconds": 1,
        "reason_header": True,
    }
    engine = Engine(json.dumps(settings).encode())
    assert engine.join(token, Path(facts["roots_path"]).read_text(), 5.0) == "joined"
    engine.start()

    def endpoints():
        return server.call("GET", "/tulle/v1/records/endpoints/shop/cart")["endpoints"]

    (found,) = wait_until(endpoints)
    engine.stop()
    assert (found["workload"], found["identity"]) == (
        "shop/cart-1",
        "spiffe://tulle.local/ns/shop/sa/cart",
    )
    wait_until(lambda: endpoints() == [])


def test_a_socket_that_is_served_is_not_taken(tmp_path):
    path = tmp_path / "api.sock"
    with bind_unix(path) as listener:
        listener.listen()
        with pytest.raises(AddressInUse):
            bind_unix(path)


def test_a_socket_path_may_be_longer_than_an_address(tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    with bind_unix(deep / "api.sock"):
        assert (deep / "api.sock").is_socket()


def test_what_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "api.sock"
    path.write_text("precious")

    with pytest.raises(SettingsError):
        bind_unix(path)
    assert path.read_text() == "precious"
