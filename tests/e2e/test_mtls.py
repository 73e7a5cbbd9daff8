"""Mutual TLS between real sidecars: who is let in, who is not, and that nobody can talk past it."""

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.e2e.http_client import Client, call, exchange, get, status_of
from tests.e2e.processes import eventually
from tests.e2e.security_support import EchoApp, Mesh, Port, Sidecar, running_mesh, shop_with
from tulle.identity.authority import CertificateAuthority
from tulle.identity.spiffe import SpiffeId

pytestmark = pytest.mark.e2e

PEER_AUTHENTICATION = """
apiVersion: tulle.dev/v1alpha1
kind: PeerAuthentication
metadata: {{name: cart, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: cart}}}}
  mtls: {{mode: {mode}}}
"""

REFUSED = "tulle_connections_refused_total"
WEB = SpiffeId("tulle.local", "shop", "web")


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n".encode()


class Pair:
    """web calls cart, each through its sidecar."""

    def __init__(self, mesh: Mesh, app: EchoApp) -> None:
        self.mesh = mesh
        self.app = app
        mesh.apply(shop_with(80))
        self.cart = mesh.add("shop/cart-1", Port(8080, "http", app.address))
        self.web = mesh.add("shop/web-1", calls={"shop/cart": [80]})
        mesh.settle()

    @property
    def inbound(self) -> tuple[str, int]:
        """Where cart's sidecar takes traffic."""
        return self.cart.inbound(8080)

    def tls_as(self, authority: CertificateAuthority | None, folder: Path) -> ssl.SSLContext:
        """A client of TLS with a certificate of *authority* for web; it trusts any server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        if authority is not None:
            load(context, authority, "web", folder)
        return context

    def send_over(self, context: ssl.SSLContext, data: bytes) -> bytes:
        """Send *data* to cart's sidecar over TLS and return what comes back."""
        received = b""
        with (
            socket.create_connection(self.inbound, timeout=10) as plain,
            context.wrap_socket(plain) as connection,
        ):
            connection.sendall(data)
            while part := connection.recv(65536):
                received += part
        return received


def load(
    context: ssl.SSLContext, authority: CertificateAuthority, account: str, folder: Path
) -> None:
    """Let *context* show a certificate of *authority* for a service account of shop."""
    identity = SpiffeId(authority.trust_domain, "shop", account)
    svid, key = authority.issue(identity, timedelta(hours=1))
    file = folder / "certificate.pem"
    file.write_text(key + svid.chain_pem)
    context.load_cert_chain(file)


def authority_of(folder: Path, trust_domain: str = "tulle.local") -> CertificateAuthority:
    return CertificateAuthority(folder, trust_domain, lambda: datetime.now(UTC))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with EchoApp() as app, running_mesh(tmp_path_factory.mktemp("mtls")) as mesh:
        yield Pair(mesh, app)


@pytest.fixture
def mesh_authority(pair: Pair) -> CertificateAuthority:
    """The mesh's own authority: what it signs is as good as what the control plane signs."""
    return authority_of(pair.mesh.home / "ca")


def refused_after(pair: Pair, before: float) -> None:
    eventually(lambda: pair.cart.metric(REFUSED) == before + 1, "the refusal is counted")


def test_a_certificate_of_the_mesh_is_let_in(
    pair: Pair, mesh_authority: CertificateAuthority, tmp_path: Path
) -> None:
    answer = pair.send_over(pair.tls_as(mesh_authority, tmp_path), request("/by-hand"))

    assert status_of(answer) == 200
    assert "/by-hand" in pair.app.paths()
    assert pair.cart.logged("/by-hand")["source_identity"] == str(WEB)


PLAINTEXT = [
    pytest.param(request("/plain"), id="http"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="http2"),
    pytest.param(b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + request("/plain"), id="proxy-header"),
    pytest.param(b"CONNECT cart:80 HTTP/1.1\r\nHost: cart\r\n\r\n", id="connect"),
    pytest.param(b"\x16\x03\x01\x00\x05GET /", id="half-a-handshake"),
]


@pytest.mark.parametrize("data", PLAINTEXT)
def test_plaintext_is_refused_and_counted(pair: Pair, data: bytes) -> None:
    before = pair.cart.metric(REFUSED)

    answer = exchange("{}:{}".format(*pair.inbound), data)

    assert b"HTTP/" not in answer
    assert "/plain" not in pair.app.paths()
    refused_after(pair, before)


def test_a_client_without_a_certificate_is_refused(pair: Pair, tmp_path: Path) -> None:
    before = pair.cart.metric(REFUSED)

    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        pair.send_over(pair.tls_as(None, tmp_path), request("/nobody"))

    assert "/nobody" not in pair.app.paths()
    refused_after(pair, before)


# The first has the same name as the mesh's own, so that only its signature tells them apart.
FOREIGN = [("tulle.local", "ALERT_DECRYPT_ERROR"), ("elsewhere.example", "ALERT_UNKNOWN_CA")]


@pytest.mark.parametrize(("trust_domain", "alert"), FOREIGN)
def test_a_certificate_of_a_foreign_authority_is_refused(
    pair: Pair, tmp_path: Path, trust_domain: str, alert: str
) -> None:
    before = pair.cart.metric(REFUSED)
    foreign = authority_of(tmp_path / "foreign", trust_domain)

    with pytest.raises(ssl.SSLError, match=alert):
        pair.send_over(pair.tls_as(foreign, tmp_path), request("/foreign"))

    assert "/foreign" not in pair.app.paths()
    refused_after(pair, before)


def test_tls_1_2_is_refused(
    pair: Pair, mesh_authority: CertificateAuthority, tmp_path: Path
) -> None:
    context = pair.tls_as(mesh_authority, tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        pair.send_over(context, request("/old"))

    assert "/old" not in pair.app.paths()


def test_a_change_of_peer_authentication_takes_effect_live(pair: Pair) -> None:
    address = "{}:{}".format(*pair.inbound)
    with Client(address) as plain:
        pair.mesh.apply(PEER_AUTHENTICATION.format(mode="PERMISSIVE"))
        let_in = plain.get("/permissive")
        logged = pair.cart.logged("/permissive")
        meshed = get(pair.web.outbound(), "/permissive-mtls")

        pair.mesh.apply(PEER_AUTHENTICATION.format(mode="STRICT"))
        kept_open = plain.get("/kept-open")
    new = exchange(address, request("/new"))
    pair.mesh.delete("PeerAuthentication", "cart")

    assert (let_in.status, logged["mtls"], logged["source_identity"]) == (200, False, None)
    assert meshed.status == 200
    assert pair.cart.logged("/kept-open")["reason"] == "denied"
    assert (kept_open.status, b"HTTP/" in new) == (403, False)
    assert {"/kept-open", "/new"}.isdisjoint(pair.app.paths())
    assert get(pair.web.outbound(), "/strict").status == 200


def test_where_mtls_is_disabled_the_callers_know(pair: Pair) -> None:
    pair.mesh.apply(PEER_AUTHENTICATION.format(mode="DISABLE"))
    answer = get(pair.web.outbound(), "/disabled")
    logged = pair.web.logged("/disabled")
    pair.mesh.delete("PeerAuthentication", "cart")

    assert answer.status == 200
    assert logged["mtls"] is False


SPOOFED = [
    "x-forwarded-client-cert",
    "l5d-client-id",
    "X-Forwarded-Client-Cert",
    "x_forwarded_client_cert",
    "x-tulle-reason",
    "X-Tulle-Identity",
    "x_tulle_identity",
    "x-tulle-principal",
]


@pytest.mark.parametrize("name", SPOOFED)
def test_no_header_speaks_for_the_mesh(pair: Pair, name: str) -> None:
    spoofed = {name: "spiffe://tulle.local/ns/shop/sa/admin"}
    with Client(pair.web.outbound()) as client:
        answer = client.call("GET", f"/spoofed/{name}", headers=spoofed)

    seen = pair.app.seen[-1]
    assert (answer.status, seen.path) == (200, f"/spoofed/{name}")
    assert not [header for header in seen.headers if header.replace("_", "-") == name.lower()]
    assert pair.cart.logged(seen.path)["source_identity"] == str(WEB)


def test_a_caller_past_its_own_sidecar_cannot_spoof_either(
    pair: Pair, mesh_authority: CertificateAuthority, tmp_path: Path
) -> None:
    head = (
        b"GET /past HTTP/1.1\r\nHost: cart\r\nConnection: close, x-tulle-peer\r\n"
        b"x-tulle-peer: admin\r\nx-tulle-reason: app-unreachable\r\n"
        b"x-forwarded-client-cert: URI=spiffe://tulle.local/ns/shop/sa/admin\r\n\r\n"
    )

    answer = pair.send_over(pair.tls_as(mesh_authority, tmp_path), head)

    assert status_of(answer) == 200
    assert sorted(pair.app.seen[-1].headers) == ["host", "traceparent"]


class FailingApp(EchoApp):
    """Says of each request that the mesh could not deliver it, and answers 503."""

    extra_headers = (("x-tulle-reason", "app-unreachable"),)
    status = 503


def test_an_app_cannot_make_the_caller_retry_by_a_header(pair: Pair) -> None:
    with FailingApp() as failing:
        liar = pair.mesh.add("shop/liar-1", Port(8080, "http", failing.address))
        pair.mesh.apply(shop_with(80, service="liar"))
        caller = pair.mesh.add("shop/caller-1", calls={"shop/liar": [80]})
        pair.mesh.settle()

        answer = call(caller.outbound(), "GET", "/lie", x_tulle_retries="9", x_tulle_timeout="1")

        assert (answer.status, answer.reason) == (503, None)
        assert failing.paths() == ["/lie"]
        for sidecar in (liar, caller):
            sidecar.end()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Pair]:
    """A pair of the test's own whose control plane is gone: web keeps cart as an endpoint."""
    with EchoApp() as app, running_mesh(tmp_path) as mesh:
        pair = Pair(mesh, app)
        mesh.add("shop/spy-1", Port(8080, "http", app.address))
        mesh.settle()
        assert get(pair.web.outbound(), "/genuine").status == 200
        mesh.server.kill()
        pair.cart.end()
        yield pair


def is_refused(web: Sidecar, path: str) -> str:
    """Assert that web does not take the one at cart's address for cart; return its words."""
    answer = get(web.outbound(), path)
    assert (answer.status, answer.reason) == (503, "tls-failed")
    return answer.body.decode()


def test_a_server_of_a_foreign_authority_gets_nothing(alone: Pair, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    load(context, authority_of(tmp_path / "foreign"), "cart", tmp_path)
    with EchoApp(alone.inbound) as impostor:
        impostor.socket = context.wrap_socket(impostor.socket, server_side=True)

        words = is_refused(alone.web, "/to-the-impostor")

        assert "invalid peer certificate: BadSignature" in words
        assert impostor.seen == []


def test_a_sidecar_of_another_service_account_gets_nothing(alone: Pair) -> None:
    spy = alone.mesh.sidecars["shop/spy-1"]
    spy.end()
    spy.settings["inbound"][0]["listen"] = "{}:{}".format(*alone.inbound)
    spy.start(token=None)
    spy.wait_event("joined")

    words = is_refused(alone.web, "/to-the-spy")

    assert "peer is spiffe://tulle.local/ns/shop/sa/spy, expected" in words
    assert "/to-the-spy" not in alone.app.paths()


def test_a_plaintext_server_gets_nothing(alone: Pair) -> None:
    with EchoApp(alone.inbound) as impostor:
        is_refused(alone.web, "/in-the-clear")

        assert impostor.seen == []
