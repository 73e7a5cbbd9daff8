"""The certificates of the mesh: root, issuing, and X.509-SVIDs.

A root (10 years) signs an issuing certificate (1 year), which signs what workloads carry.
All keys are ECDSA P-256. Extensions follow the X.509-SVID standard and RFC 5280: the SVID
has exactly one URI name, which is critical because the subject is empty, and a critical
key usage without certificate signing. Name constraints are absent: the standard's URI
constraints are understood by few verifiers, and every peer checks the trust domain.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tulle.errors import IdentityError
from tulle.identity.spiffe import SCHEME, SpiffeId

ROOT_LIFETIME = timedelta(days=3650)
ISSUING_LIFETIME = timedelta(days=365)
SVID_LIFETIME_MIN = timedelta(seconds=10)
SVID_LIFETIME_MAX = timedelta(hours=24)
BACKDATE_MAX = timedelta(seconds=60)
"""How far clocks of the mesh may differ; a tenth of the lifetime if that is less."""
COMMON_NAME_MAX = 64
"""RFC 5280, appendix A: ub-common-name."""

_EMPTY = x509.Name([])


@dataclass(frozen=True, slots=True)
class Signer:
    """A certificate that may sign others, with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return f"<Signer {self.certificate.subject.rfc4514_string()}>"


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def make_root(trust_domain: str, now: datetime) -> Signer:
    """Return a new root of *trust_domain*, signed by itself."""
    key = new_key()
    subject = _name("root", trust_domain)
    builder = _builder(subject, subject, key.public_key(), now, ROOT_LIFETIME)
    builder = _with_authority(builder, trust_domain, path_length=1)
    return Signer(builder.sign(key, hashes.SHA256()), key)


def make_issuing(root: Signer, trust_domain: str, now: datetime) -> Signer:
    """Return a new issuing certificate under *root*; it never outlives it."""
    key = new_key()
    lifetime = min(ISSUING_LIFETIME, root.certificate.not_valid_after_utc - now)
    builder = _builder(
        _name("issuing", trust_domain), root.certificate.subject, key.public_key(), now, lifetime
    )
    builder = _with_issuer_key(_with_authority(builder, trust_domain, path_length=0), root)
    return Signer(builder.sign(root.key, hashes.SHA256()), key)


def make_svid(
    issuing: Signer,
    identity: SpiffeId,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    """Return an X.509-SVID of *identity* for *public_key*; it never outlives its issuer.

    Raises:
        IdentityError: *lifetime* is not between 10 seconds and 24 hours.
    """
    if not SVID_LIFETIME_MIN <= lifetime <= SVID_LIFETIME_MAX:
        raise IdentityError(f"certificate lifetime {lifetime} is not allowed; 10 s to 24 h")
    lifetime = min(lifetime, issuing.certificate.not_valid_after_utc - now)
    builder = (
        _builder(_EMPTY, issuing.certificate.subject, public_key, now, lifetime)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))]),
            critical=True,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
    )
    return _with_issuer_key(builder, issuing).sign(issuing.key, hashes.SHA256())


def to_pem(certificate: x509.Certificate) -> str:
    """Return *certificate* as one PEM block."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """Return *key* as one PKCS #8 PEM block, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _name(role: str, trust_domain: str) -> x509.Name:
    """Return a subject for people; RFC 5280 bounds it, so the trust domain is in the SAN."""
    common = f"{role} {trust_domain}"[:COMMON_NAME_MAX]
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - min(BACKDATE_MAX, lifetime / 10))
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _with_authority(
    builder: x509.CertificateBuilder, trust_domain: str, path_length: int
) -> x509.CertificateBuilder:
    """Make it a signing certificate; its own SPIFFE id has no path (X.509-SVID, 3.2)."""
    return (
        builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=path_length), critical=True
        )
        .add_extension(_key_usage(digital_signature=False), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(SCHEME + trust_domain)]),
            critical=False,
        )
    )


def _with_issuer_key(builder: x509.CertificateBuilder, issuer: Signer) -> x509.CertificateBuilder:
    key_id = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id.value),
        critical=False,
    )


def _key_usage(*, digital_signature: bool) -> x509.KeyUsage:
    """Return the usage of an SVID, or else of a signing certificate."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=not digital_signature,
        crl_sign=not digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
