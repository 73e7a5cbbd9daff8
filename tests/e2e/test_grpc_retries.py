"""gRPC calls that are made again, and calls whose time is over."""

import time
from collections.abc import Iterator
from itertools import count

import grpc
import pytest

from tests.e2e.http2_client import Http2, Stream
from tests.e2e.http2_frames import data
from tests.e2e.mesh import GRPC, HTTP2, App, Namespace, Workload

pytestmark = pytest.mark.e2e

CALL_SECONDS = 15
FLAKY = "/test.Calls/Flaky"

unique = count()


def policy(shop: Namespace, text: str, service: str = "calls") -> None:
    """Put a traffic policy for *service* in force."""
    shop.apply(f"""
        apiVersion: tulle.dev/v1alpha1
        kind: BackendTrafficPolicy
        metadata: {{name: {service}}}
        spec: {{targetRefs: [{{name: {service}}}], {text}}}
    """)


@pytest.fixture(scope="module")
def web(shop: Namespace) -> Workload:
    """A caller of `calls`, and of `mute`, which never answers and knows no deadline."""
    shop.service("calls", "grpc")
    shop.service("mute", "grpc")
    web = shop.add("web", outbound=("calls",))
    shop.add("calls-1", GRPC)
    shop.add("mute-1", App(HTTP2.command, "grpc"))
    shop.settle()
    return web


@pytest.fixture
def channel(shop: Namespace, web: Workload) -> Iterator[grpc.Channel]:
    """A connection by the local address that stands for `calls`, without retries of its own."""
    options = [("grpc.enable_retries", 0)]
    with grpc.insecure_channel(web.outbound(f"{shop.name}/calls"), options) as channel:
        yield channel


def call(channel: grpc.Channel, failures: int, status: str, when: str = "early") -> bytes:
    """Make a call that fails *failures* times, and return the number of the one that did not."""
    request = f"{next(unique)} {failures} {status} {when}".encode()
    answer: bytes = channel.unary_unary(FLAKY)(request, timeout=CALL_SECONDS)
    return answer.split()[0]


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("cancelled", "CANCELLED"),
        ("deadline-exceeded", "DEADLINE_EXCEEDED"),
        ("internal", "INTERNAL"),
        ("resource-exhausted", "RESOURCE_EXHAUSTED"),
        ("unavailable", "UNAVAILABLE"),
    ],
)
def test_a_call_that_fails_with_a_named_status_is_made_again(
    shop: Namespace, channel: grpc.Channel, name: str, status: str
) -> None:
    policy(shop, f"retry: {{grpcStatuses: [{name}], attempts: 2, backoff: {{base: 1ms}}}}")

    assert call(channel, 2, status) == b"3"


def test_other_failures_are_the_callers(shop: Namespace, channel: grpc.Channel) -> None:
    policy(shop, "retry: {grpcStatuses: [internal], attempts: 2}")

    for failures, status, when in [
        (3, "INTERNAL", "early"),  # more than there are tries
        (1, "UNAVAILABLE", "early"),  # not named
        (1, "INTERNAL", "late"),  # the head of the answer is with the caller
    ]:
        with pytest.raises(grpc.RpcError) as raised:
            call(channel, failures, status, when)
        assert raised.value.code() is grpc.StatusCode[status]
        assert raised.value.details() == f"failure {failures}"


def test_without_a_policy_no_status_is_retried(shop: Namespace, channel: grpc.Channel) -> None:
    policy(shop, "retry: {attempts: 2}")

    with pytest.raises(grpc.RpcError) as raised:
        call(channel, 1, "UNAVAILABLE")
    assert raised.value.details() == "failure 1"


def test_a_try_that_takes_too_long_is_deadline_exceeded(
    shop: Namespace, channel: grpc.Channel
) -> None:
    policy(
        shop, "timeouts: {perTry: 300ms}, retry: {grpcStatuses: [deadline-exceeded], attempts: 1}"
    )
    request = f"{next(unique)} 1 UNAVAILABLE early 1000".encode()

    answer = channel.unary_unary(FLAKY)(request, timeout=CALL_SECONDS)

    assert answer.split()[0] == b"2"


def raw(client: Http2, url: str, timeout: str, message: bytes = b"") -> Stream:
    """Send a call that says *timeout* and does not watch it, and read the answer."""
    service, _, path = url.partition("/")
    pseudo = {":method": "POST", ":scheme": "http", ":authority": service, ":path": f"/{path}"}
    fields = {"content-type": "application/grpc", "te": "trailers", "grpc-timeout": timeout}
    stream = client.open(pseudo | fields, end=False)
    client.write(data(stream.number, b"\0" + len(message).to_bytes(4, "big") + message))
    client.read(stream)
    return stream


def status_of(stream: Stream) -> tuple[str, str | None]:
    """Return a call's status, and why the mesh ended it if it did."""
    told = stream.headers | stream.trailers
    return told["grpc-status"], told.get("x-tulle-reason")


@pytest.mark.parametrize("timeout", ["200m", "200000u", "99999999n"])
def test_a_call_ends_with_the_time_that_its_caller_gave(web: Workload, timeout: str) -> None:
    with Http2(web.proxy) as client:
        stream = raw(client, "mute/hang", timeout)

    assert status_of(stream) == ("4", "request-timeout")


def test_a_stream_ends_with_that_time_too(web: Workload) -> None:
    with Http2(web.proxy) as client:
        stream = raw(client, "calls/test.Calls/Ticks", "1S")

    assert stream.status == 200
    assert len(stream.body) > 0
    assert status_of(stream)[0] == "4"


def test_a_time_that_is_over_asks_nobody(web: Workload) -> None:
    with Http2(web.proxy) as client:
        stream = raw(client, "calls/test.Calls/Unary", "0m")

    assert status_of(stream) == ("4", "request-timeout")


@pytest.mark.parametrize("timeout", ["", "1", "S", "-1S", "+1S", "1s", "1 S", "123456789m", "1.5S"])
def test_a_time_that_is_none_is_refused(web: Workload, timeout: str) -> None:
    """Servers of gRPC answer INTERNAL, too, but hold it against later calls of others."""
    with Http2(web.proxy) as client:
        stream = raw(client, "calls/test.Calls/Unary", timeout)

    assert status_of(stream) == ("13", "bad-request")


def test_the_shorter_of_a_routes_time_and_the_callers_counts(
    shop: Namespace, web: Workload
) -> None:
    policy(shop, "timeouts: {request: 400ms}", "mute")

    for timeout, seconds in [("200m", 0.2), ("60S", 0.4)]:
        start = time.monotonic()
        with Http2(web.proxy) as client:
            stream = raw(client, "mute/hang", timeout)
        assert status_of(stream) == ("4", "request-timeout")
        assert seconds <= time.monotonic() - start < 30


def test_the_program_is_told_how_long_there_is_left(shop: Namespace, web: Workload) -> None:
    policy(shop, "retry: {grpcStatuses: [internal]}")
    shop.apply("""
        apiVersion: gateway.networking.k8s.io/v1
        kind: HTTPRoute
        metadata: {name: calls}
        spec:
          parentRefs: [{group: "", kind: Service, name: calls}]
          rules: [{backendRefs: [{name: calls, port: 80}], timeouts: {request: 90s}}]
    """)

    for failures, timeout, most, least in [
        (0, "60S", 60.0, 50.0),
        (0, "1H", 90.0, 80.0),  # the route's is shorter
        (1, "60S", 59.5, 50.0),  # the first try took half a second
    ]:
        message = f"{next(unique)} {failures} INTERNAL early 500".encode()
        with Http2(web.proxy) as client:
            left = float(raw(client, "calls/test.Calls/Flaky", timeout, message).body.split()[-1])
        assert least < left <= most
