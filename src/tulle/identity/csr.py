"""What is taken from a signing request: the public key, and nothing else.

The identity comes from the token or the certificate of the one who asks. A request that
names an identity of its own is compared with that, never believed.
"""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from tulle.errors import IdentityError
from tulle.identity.spiffe import SpiffeId

CSR_BYTES_MAX = 16 * 1024
"""A request with a P-256 key has about 500 bytes."""

_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises at a request that is none: it has no common type."""


def checked_public_key(csr_pem: str, identity: SpiffeId) -> ec.EllipticCurvePublicKey:
    """Return the key of a request whose sender has shown to hold it.

    Raises:
        IdentityError: the request is malformed, its key is not P-256, its signature is
            not by that key, or it asks for anybody but *identity*.
    """
    if len(csr_pem) > CSR_BYTES_MAX:
        raise IdentityError(f"signing request: is longer than {CSR_BYTES_MAX} bytes")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
            key.curve, ec.SECP256R1
        ):
            raise IdentityError("signing request: the key is not ECDSA P-256")
        if not isinstance(request.signature_hash_algorithm, SHA256):
            raise IdentityError("signing request: is not signed with SHA-256")
        if not request.is_signature_valid:
            raise IdentityError("signing request: is not signed by its own key")
        names = _subject_alternative_names(request)
    except _UNREADABLE as cause:
        raise IdentityError(f"signing request: cannot be read: {cause}") from cause
    if names is not None and names != [x509.UniformResourceIdentifier(str(identity))]:
        raise IdentityError(f"signing request: asks for another name than {identity}")
    return key


def _subject_alternative_names(
    request: x509.CertificateSigningRequest,
) -> list[x509.GeneralName] | None:
    """Return the names the request asks for, or None if it asks for none."""
    try:
        extension = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return None
    return list(extension.value)
