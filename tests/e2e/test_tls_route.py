"""TLS of programs through two sidecars, routed by its server name and opened by nobody."""

import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.e2e.http_client import connect
from tests.e2e.mesh import SECRET, Namespace, Workload

pytestmark = pytest.mark.e2e

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{group: "", kind: Service, name: front, port: 80}}]
  hostnames: ["{host}"]
  rules: [{{backendRefs: [{{name: {name}, port: 80}}]}}]
"""
HOSTS = {"pay": "pay.shop.example", "rest": "*.shop.example"}


def self_signed(host: str) -> bytes:
    """Return a certificate of *host*, and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    return certificate.public_bytes(pem) + key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, none
    )


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificates of both servers, with their keys."""
    folder = tmp_path_factory.mktemp("tls")
    for name, host in HOSTS.items():
        (folder / f"{name}.pem").write_bytes(self_signed(host))
    return folder


@pytest.fixture(scope="module")
def web(shop: Namespace, roots: Path) -> Workload:
    """A caller of `front`, which has no workload: its routes lead to `pay` and `rest`."""
    for service in ("front", *HOSTS):
        shop.service(service, "tcp")
    shop.apply("---".join(ROUTE.format(name=name, host=host) for name, host in HOSTS.items()))
    web = shop.add("web", outbound=("front",))
    for name in HOSTS:
        shop.add(f"{name}-1", SECRET, environment={"CERTIFICATE": f"{roots}/{name}.pem"})
    shop.settle()
    return web


def ask(web: Workload, certificate: Path, host: str) -> str:
    """Return what the server of *certificate* says to a client that asks for *host*."""
    context = ssl.create_default_context(cafile=str(certificate))
    tcp = connect(web.outbound("tls-route/front"))
    with tcp, context.wrap_socket(tcp, server_hostname=host) as tls:
        return tls.recv(100).decode().strip()


@pytest.mark.parametrize(
    ("name", "host"),
    [("pay", "pay.shop.example"), ("rest", "any.shop.example")],
)
def test_the_server_name_decides_and_the_client_verifies_the_program_itself(
    web: Workload, roots: Path, name: str, host: str
) -> None:
    assert ask(web, roots / f"{name}.pem", host) == f"{name}-1"


def test_a_name_that_no_route_is_for_is_refused(web: Workload, roots: Path) -> None:
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        ask(web, roots / "pay.pem", "other.example")


@pytest.mark.parametrize(("name", "host"), HOSTS.items())
def test_resolve_tells_the_route_of_a_name(
    shop: Namespace, web: Workload, name: str, host: str
) -> None:
    asked = host.replace("*", "any")
    words = ("resolve", "--namespace", shop.name, "web", "front", "-H", f"host:{asked}")
    told = shop.mesh.tulle(*words).stdout

    assert f"{shop.name}/{name}" in told
    refused = shop.mesh.tulle(*words[:-1], "host:other.example", code=1).stdout
    assert "no route is for" in refused
