"""A new sidecar process takes over from a running one: nothing is refused and nothing fails."""

import itertools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import grpc
import pytest

from tests.e2e.http_client import get
from tests.e2e.load import at_rate
from tests.e2e.mesh import GRPC, HTTP, Mesh, Namespace
from tests.e2e.processes import Process, eventually

pytestmark = pytest.mark.e2e

RATE = 1000
SECONDS = 4.0
HELD = 8
"""Requests that the old process answers when it has no stream to the control plane any more."""

DRAIN_SECONDS = 3
"""How long an old process may wait for what is open."""

MANY = """
apiVersion: tulle.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: cart}
spec:
  targetRefs: [{group: "", kind: Service, name: cart}]
  limits: {connections: 4000, pending: 4000, requests: 4000}
  timeouts: {connect: 10s}
"""
"""So that a pause of the machine, which the load makes up for at once, is no failure."""

number = itertools.count()


LOAD_DRAIN_SECONDS = 15
"""Of the same under load, where a machine may be slow."""


@pytest.fixture
def pair(mesh: Mesh) -> Iterator[Namespace]:
    """A caller `web` of the only replica of `cart`; new for each test."""
    shop = mesh.namespace(f"upgrade-{next(number)}")
    shop.service("cart")
    shop.add("web", access_log="errors", drain_seconds=LOAD_DRAIN_SECONDS)
    shop.add("cart-1", HTTP, access_log="errors", drain_seconds=LOAD_DRAIN_SECONDS)
    shop.settle()
    yield shop
    shop.stop()


@pytest.mark.parametrize("name", ["web", "cart-1"])
def test_an_upgrade_under_load_fails_no_request(pair: Namespace, name: str) -> None:
    web, upgraded = pair.workloads["web"], pair.workloads[name]
    pair.apply(MANY)
    get(web.proxy, "http://cart/")

    begun = threading.Event()
    app = pair.workloads["cart-1"].app_address
    with ThreadPoolExecutor(HELD + 1) as threads:
        held = [threads.submit(get, web.proxy, "http://cart/do/hold") for _ in range(HELD)]
        eventually(lambda: arrived(app) == HELD, "the application has them")
        load = threads.submit(at_rate, web.proxy, "http://cart/", RATE, SECONDS, begun.set)
        begun.wait(SECONDS)
        first = pair.upgrade(upgraded)
        new = upgraded.sidecar.pid
        eventually(
            lambda: pair.proxy(name)["pid"] == new, "the control plane knows the new process"
        )
        # From here on the old one has no stream to report on.
        assert first.running
        get(app, "/do/become?read=1")
        assert {one.result().status for one in held} == {200}
        result = load.result()

    assert result.outcomes == {"200": RATE * SECONDS}, web.access_log()[:5]
    assert first.wait() == 0, first.output
    assert '"event":"handed-over"' in first.output
    # Whatever is counted twice, or late, is so when one more has arrived.
    get(web.proxy, "http://cart/")
    sent = 1 + HELD + RATE * int(SECONDS) + 1
    eventually(lambda: max(counted(pair)) >= sent, "the last request is counted")
    eventually(lambda: min(counted(pair)) >= sent, "both sides have counted it")
    assert counted(pair) == (sent, sent)
    assert pair.endpoints("cart") == ["cart-1"]
    known = json.loads((upgraded.folder / "state" / "sidecar.json").read_text())
    assert known == {"pid": upgraded.sidecar.pid, "addresses": upgraded.addresses}


def arrived(app: str) -> int:
    """Return how many requests the application holds."""
    paths: dict[str, int] = get(app, "/do/told").json()["paths"]
    return paths.get("/do/hold", 0)


def counted(pair: Namespace) -> tuple[int, int]:
    """Return how many requests of `web` its sidecar has reported, and how many that of `cart-1`."""
    sides = []
    for by, one in (("service", "cart"), ("workload", "cart-1")):
        path = f"/tulle/v1/stat?by={by}&namespace={pair.name}"
        rows = pair.mesh.plane.call("GET", path)["rows"]
        sides.append(sum(row["requests"] for row in rows if row["name"] == f"{pair.name}/{one}"))
    return sides[0], sides[1]


def test_two_upgrades_in_a_row_change_no_address(pair: Namespace) -> None:
    web = pair.workloads["web"]
    for _ in range(2):
        pair.upgrade(web)
        assert get(web.proxy, "http://cart/").status == 200
        assert get(web.admin, "/healthz").status == 200


def test_a_signal_to_the_old_process_takes_no_workload_out_of_the_mesh(pair: Namespace) -> None:
    first = pair.upgrade(pair.workloads["cart-1"])
    first.signal(signal.SIGTERM)

    assert first.wait() == 0
    assert '"draining"' in first.output
    assert first.output.count('"not-ready"') <= 1, "at its start, before the application was there"
    assert first.output.index('"handed-over"') > first.output.find('"not-ready"')


def test_a_successor_that_cannot_start_changes_nothing(pair: Namespace) -> None:
    web = pair.workloads["web"]
    file = web.folder / "settings.json"
    good = file.read_text()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = {"service": f"{pair.name}/cart", "port": 80, "listen": f"127.0.0.1:{port(taken)}"}
        file.write_text(json.dumps({**json.loads(good), "outbound": [busy]}))
        successor = Process(
            pair.mesh.command("sidecar", "--settings", str(file)), web.folder / "failed.log"
        )
        assert successor.wait() == 1
    assert "cannot listen on" in successor.output
    file.write_text(good)

    assert get(web.proxy, "http://cart/").status == 200
    assert pair.proxy("web")["pid"] == web.sidecar.pid
    known = json.loads((web.folder / "state" / "sidecar.json").read_text())
    assert known["pid"] == web.sidecar.pid
    assert pair.upgrade(web).wait() == 0
    assert get(web.proxy, "http://cart/").status == 200


def port(listener: socket.socket) -> int:
    """Return where it listens."""
    return int(listener.getsockname()[1])


def test_a_signal_makes_a_sidecar_start_its_own_successor(pair: Namespace) -> None:
    """As `systemctl reload` does; systemd is told which process is the service then."""
    address = f"{pair.mesh.folder}/notify-{pair.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(20)
        lone = pair.add("lone")
        pair.settle()
        lone.stop()
        settings = str(lone.folder / "settings.json")
        first = Process(
            pair.mesh.command("sidecar", "--settings", settings),
            lone.folder / "sidecar.log",
            {"NOTIFY_SOCKET": address},
        )
        lone.sidecar = first
        assert systemd.recv(100) == b"READY=1\nMAINPID=%d" % first.pid

        proxy = lone.proxy
        first.signal(signal.SIGUSR2)

        told = systemd.recv(100)
        assert told.startswith(b"READY=1\nMAINPID=")
        second = int(told.rpartition(b"=")[2])
    try:
        assert second != first.pid
        assert first.wait() == 0
        assert get(proxy, "http://cart/").status == 200
    finally:
        os.kill(second, signal.SIGKILL)


@pytest.fixture
def calls(mesh: Mesh) -> Iterator[Namespace]:
    """A caller of the only replica of the gRPC service `calls`."""
    shop = mesh.namespace(f"upgrade-{next(number)}")
    shop.service("calls", "grpc")
    shop.add("web", outbound=("calls",), drain_seconds=DRAIN_SECONDS)
    shop.add("calls-1", GRPC, drain_seconds=DRAIN_SECONDS)
    shop.settle()
    yield shop
    shop.stop()


class Stream:
    """A bidirectional call that stays open."""

    def __init__(self, channel: grpc.Channel) -> None:
        """Open it."""
        self._messages: SimpleQueue[bytes | None] = SimpleQueue()
        self.call = channel.stream_stream("/test.Calls/Both")(iter(self._messages.get, None))

    def echo(self) -> bytes:
        """Send a message and return the answer."""
        self._messages.put(b"x")
        return bytes(next(self.call))

    def end(self) -> None:
        """Send nothing more."""
        self._messages.put(None)


@pytest.mark.parametrize(
    ("name", "code"),
    [("web", grpc.StatusCode.UNAVAILABLE), ("calls-1", grpc.StatusCode.INTERNAL)],
)
def test_a_long_stream_goes_on_until_its_bound(
    calls: Namespace, name: str, code: grpc.StatusCode
) -> None:
    web = calls.workloads["web"]
    with grpc.insecure_channel(web.outbound(f"{calls.name}/calls")) as channel:
        stream, ends = Stream(channel), Stream(channel)
        assert (stream.echo(), ends.echo()) == (b"X", b"X")

        began = time.monotonic()
        first = calls.upgrade(calls.workloads[name])
        handed_over = time.monotonic()

        unary = channel.unary_unary("/test.Calls/Unary")
        while time.monotonic() < began + DRAIN_SECONDS / 2:
            assert unary(b"y", timeout=5) == b"y"
            assert stream.echo() == b"X"
        ends.end()
        assert list(ends.call) == []
        assert ends.call.code() is grpc.StatusCode.OK
        assert first.running

        with pytest.raises(grpc.RpcError) as cut:
            next(stream.call)
        assert first.wait() == 0
        assert cut.value.code() is code
        assert began + DRAIN_SECONDS <= time.monotonic() < handed_over + DRAIN_SECONDS + 2
        assert unary(b"z", timeout=5) == b"z"
        stream.end()
