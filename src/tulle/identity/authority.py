"""The certificate authority of a trust domain: two files with a key and a certificate each.

`root.pem` is made once. `issuing.pem` is made anew when half of its life is over, or when
it is missing: workloads trust the root, so a new issuing certificate needs no other step.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tulle.errors import IdentityError
from tulle.identity.certificates import (
    Signer,
    key_to_pem,
    make_issuing,
    make_root,
    make_svid,
    new_key,
    to_pem,
)
from tulle.identity.csr import checked_public_key
from tulle.identity.keyfile import make_private_directory, read_private, write_private
from tulle.identity.spiffe import SCHEME, SpiffeId, check_trust_domain

ROOT_FILE = "root.pem"
ISSUING_FILE = "issuing.pem"

Clock = Callable[[], datetime]
"""Returns the time now, with a time zone."""


@dataclass(frozen=True, slots=True)
class Svid:
    """A signed certificate: the leaf first, then what links it to the root."""

    identity: SpiffeId
    chain_pem: str
    serial: int
    not_after: datetime


class CertificateAuthority:
    """Signs what the workloads of one trust domain carry; safe to use from several threads."""

    def __init__(self, directory: Path, trust_domain: str, clock: Clock) -> None:
        """Open the authority in *directory*, and make it there on the first start.

        Raises:
            IdentityError: its files are damaged, readable by others, expired, or of
                another trust domain.
        """
        check_trust_domain(trust_domain)
        self.trust_domain = trust_domain
        self._directory = directory
        self._clock = clock
        self._renewal = threading.Lock()
        make_private_directory(directory)
        self._root = self._load_root()
        self._issuing = self._load_issuing()

    def __repr__(self) -> str:
        until = self._issuing.certificate.not_valid_after_utc
        return f"<CertificateAuthority {self.trust_domain} issuing until {until:%Y-%m-%d}>"

    @property
    def roots_pem(self) -> tuple[str, ...]:
        """The root certificates that peers trust, each one PEM block."""
        return (to_pem(self._root.certificate),)

    @property
    def bundle_pem(self) -> str:
        """The root certificates in one text."""
        return "".join(self.roots_pem)

    def sign(self, csr_pem: str, identity: SpiffeId, lifetime: timedelta) -> Svid:
        """Return a certificate of *identity* for the key that signed the request.

        Raises:
            IdentityError: the request is not acceptable (`checked_public_key`), *identity*
                is of another trust domain, or *lifetime* is not between 10 s and 24 h.
        """
        return self._sign(checked_public_key(csr_pem, identity), identity, lifetime)

    def issue(self, identity: SpiffeId, lifetime: timedelta) -> tuple[Svid, str]:
        """Return a certificate of *identity* and its new key as PEM: the control plane's own.

        Raises:
            IdentityError: as for `sign`.
        """
        key = new_key()
        return self._sign(key.public_key(), identity, lifetime), key_to_pem(key)

    def _sign(
        self, key: ec.EllipticCurvePublicKey, identity: SpiffeId, lifetime: timedelta
    ) -> Svid:
        if identity.trust_domain != self.trust_domain:
            raise IdentityError(f"{identity} is not in the trust domain {self.trust_domain}")
        now = self._clock()
        issuing = self._current_issuing(now)
        leaf = make_svid(issuing, identity, key, now, lifetime)
        return Svid(
            identity=identity,
            chain_pem=to_pem(leaf) + to_pem(issuing.certificate),
            serial=leaf.serial_number,
            not_after=leaf.not_valid_after_utc,
        )

    def _current_issuing(self, now: datetime) -> Signer:
        with self._renewal:
            if _past_half_life(self._issuing, now):
                self._issuing = self._make_issuing(now)
            return self._issuing

    def _load_root(self) -> Signer:
        path = self._directory / ROOT_FILE
        try:
            root = _load(path)
        except FileNotFoundError:
            root = make_root(self.trust_domain, self._clock())
            write_private(path, _text(root), replace=False)
        _check_trust_domain_of(root.certificate, self.trust_domain, path)
        return root

    def _load_issuing(self) -> Signer:
        path = self._directory / ISSUING_FILE
        now = self._clock()
        try:
            issuing = _load(path)
        except FileNotFoundError:
            return self._make_issuing(now)
        try:
            issuing.certificate.verify_directly_issued_by(self._root.certificate)
        except (ValueError, TypeError, InvalidSignature) as cause:
            raise IdentityError(f"{path}: is not issued by {ROOT_FILE} beside it") from cause
        return self._make_issuing(now) if _past_half_life(issuing, now) else issuing

    def _make_issuing(self, now: datetime) -> Signer:
        end = self._root.certificate.not_valid_after_utc
        if end <= now:
            raise IdentityError(f"{self._directory / ROOT_FILE}: expired {end:%Y-%m-%d}")
        issuing = make_issuing(self._root, self.trust_domain, now)
        write_private(self._directory / ISSUING_FILE, _text(issuing), replace=True)
        return issuing


def _past_half_life(issuing: Signer, now: datetime) -> bool:
    certificate = issuing.certificate
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - now < life / 2


def _text(signer: Signer) -> str:
    return key_to_pem(signer.key) + to_pem(signer.certificate)


def _load(path: Path) -> Signer:
    data = read_private(path).encode()
    try:
        certificate = x509.load_pem_x509_certificate(data)
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as cause:
        raise IdentityError(f"{path}: holds no key and certificate: {cause}") from cause
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError(f"{path}: the key is not ECDSA P-256")
    if key.public_key() != certificate.public_key():
        raise IdentityError(f"{path}: key and certificate do not belong together")
    return Signer(certificate, key)


def _check_trust_domain_of(certificate: x509.Certificate, trust_domain: str, path: Path) -> None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as cause:
        raise IdentityError(f"{path}: names no trust domain") from cause
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if uris != [SCHEME + trust_domain]:
        raise IdentityError(f"{path}: is the root of {uris}, not of {SCHEME}{trust_domain}")
