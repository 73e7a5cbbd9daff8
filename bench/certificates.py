"""Certificates for the pair workload: one P-256 authority, one SPIFFE identity per side."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

TRUST_DOMAIN = "tulle.local"
SIDES = ("client", "server")
LIFETIME = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Side:
    """The files of one side of the pair."""

    chain: Path
    key: Path
    bundle: Path
    """Chain and key in one file, as HAProxy wants them."""
    roots: Path
    identity: str


def identity_of(side: str) -> str:
    """Return the SPIFFE id of *side*."""
    return f"spiffe://{TRUST_DOMAIN}/ns/bench/sa/{side}"


def issue(directory: Path) -> dict[str, Side]:
    """Write an authority and a certificate per side to *directory*."""
    root_key = ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench root")])
    root = (
        _builder(root_name, root_name, root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    roots = directory / "roots.pem"
    roots.write_bytes(_pem(root))
    sides = {}
    for name in SIDES:
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = _sign_leaf(name, key.public_key(), root, root_key)
        chain, key_file = directory / f"{name}.pem", directory / f"{name}.key"
        bundle = directory / f"{name}.bundle.pem"
        key_pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        chain.write_bytes(_pem(leaf))
        key_file.write_bytes(key_pem)
        bundle.write_bytes(_pem(leaf) + key_pem)
        sides[name] = Side(chain, key_file, bundle, roots, identity_of(name))
    return sides


def _sign_leaf(
    name: str,
    key: ec.EllipticCurvePublicKey,
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    # The common name is for nginx, which knows peers by name; every other contender reads the URI.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity_of(name))])
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    root_public = root.public_key()
    assert isinstance(root_public, ec.EllipticCurvePublicKey)
    return (
        _builder(subject, root.subject, key)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root_public), critical=False
        )
        .sign(root_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
