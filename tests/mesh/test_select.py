"""Who is meant: workloads behind a Service, policies about a workload."""

from collections.abc import Callable

import pytest

from tulle.mesh.mesh import Mesh, WorkloadState
from tulle.mesh.select import (
    authorization_policies,
    endpoints,
    inbound_port,
    peer_authentications,
    selected_workloads,
    services_of,
)
from tulle.resources.model import ObjectName, Resource
from tulle.resources.service import ServicePort
from tulle.resources.workload import Workload, WorkloadPort

Resources = Callable[[str], list[Resource]]

SERVES = WorkloadState(ready=True, connected=True)
CART = ObjectName("shop", "cart")


def _workload(
    name: str, labels: str = "{app: cart}", ports: str = "[{port: 8080, listen: 1}]"
) -> str:
    return f"""
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {{name: {name}, namespace: shop, labels: {labels}}}
spec: {{address: 127.0.0.1, ports: {ports}}}
---
"""


SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  selector: {app: cart}
  ports: [{name: web, port: 80, targetPort: 8080}, {name: alt, port: 81, targetPort: http}]
---
"""


def _policy(kind: str, name: str, spec: str, namespace: str = "shop", created: str = "") -> str:
    return f"""
apiVersion: tulle.dev/v1alpha1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}{created}}}
spec: {spec}
---
"""


def test_endpoints_are_the_serving_workloads_by_name(resources: Resources) -> None:
    names = ["cart-3", "cart-1", "cart-2", "cart-4"]
    text = SERVICE + "".join(map(_workload, names)) + _workload("web-1", "{app: web}")
    states = {ObjectName("shop", name): SERVES for name in [*names, "web-1"]}
    states[ObjectName("shop", "cart-2")] = SERVES._replace(draining=True)
    states[ObjectName("shop", "cart-4")] = SERVES._replace(ready=False)
    mesh = Mesh.of(resources(text), states)

    found = [(e.workload.metadata.name, e.ports) for e in endpoints(mesh, CART)]

    assert found == [("cart-1", ((80, 1),)), ("cart-3", ((80, 1),))]


def test_one_workload_port_may_answer_for_several_service_ports(resources: Resources) -> None:
    text = SERVICE + _workload("a", ports="[{name: http, port: 8080, listen: 7}]")
    mesh = Mesh.of(resources(text), {ObjectName("shop", "a"): SERVES})

    assert endpoints(mesh, CART)[0].ports == ((80, 7), (81, 7))


def test_a_workload_without_the_port_is_no_endpoint(resources: Resources) -> None:
    text = SERVICE + _workload("a", ports="[{port: 9090, listen: 7}]")
    mesh = Mesh.of(resources(text), {ObjectName("shop", "a"): SERVES})

    assert endpoints(mesh, CART) == ()
    assert endpoints(mesh, ObjectName("shop", "none")) == ()


def test_a_service_without_selector_has_no_workloads(resources: Resources) -> None:
    text = """
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {ports: [{port: 80}]}}
---
""" + _workload("a", "{}")
    mesh = Mesh.of(resources(text))
    service, workload = mesh.service(CART), mesh.workload(ObjectName("shop", "a"))
    assert service is not None
    assert workload is not None

    assert selected_workloads(mesh, service) == ()
    assert services_of(mesh, workload) == ()


@pytest.mark.parametrize(
    ("target", "listen"), [(None, 1), (8080, 2), ("grpc", 3), (9999, None), ("none", None)]
)
def test_a_target_port_is_a_number_or_a_name(
    target: int | str | None, listen: int | None, resources: Resources
) -> None:
    (workload,) = resources(
        _workload(
            "a",
            ports="[{port: 80, listen: 1}, {port: 8080, listen: 2}, {name: grpc, port: 9, listen: 3}]",
        )
    )
    assert isinstance(workload, Workload)
    assert isinstance(workload.spec.ports[0], WorkloadPort)

    assert inbound_port(ServicePort(port=80, target_port=target), workload) == listen


def test_authorization_policies_are_those_that_select_or_target(resources: Resources) -> None:
    kind = "AuthorizationPolicy"
    text = (
        SERVICE
        + _workload("a")
        + _policy(kind, "everyone", "{}")
        + _policy(kind, "selected", "{selector: {matchLabels: {app: cart}}}")
        + _policy(kind, "other-labels", "{selector: {matchLabels: {app: web}}}")
        + _policy(kind, "targeted", "{targetRefs: [{name: cart}]}")
        + _policy(kind, "other-target", "{targetRefs: [{name: web}]}")
        + _policy(kind, "z-deny", "{action: DENY}")
        + _policy(kind, "root", "{}", "tulle-system")
        + _policy(kind, "elsewhere", "{}", "other")
    )
    mesh = Mesh.of(resources(text))
    workload = mesh.workload(ObjectName("shop", "a"))
    assert workload is not None

    names = [policy.metadata.name for policy in authorization_policies(mesh, workload)]

    assert names == ["z-deny", "everyone", "selected", "targeted", "root"]


def test_the_narrower_peer_authentication_comes_first(resources: Resources) -> None:
    kind = "PeerAuthentication"
    early, late = (f", creationTimestamp: '2026-0{month}-01T00:00:00Z'" for month in (1, 2))
    text = (
        _workload("a")
        + _policy(kind, "mesh", "{}", "tulle-system", early)
        + _policy(kind, "namespace", "{}", created=early)
        + _policy(kind, "a-late", "{selector: {matchLabels: {app: cart}}}", created=late)
        + _policy(kind, "b-early", "{selector: {matchLabels: {app: cart}}}", created=early)
        + _policy(kind, "other", "{selector: {matchLabels: {app: web}}}", created=early)
    )
    mesh = Mesh.of(resources(text))
    workload = mesh.workload(ObjectName("shop", "a"))
    assert workload is not None

    names = [policy.metadata.name for policy in peer_authentications(mesh, workload)]

    assert names == ["b-early", "a-late", "namespace", "mesh"]
