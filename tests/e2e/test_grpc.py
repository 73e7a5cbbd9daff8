"""gRPC through two sidecars: every kind of call, trailers, routes, and errors of the mesh."""

import queue
from collections.abc import Iterator

import grpc
import pytest

from tests.e2e.mesh import GRPC, WORKLOAD_PORT, Namespace, Workload

pytestmark = pytest.mark.e2e

CALL_SECONDS = 15
SERVICE = "test.Calls"

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls}
spec:
  parentRefs: [{group: "", kind: Service, name: calls}]
  rules:
    - matches: [{method: {service: test.Calls, method: Other}}]
      backendRefs: [{group: tulle.dev, kind: ServiceVersion, name: calls.v2, port: 80}]
    - matches: [{method: {service: test.Calls}, headers: [{name: x-user, value: anna}]}]
      backendRefs: [{group: tulle.dev, kind: ServiceVersion, name: calls.v2, port: 80}]
      filters: [{type: RequestHeaderModifier, requestHeaderModifier:
        {set: [{name: x-sent, value: changed}]}}]
    - matches: [{method: {service: test.Calls}}]
      backendRefs: [{group: tulle.dev, kind: ServiceVersion, name: calls.v1, port: 80}]
"""

UNDECLARED = f"""
apiVersion: v1
kind: Service
metadata: {{name: any-calls}}
spec:
  selector: {{app: calls}}
  ports: [{{port: 80, targetPort: {WORKLOAD_PORT}}}]
"""


@pytest.fixture(scope="module")
def web(shop: Namespace) -> Workload:
    """A caller; `calls` has two versions, `empty` has no endpoint."""
    shop.service("calls", "grpc")
    shop.service("empty", "grpc")
    shop.apply(UNDECLARED)
    web = shop.add("web", outbound=("calls", "empty", "any-calls"))
    shop.add("calls-1", GRPC, version="v1")
    shop.add("calls-2", GRPC, version="v2")
    shop.settle()
    return web


@pytest.fixture
def channel(shop: Namespace, web: Workload) -> Iterator[grpc.Channel]:
    """A connection by the local address that stands for `calls`."""
    with grpc.insecure_channel(web.outbound(f"{shop.name}/calls")) as channel:
        yield channel


def test_a_call_is_answered_with_its_trailers(channel: grpc.Channel) -> None:
    answer, call = channel.unary_unary(f"/{SERVICE}/Unary").with_call(
        b"hello", metadata=(("x-sent", "yes"),), timeout=CALL_SECONDS
    )

    assert answer == b"hello"
    assert dict(call.initial_metadata())["x-app"] in {"calls-1", "calls-2"}
    assert dict(call.trailing_metadata())["x-seen"] == "yes"


def test_calls_of_one_connection_are_spread_where_nobody_declared_grpc(
    shop: Namespace, web: Workload
) -> None:
    with grpc.insecure_channel(web.outbound(f"{shop.name}/any-calls")) as channel:
        unary = channel.unary_unary(f"/{SERVICE}/Unary")
        calls = [unary.with_call(b"hello", timeout=CALL_SECONDS)[1] for _ in range(40)]

    assert {dict(call.initial_metadata())["x-app"] for call in calls} == {"calls-1", "calls-2"}


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_536, 1_048_576, 4_000_000])
def test_a_message_of_any_size_arrives_whole(channel: grpc.Channel, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    assert channel.unary_unary(f"/{SERVICE}/Unary")(message, timeout=CALL_SECONDS) == message


def test_a_stream_of_answers_ends_with_trailers(channel: grpc.Channel) -> None:
    call = channel.unary_stream(f"/{SERVICE}/Down")(b"2000", timeout=CALL_SECONDS)

    answers = [int(answer.rstrip(b".")) for answer in call]

    assert answers == list(range(2000))
    assert dict(call.trailing_metadata())["x-count"] == "2000"


def test_a_stream_of_requests_is_counted(channel: grpc.Channel) -> None:
    messages = iter([b"a" * 1000] * 500)

    answer = channel.stream_unary(f"/{SERVICE}/Up")(messages, timeout=CALL_SECONDS)

    assert answer == b"500 500000"


def test_both_sides_talk_in_turn(channel: grpc.Channel) -> None:
    """Each message is sent only after the answer to the one before: nothing is held back."""
    questions: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    call = channel.stream_stream(f"/{SERVICE}/Both")(
        iter(questions.get, None), timeout=CALL_SECONDS
    )

    for number in range(100):
        questions.put(b"m%d" % number)
        assert next(call) == b"M%d" % number
    questions.put(None)

    assert list(call) == []


def test_an_error_keeps_status_message_and_trailers(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/{SERVICE}/Fail")(b"", timeout=CALL_SECONDS)

    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert raised.value.details() == "not ready: 100 % größer"
    trailers = dict(raised.value.trailing_metadata())
    assert (trailers["x-why"], trailers["x-blob-bin"]) == ("because", b"\0\1\2")


def test_an_error_in_the_middle_of_a_stream_comes_after_what_was_sent(
    channel: grpc.Channel,
) -> None:
    call = channel.unary_stream(f"/{SERVICE}/Cut")(b"", timeout=CALL_SECONDS)

    assert [next(call), next(call)] == [b"one", b"two"]
    with pytest.raises(grpc.RpcError) as raised:
        next(call)
    assert raised.value.code() is grpc.StatusCode.DATA_LOSS


def test_a_callers_deadline_ends_the_call(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/{SERVICE}/Slow")(b"", timeout=0.2)

    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_method_that_is_not_there_is_the_programs_answer(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/{SERVICE}/Nothing")(b"", timeout=CALL_SECONDS)

    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "x-tulle-reason" not in dict(raised.value.trailing_metadata())


def test_a_service_without_endpoints_is_unavailable(shop: Namespace, web: Workload) -> None:
    address = web.outbound(f"{shop.name}/empty")
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/{SERVICE}/Unary")(b"", timeout=CALL_SECONDS)

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "no-healthy-endpoint" in raised.value.details()
    told = dict(raised.value.trailing_metadata()) | dict(raised.value.initial_metadata())
    assert told["x-tulle-reason"] == "no-healthy-endpoint"


def test_a_route_decides_by_method_and_metadata(shop: Namespace, channel: grpc.Channel) -> None:
    shop.apply(ROUTE)

    def answered(method: str, *metadata: tuple[str, str]) -> tuple[str, str]:
        _, call = channel.unary_unary(f"/{SERVICE}/{method}").with_call(
            b"", metadata=metadata, timeout=CALL_SECONDS
        )
        seen = dict(call.trailing_metadata()).get("x-seen", "")
        return dict(call.initial_metadata())["x-app"], seen

    assert {answered("Unary") for _ in range(10)} == {("calls-1", "")}
    assert {answered("Other") for _ in range(10)} == {("calls-2", "")}
    assert answered("Unary", ("x-user", "anna")) == ("calls-2", "changed")
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/test.Unknown/Unary")(b"", timeout=CALL_SECONDS)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "no-route" in raised.value.details()
