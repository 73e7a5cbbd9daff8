"""What is wrong changes nothing: records that the engine refuses, and resources that the API does."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.http_client import get
from tests.e2e.processes import eventually
from tests.e2e.security_support import EchoApp, Mesh, Port, running_mesh, shop_with

pytestmark = pytest.mark.e2e


ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: cart, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: cart}}]
  rules:
  - matches: [{{path: {{type: RegularExpression, value: "{pattern}"}}}}]
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-route, value: {name}}}]}}
    backendRefs: [{{name: cart, port: 80}}]
"""

RECORD = "service/shop/cart"

# Python compiles them; the engine's matcher, which never backtracks, has no room for the first
# and reads a brace differently in the second.
REFUSED = [
    pytest.param("/(?:[a-z]{1,90}){1,90}", "size limit", id="large"),
    pytest.param("/a{x}", "repetition quantifier", id="brace"),
]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with EchoApp() as app, running_mesh(tmp_path_factory.mktemp("push")) as mesh:
        mesh.apply(shop_with(80))
        mesh.add("shop/cart-1", Port(8080, "http", app.address))
        mesh.add("shop/web-1", calls={"shop/cart": [80]})
        mesh.settle()
        yield mesh


@pytest.fixture(autouse=True)
def good_route(mesh: Mesh) -> None:
    """Every test begins with a route that is in force."""
    mesh.apply(ROUTE.format(pattern="/.*", name="good"))


def write(mesh: Mesh, text: str) -> str:
    (mesh.folder / "route.yaml").write_text(text)
    return "route.yaml"


def route_of(mesh: Mesh) -> str | None:
    """Which route a request of web takes."""
    answer = get(mesh.sidecars["shop/web-1"].outbound(), "/a")
    assert answer.status == 200
    return answer.headers.get("x-route")


@pytest.mark.parametrize(("pattern", "reason"), REFUSED)
def test_a_refused_record_is_named_and_the_one_before_stays(
    mesh: Mesh, pattern: str, reason: str
) -> None:
    in_force = mesh.record("shop/web-1", RECORD)["held"]

    applied = mesh.tulle("apply", "-f", write(mesh, ROUTE.format(pattern=pattern, name="bad")))
    assert applied.returncode == 0, applied.stderr
    row = eventually(lambda: refused_row(mesh), "the refusal is known")
    status = mesh.tulle("proxy", "status", "-n", "shop", "web-1")
    overview = mesh.tulle("proxy", "list", "-n", "shop")

    assert (row["held"], row["in_sync"]) == (in_force, False)
    assert row["version"] != in_force
    assert reason in row["error"]
    assert pattern in row["error"]
    assert status.returncode == 1
    (line,) = [line for line in status.stdout.splitlines() if line.startswith(RECORD)]
    assert "REJECTED" in line
    assert reason in status.stdout
    assert "REJECTED" in overview.stdout
    assert mesh.sidecars["shop/web-1"].wait_event("refused")["name"] == RECORD
    assert route_of(mesh) == "good"

    mesh.apply(ROUTE.format(pattern="/[a-z]*", name="better"))
    assert mesh.tulle("proxy", "status", "-n", "shop", "web-1").returncode == 0
    assert route_of(mesh) == "better"


def refused_row(mesh: Mesh) -> dict[str, Any]:
    """The row of the record once it is refused, empty before."""
    row = mesh.record("shop/web-1", RECORD)
    return row if row.get("error") else {}


def test_a_sidecar_that_restarts_keeps_the_last_good_record(mesh: Mesh) -> None:
    web = mesh.sidecars["shop/web-1"]
    good = mesh.record("shop/web-1", RECORD)["held"].encode()
    eventually(lambda: any(good in file.read_bytes() for file in web.records()), "it is on disk")
    write(mesh, ROUTE.format(pattern="/a{x}", name="bad"))
    assert mesh.tulle("apply", "-f", "route.yaml").returncode == 0
    eventually(lambda: refused_row(mesh), "the refusal is known")

    web.end()
    web.start(token=None)
    web.wait_event("refused")

    assert route_of(mesh) == "good"


BROKEN = """
apiVersion: v1
kind: Service
metadata: {name: fine, namespace: shop}
spec:
  selector: {app: fine}
  ports: [{port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRef: [{name: cart}]
  rules:
  - matches: [{path: {type: Regex, value: /}}]
    backendRefs: [{name: cart, port: 99999}]
---
apiVersion: tulle.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: shop}
spec:
  action: REFUSE
"""

WRONG = ["parentRef", "matches[0].path.type", "backendRefs[0].port", "spec.action"]


LISTS = (
    "/api/v1/namespaces",
    "/api/v1/services",
    "/apis/gateway.networking.k8s.io/v1/httproutes",
    "/apis/tulle.dev/v1alpha1/authorizationpolicies",
)


def written(mesh: Mesh) -> set[tuple[str, int]]:
    """What users have written, each with its generation; a status does not count."""
    objects = [item for path in LISTS for item in mesh.plane.call("GET", path)["items"]]
    return {(item["metadata"]["uid"], item["metadata"]["generation"]) for item in objects}


def test_wrong_yaml_is_refused_with_every_mistake_and_nothing_changes(mesh: Mesh) -> None:
    before = written(mesh)
    record = mesh.record("shop/web-1", RECORD)

    answer = mesh.tulle("apply", "-f", write(mesh, BROKEN))

    assert (answer.returncode, answer.stdout) == (3, "")
    assert [wrong for wrong in WRONG if wrong not in answer.stderr] == []
    assert answer.stderr.count("route.yaml:") >= len(WRONG)
    assert written(mesh) == before
    assert mesh.record("shop/web-1", RECORD) == record
    assert mesh.tulle("get", "service", "fine", "-n", "shop").returncode == 4
    assert route_of(mesh) == "good"


def test_the_api_refuses_the_same_without_the_command_line(mesh: Mesh) -> None:
    before = written(mesh)
    wrong = {
        "apiVersion": "tulle.dev/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "nobody", "namespace": "shop"},
        "spec": {"action": "REFUSE", "colour": "red"},
    }
    fine = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "fine"}}

    status, data = mesh.plane._request(
        "POST", "/tulle/v1/apply", {"resources": [fine, wrong], "dry_run": False}
    )

    found = [violation["path"] for violation in json.loads(data)["violations"]]
    assert (status, sorted(found)) == (422, ["spec.action", "spec.colour"])
    assert written(mesh) == before


DISCOVERY_SECONDS = 2
"""How long a sidecar waits for the first word on a service."""


def test_nobody_waits_for_a_service_whose_first_record_is_refused(mesh: Mesh) -> None:
    route = ROUTE.format(pattern="/a{x}", name="late").replace("name: cart", "name: late")
    mesh.apply(shop_with(80, service="late") + route)
    proxy = mesh.sidecars["shop/web-1"].wait_event("listening")["addresses"]["proxy"]
    began = time.monotonic()

    answer = get(proxy, "http://late/")

    assert (answer.status, answer.reason) == (503, "no-healthy-endpoint")
    assert time.monotonic() - began < DISCOVERY_SECONDS / 2
