"""Who may call what: policies as users write them, judged by what reaches the app."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import pytest

from tests.e2e.http_client import Client, call, get
from tests.e2e.processes import eventually
from tests.e2e.security_support import (
    EchoApp,
    Mesh,
    Port,
    Sidecar,
    echo_bytes,
    running_mesh,
    shop_with,
)

pytestmark = pytest.mark.e2e

PORTS = (80, 90, 70)
METHOD = "/shop.Cart/Add"


@dataclass(frozen=True, slots=True)
class Shop:
    """cart, and who calls it: web and admin of its namespace, spy of another."""

    mesh: Mesh
    app: EchoApp
    cart: Sidecar
    web: Sidecar
    admin: Sidecar
    spy: Sidecar


def echo_call(request: bytes, context: grpc.ServicerContext) -> bytes:
    return request


@pytest.fixture(scope="module")
def grpc_app() -> Iterator[str]:
    handler = grpc.method_handlers_generic_handler(
        "shop.Cart", {"Add": grpc.unary_unary_rpc_method_handler(echo_call)}
    )
    server = grpc.server(ThreadPoolExecutor(4), handlers=(handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, grpc_app: str) -> Iterator[Shop]:
    with (
        EchoApp() as app,
        echo_bytes() as tcp_app,
        running_mesh(tmp_path_factory.mktemp("auth")) as mesh,
    ):
        mesh.apply(shop_with(*PORTS) + "{apiVersion: v1, kind: Namespace, metadata: {name: other}}")
        ports = (
            Port(8080, "http", app.address),
            Port(9090, "grpc", grpc_app),
            Port(7070, "tcp", tcp_app),
        )
        cart = mesh.add("shop/cart-1", *ports)
        callers = [
            mesh.add(name, calls={"shop/cart": PORTS})
            for name in ("shop/web-1", "shop/admin-1", "other/spy-1")
        ]
        mesh.settle()
        yield Shop(mesh, app, cart, *callers)


@pytest.fixture
def policy(shop: Shop) -> Iterator[Callable[..., None]]:
    """Return a function that puts policies in force; they go with the test."""
    names: list[str] = []

    def apply(name: str, spec: str) -> None:
        names.append(name)
        indented = "\n".join(f"  {line}" for line in spec.strip("\n").splitlines())
        shop.mesh.apply(
            "apiVersion: tulle.dev/v1alpha1\n"
            "kind: AuthorizationPolicy\n"
            f"metadata: {{name: {name}, namespace: shop}}\n"
            f"spec:\n{indented}\n",
            file=f"{name}.yaml",
        )

    yield apply
    shop.mesh.delete("AuthorizationPolicy", *names)


def namespace_default(shop: Shop, default: str) -> None:
    shop.mesh.apply(
        "apiVersion: v1\nkind: Namespace\n"
        f"metadata: {{name: shop, labels: {{tulle.dev/default-authorization: {default}}}}}\n",
        file="namespace.yaml",
    )


def reached(shop: Shop, caller: Sidecar, path: str, method: str = "GET") -> bool:
    """Call cart; return whether the app got it, else it must have been denied."""
    before = len(shop.app.seen)
    answer = call(caller.outbound(), method, path)
    arrived = len(shop.app.seen) > before
    if not arrived:
        assert (answer.status, answer.reason) == (403, "denied")
    else:
        assert answer.status == 200
    return arrived


def test_a_namespace_denies_by_default_and_an_allow_policy_opens_it(
    shop: Shop, policy: Callable[..., None]
) -> None:
    assert reached(shop, shop.web, "/before")

    namespace_default(shop, "deny")
    closed = [reached(shop, caller, "/closed") for caller in (shop.web, shop.spy)]
    policy("web", "rules: [{from: [{source: {serviceAccounts: [web]}}]}]")
    opened = [reached(shop, caller, "/opened") for caller in (shop.web, shop.spy)]
    namespace_default(shop, "allow")

    assert closed == [False, False]
    assert opened == [True, False]


# What a policy lets in, of: web GET /a, web POST /a, web GET /b, admin GET /a, spy GET /a.
ALLOWED = [
    pytest.param(
        "from: [{source: {principals: [tulle.local/ns/shop/sa/web]}}]",
        (True, True, True, False, False),
        id="principal",
    ),
    pytest.param(
        "from: [{source: {notPrincipals: [tulle.local/ns/shop/sa/web]}}]",
        (False, False, False, True, True),
        id="not-principal",
    ),
    pytest.param(
        "from: [{source: {namespaces: [shop]}}]", (True, True, True, True, False), id="namespace"
    ),
    pytest.param(
        "to: [{operation: {methods: [GET]}}]", (True, False, True, True, True), id="method"
    ),
    pytest.param("to: [{operation: {paths: [/a]}}]", (True, True, False, True, True), id="path"),
    pytest.param(
        "to: [{operation: {notPaths: ['/b*']}}]", (True, True, False, True, True), id="not-path"
    ),
    pytest.param(
        "{from: [{source: {namespaces: [shop]}}], to: [{operation: {paths: [/a], methods: [GET]}}]}",
        (True, False, False, True, False),
        id="from-and-to",
    ),
    pytest.param("to: [{operation: {ports: ['8080']}}]", (True, True, True, True, True), id="port"),
    pytest.param(
        "to: [{operation: {ports: ['80']}}]", (False, False, False, False, False), id="service-port"
    ),
]


@pytest.mark.parametrize(("rule", "expected"), ALLOWED)
def test_an_allow_policy_lets_in_what_it_names_and_no_more(
    shop: Shop, policy: Callable[..., None], rule: str, expected: tuple[bool, ...]
) -> None:
    policy("some", f"selector: {{matchLabels: {{app: cart}}}}\nrules:\n- {rule}")

    assert expected == (
        reached(shop, shop.web, "/a"),
        reached(shop, shop.web, "/a", "POST"),
        reached(shop, shop.web, "/b"),
        reached(shop, shop.admin, "/a"),
        reached(shop, shop.spy, "/a"),
    )


NO_ADMIN = """
action: DENY
rules:
- from: [{source: {notServiceAccounts: [admin]}}]
  to:
  - operation: {paths: [/admin, /admin/*]}
"""


def test_who_is_denied_learns_the_status_and_the_operator_the_policy(
    shop: Shop, policy: Callable[..., None]
) -> None:
    policy("no-admin", NO_ADMIN)

    answer = get(shop.web.outbound(), "/admin/users")

    assert (answer.status, answer.reason) == (403, "denied")
    logged = shop.cart.logged("/admin/users")
    assert (logged["policy"], logged["code"], logged["source_identity"]) == (
        "shop/no-admin",
        403,
        "spiffe://tulle.local/ns/shop/sa/web",
    )
    assert reached(shop, shop.admin, "/admin/users")
    assert reached(shop, shop.web, "/public")


def test_resolve_names_the_line_that_denies(shop: Shop, policy: Callable[..., None]) -> None:
    policy("no-admin", NO_ADMIN)
    line = (
        (shop.mesh.folder / "no-admin.yaml")
        .read_text()
        .splitlines()
        .index("  - from: [{source: {notServiceAccounts: [admin]}}]")
    )

    denied = shop.mesh.tulle("resolve", "-n", "shop", "web-1", "cart", "/x/../admin?a=b")
    allowed = shop.mesh.tulle("resolve", "-n", "shop", "admin-1", "cart", "/admin")

    assert denied.returncode == 1, denied.stderr
    assert f"denied by policy shop/no-admin   (no-admin.yaml:{line + 1})" in denied.stdout
    assert denied.stdout.splitlines()[-1].startswith("=>  deny 403")
    assert (allowed.returncode, allowed.stdout.splitlines()[-1]) == (0, "=>  forward")


def test_resolve_knows_the_port_that_policies_speak_of(
    shop: Shop, policy: Callable[..., None]
) -> None:
    policy("web-port", "rules: [{to: [{operation: {ports: ['8080']}}]}]")

    answer = shop.mesh.tulle("resolve", "-n", "shop", "web-1", "cart", "/a")

    assert answer.returncode == 0, answer.stdout
    assert reached(shop, shop.web, "/a")


# Spellings of /admin that one reader or another takes for it; each must be denied or refused.
TRICKS = [
    "/admin",
    "//admin",
    "///admin",
    "/./admin",
    "/x/../admin",
    "/x/%2e%2e/admin",
    "/x/%2E%2E/admin",
    "/x/.%2e/admin",
    "/x/..;/admin",
    "/..;a=b/admin",
    "/x/..%2fadmin",
    "/x/..%5Cadmin",
    "/x\\..\\admin",
    "/%61dmin",
    "/%61%64%6d%69%6e",
    "/admin?public=1",
    "/admin#fragment",
    "/admin/",
    "/admin/./users",
    "/admin//users",
    "/admin%2fusers",
    "/admin%5Cusers",
    "/%2fadmin",
    "/admin/..",
    "/admin%00",
    "http://cart/admin",
    "http://elsewhere/admin",
]


@pytest.mark.parametrize("path", TRICKS)
def test_no_spelling_of_a_path_gets_past_a_deny(
    shop: Shop, policy: Callable[..., None], path: str
) -> None:
    policy("no-admin", NO_ADMIN)
    before = len(shop.app.seen)

    answer = get(shop.web.outbound(), path)

    arrived = [seen.path for seen in shop.app.seen[before:]]
    if path == "/admin/..":
        assert (answer.status, arrived) == (200, ["/"])
    else:
        assert answer.status in {400, 403, 404}
        assert arrived == []


def test_the_app_reads_the_path_that_the_policy_read(shop: Shop) -> None:
    get(shop.web.outbound(), "/a/%7Euser//b/../c?q=//x/../y")

    assert shop.app.seen[-1].path == "/a/~user/c?q=//x/../y"


def test_a_policy_holds_for_each_request_of_a_connection(
    shop: Shop, policy: Callable[..., None]
) -> None:
    with Client(shop.web.outbound()) as client:
        before = client.get("/admin").status
        policy("no-admin", NO_ADMIN)
        denied = client.get("/admin").status
        public = client.get("/public").status

    assert (before, denied, public) == (200, 403, 200)


def grpc_status(caller: Sidecar) -> grpc.StatusCode:
    with grpc.insecure_channel(caller.outbound(90)) as channel:
        add = channel.unary_unary(METHOD)
        try:
            assert add(b"milk", timeout=10) == b"milk"
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def test_a_denied_grpc_call_ends_with_permission_denied(
    shop: Shop, policy: Callable[..., None]
) -> None:
    before = grpc_status(shop.web)

    policy("no-add", f"action: DENY\nrules: [{{to: [{{operation: {{paths: [{METHOD}]}}}}]}}]")

    assert before is grpc.StatusCode.OK
    assert grpc_status(shop.web) is grpc.StatusCode.PERMISSION_DENIED
    assert shop.cart.logged(METHOD)["policy"] == "shop/no-add"


def echoes(caller: Sidecar) -> bool:
    """Whether bytes through the mesh come back."""
    host, _, port = caller.outbound(70).rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"ping")
        try:
            return connection.recv(4) == b"ping"
        except ConnectionResetError:
            return False


def denied_connections(cart: Sidecar) -> float:
    lines = get(cart.admin, "/metrics").body.decode().splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("tulle_tcp_connections_opened_total") and 'reason="denied"' in line
    )


def test_a_denied_tcp_connection_is_closed_and_counted(
    shop: Shop, policy: Callable[..., None]
) -> None:
    assert (echoes(shop.web), echoes(shop.spy)) == (True, True)

    policy(
        "bytes",
        "rules: [{from: [{source: {namespaces: [shop]}}], to: [{operation: {ports: ['7070']}}]}]",
    )

    assert (echoes(shop.web), echoes(shop.spy)) == (True, False)
    eventually(lambda: denied_connections(shop.cart) == 1, "the denial is counted")


def test_on_bytes_a_deny_of_http_closes_in_doubt_and_is_logged(
    shop: Shop, policy: Callable[..., None]
) -> None:
    policy("no-admin", NO_ADMIN)

    assert (echoes(shop.web), echoes(shop.admin)) == (False, True)
    denied = {("tcp", "denied", "shop/no-admin", "shop/web")}
    eventually(lambda: denied <= connections_logged(shop.cart), "the log names the policy")


def connections_logged(cart: Sidecar) -> set[tuple[str, str, str, str]]:
    """Protocol, reason, policy and caller of each connection in the access log."""
    told = ("protocol", "reason", "policy", "source")
    lines = [line for line in cart.access_log() if line["protocol"] == "tcp"]
    return {tuple(line[name] for name in told) for line in lines}


def test_a_sidecar_without_its_record_lets_nobody_in(shop: Shop) -> None:
    """What is denied is in the record: without it nobody can tell."""
    shop.mesh.server.kill()
    shop.cart.wait_event("disconnected")
    shop.cart.end()
    damaged = shop.cart.records()
    for file in damaged:
        file.write_bytes(file.read_bytes()[:-1])

    shop.cart.start(token=None)
    eventually(lambda: complaints(shop.cart) == len(damaged), "each damaged record is told")
    answer = get(shop.web.outbound(), "/damaged")

    assert (answer.status, answer.reason) == (503, "app-unreachable")
    assert "/damaged" not in shop.app.paths()
    shop.mesh.start_server()
    shop.mesh.settle()
    assert reached(shop, shop.web, "/whole-again")


def complaints(sidecar: Sidecar) -> int:
    return sum(event["event"] == "cache" for event in sidecar.events())
