"""The authority's certificates, what it signs and refuses, and its files."""

import base64
import os
import stat
import textwrap
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tulle.errors import IdentityError
from tulle.identity.authority import ISSUING_FILE, ROOT_FILE, CertificateAuthority
from tulle.identity.certificates import ISSUING_LIFETIME
from tulle.identity.keyfile import KEY_FILE_BYTES_MAX
from tulle.identity.spiffe import SpiffeId

WEB = SpiffeId("tulle.local", "shop", "web")
DAY = timedelta(hours=24)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Clock:
    """A clock that stands still until told otherwise."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> CertificateAuthority:
    return CertificateAuthority(tmp_path / "ca", "tulle.local", clock)


def request_for(
    *names: x509.GeneralName,
    key: Key | None = None,
    extensions: tuple[x509.ExtensionType, ...] = (),
) -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())


def pem(request: x509.CertificateSigningRequest) -> str:
    return request.public_bytes(serialization.Encoding.PEM).decode()


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def chain(pem_text: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem_text.encode())


def test_a_certificate_is_an_x509_svid(authority: CertificateAuthority, clock: Clock) -> None:
    """One URI name, critical under the empty subject; critical key usage; no CA."""
    key = ec.generate_private_key(ec.SECP256R1())

    svid = authority.sign(pem(request_for(uri(str(WEB)), key=key)), WEB, DAY)

    leaf, issuing = chain(svid.chain_pem)
    (root,) = chain(authority.bundle_pem)
    leaf.verify_directly_issued_by(issuing)
    issuing.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert leaf.public_key() == key.public_key()
    assert leaf.subject == x509.Name([])
    assert svid.serial == leaf.serial_number
    assert svid.not_after == leaf.not_valid_after_utc == clock.now + DAY
    assert leaf.not_valid_before_utc == clock.now - timedelta(seconds=60)
    assert {
        extension.oid._name: (extension.critical, extension.value) for extension in leaf.extensions
    } == {
        "subjectAltName": (True, x509.SubjectAlternativeName([uri(str(WEB))])),
        "basicConstraints": (True, x509.BasicConstraints(ca=False, path_length=None)),
        "keyUsage": (
            True,
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
        ),
        "extendedKeyUsage": (
            False,
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
        ),
        "subjectKeyIdentifier": (
            False,
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        ),
        "authorityKeyIdentifier": (
            False,
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuing.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
        ),
    }


@pytest.mark.parametrize(("of", "path_length"), [("root", 1), ("issuing", 0)])
def test_signing_certificates_sign_only(
    authority: CertificateAuthority, of: str, path_length: int
) -> None:
    issuing = chain(authority.sign(pem(request_for()), WEB, DAY).chain_pem)[1]
    certificate = issuing if of == "issuing" else chain(authority.bundle_pem)[0]

    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)

    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=path_length)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert list(names.value) == [uri("spiffe://tulle.local")]
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)


def test_nothing_else_in_a_request_is_believed(authority: CertificateAuthority) -> None:
    """A request to become an authority gets a plain certificate of its own identity."""
    request = request_for(extensions=(x509.BasicConstraints(ca=True, path_length=9),))

    leaf = chain(authority.sign(pem(request), WEB, DAY).chain_pem)[0]

    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints == x509.BasicConstraints(ca=False, path_length=None)
    assert leaf.subject == x509.Name([])


def tampered(request: x509.CertificateSigningRequest) -> str:
    der = bytearray(request.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    return pem(x509.load_der_x509_csr(bytes(der)))


def of_version_5(request: x509.CertificateSigningRequest) -> str:
    der = request.public_bytes(serialization.Encoding.DER)
    der = der.replace(b"\x02\x01\x00", b"\x02\x01\x05", 1)
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    head = "CERTIFICATE REQUEST"
    return "\n".join([f"-----BEGIN {head}-----", *lines, f"-----END {head}-----", ""])


P384 = ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)
REFUSED: list[tuple[str, Callable[[], str], str]] = [
    ("empty", lambda: "", "cannot be read"),
    ("no request", lambda: "-----BEGIN CERTIFICATE REQUEST-----", "cannot be read"),
    ("not text", lambda: "\ud800", "cannot be read"),
    ("version", lambda: of_version_5(request_for()), "cannot be read"),
    ("too long", lambda: "x" * 16385, "longer than 16384"),
    ("rsa", lambda: pem(request_for(key=RSA)), "not ECDSA P-256"),
    ("p-384", lambda: pem(request_for(key=P384)), "not ECDSA P-256"),
    ("signature", lambda: tampered(request_for()), "not signed by its own key"),
    ("other id", lambda: pem(request_for(uri(f"{WEB}2"))), "asks for another name"),
    ("two ids", lambda: pem(request_for(uri(str(WEB)), uri(f"{WEB}2"))), "asks for another name"),
    ("dns", lambda: pem(request_for(x509.DNSName("web"))), "asks for another name"),
    (
        "id and dns",
        lambda: pem(request_for(uri(str(WEB)), x509.DNSName("web"))),
        "asks for another name",
    ),
]


@pytest.mark.parametrize(
    ("make", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_wrong_request_is_refused(
    authority: CertificateAuthority, make: Callable[[], str], message: str
) -> None:
    with pytest.raises(IdentityError, match=message):
        authority.sign(make(), WEB, DAY)


SHA1_REQUEST = """\
-----BEGIN CERTIFICATE REQUEST-----
MIHGMG4CAQAwDDEKMAgGA1UEAwwBeDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IA
BDvKqUiAk/l5BoMNFzEyGqPGS06Z3TFSZENYnk2NfFL+2C0283KYl01Kw3DmJtTW
0ackeJP7yrj11OX9qZgc8CqgADAJBgcqhkjOPQQBA0kAMEYCIQDMvzY/vyEx78Kr
bxnDyPzjs9MbSFgTOpSnR4i3+PiqtwIhAP77/sb4KbX/q0jtS5ZkofnfE/cVohBM
t8PZeRzqAFhz
-----END CERTIFICATE REQUEST-----
"""


def test_a_request_signed_with_sha1_is_refused(authority: CertificateAuthority) -> None:
    """Bytes from `openssl req -sha1`: the library itself no longer makes them."""
    with pytest.raises(IdentityError, match="SHA-256"):
        authority.sign(SHA1_REQUEST, WEB, DAY)


@pytest.mark.parametrize(
    ("lifetime", "allowed"),
    [
        (timedelta(seconds=10), True),
        (timedelta(seconds=9.9), False),
        (timedelta(hours=24), True),
        (timedelta(hours=24, seconds=1), False),
        (timedelta(seconds=-1), False),
    ],
    ids=str,
)
def test_lifetimes(authority: CertificateAuthority, lifetime: timedelta, *, allowed: bool) -> None:
    if allowed:
        assert authority.sign(pem(request_for()), WEB, lifetime).identity == WEB
        return
    with pytest.raises(IdentityError, match="10 s to 24 h"):
        authority.sign(pem(request_for()), WEB, lifetime)


def test_a_short_certificate_is_backdated_by_a_tenth(
    authority: CertificateAuthority, clock: Clock
) -> None:
    svid = authority.sign(pem(request_for()), WEB, timedelta(seconds=10))

    leaf = chain(svid.chain_pem)[0]

    assert clock.now - leaf.not_valid_before_utc == timedelta(seconds=1)


def test_another_trust_domain_is_not_signed_for(authority: CertificateAuthority) -> None:
    with pytest.raises(IdentityError, match="not in the trust domain"):
        authority.sign(pem(request_for()), SpiffeId("other", "shop", "web"), DAY)


def test_serials_differ_and_are_long(authority: CertificateAuthority) -> None:
    serials = {authority.sign(pem(request_for()), WEB, DAY).serial for _ in range(50)}

    assert len(serials) == 50
    assert min(serial.bit_length() for serial in serials) > 100


def test_the_control_plane_gets_a_key_with_its_certificate(
    authority: CertificateAuthority,
) -> None:
    svid, key_pem = authority.issue(SpiffeId("tulle.local", "tulle-system", "control-plane"), DAY)

    key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    assert key.public_key() == chain(svid.chain_pem)[0].public_key()


def test_a_restart_keeps_root_and_issuing(
    tmp_path: Path, authority: CertificateAuthority, clock: Clock
) -> None:
    before = chain(authority.sign(pem(request_for()), WEB, DAY).chain_pem)[1]

    again = CertificateAuthority(tmp_path / "ca", "tulle.local", clock)

    assert again.roots_pem == authority.roots_pem
    assert chain(again.sign(pem(request_for()), WEB, DAY).chain_pem)[1] == before


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_issuing_is_renewed_at_half_life(
    tmp_path: Path, authority: CertificateAuthority, clock: Clock, *, restart: bool
) -> None:
    before = chain(authority.sign(pem(request_for()), WEB, DAY).chain_pem)[1]

    clock.now += ISSUING_LIFETIME / 2 + timedelta(hours=1)
    if restart:
        authority = CertificateAuthority(tmp_path / "ca", "tulle.local", clock)
    leaf, issuing = chain(authority.sign(pem(request_for()), WEB, DAY).chain_pem)

    assert issuing != before
    leaf.verify_directly_issued_by(issuing)
    issuing.verify_directly_issued_by(chain(authority.bundle_pem)[0])
    again = CertificateAuthority(tmp_path / "ca", "tulle.local", clock)
    assert chain(again.sign(pem(request_for()), WEB, DAY).chain_pem)[1] == issuing


def test_renewal_by_many_threads_makes_one_issuing_certificate(
    authority: CertificateAuthority, clock: Clock
) -> None:
    clock.now += ISSUING_LIFETIME / 2 + timedelta(hours=1)
    request = pem(request_for())
    found: list[x509.Certificate] = []

    def sign() -> None:
        found.append(chain(authority.sign(request, WEB, DAY).chain_pem)[1])

    threads = [threading.Thread(target=sign) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_start_that_broke_off_after_the_root_is_finished(
    tmp_path: Path, authority: CertificateAuthority, clock: Clock
) -> None:
    (tmp_path / "ca" / ISSUING_FILE).unlink()

    again = CertificateAuthority(tmp_path / "ca", "tulle.local", clock)

    assert again.roots_pem == authority.roots_pem
    assert again.sign(pem(request_for()), WEB, DAY).not_after == clock.now + DAY


def test_key_files_are_private_whatever_the_umask(tmp_path: Path, clock: Clock) -> None:
    before = os.umask(0)
    try:
        CertificateAuthority(tmp_path / "ca", "tulle.local", clock)
    finally:
        os.umask(before)

    assert {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "ca").iterdir()
    } == {ROOT_FILE: 0o600, ISSUING_FILE: 0o600}
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700


def test_the_root_is_never_overwritten(tmp_path: Path, clock: Clock) -> None:
    """An unreadable root is an error: a new one would cut off every workload."""
    (tmp_path / "ca").mkdir(mode=0o700)
    root = tmp_path / "ca" / ROOT_FILE
    root.write_text("garbage")
    root.chmod(0o600)

    with pytest.raises(IdentityError, match="holds no key and certificate"):
        CertificateAuthority(tmp_path / "ca", "tulle.local", clock)

    assert root.read_text() == "garbage"


@pytest.mark.parametrize("name", [ROOT_FILE, ISSUING_FILE])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601])
def test_a_key_file_that_others_reach_is_refused(
    tmp_path: Path, authority: CertificateAuthority, clock: Clock, name: str, mode: int
) -> None:
    (tmp_path / "ca" / name).chmod(mode)

    with pytest.raises(IdentityError, match=f"{name}: mode {mode:04o} lets others"):
        CertificateAuthority(tmp_path / "ca", authority.trust_domain, clock)


def test_a_key_file_has_so_many_bytes(
    tmp_path: Path, authority: CertificateAuthority, clock: Clock
) -> None:
    root = tmp_path / "ca" / ROOT_FILE
    text = root.read_text()
    root.write_text(text + "\n" * (KEY_FILE_BYTES_MAX - len(text)))
    CertificateAuthority(tmp_path / "ca", authority.trust_domain, clock)
    root.write_text(root.read_text() + "\n")

    with pytest.raises(IdentityError, match=f"is longer than {KEY_FILE_BYTES_MAX} bytes"):
        CertificateAuthority(tmp_path / "ca", authority.trust_domain, clock)


def test_a_directory_that_others_write_is_refused(
    tmp_path: Path, authority: CertificateAuthority, clock: Clock
) -> None:
    (tmp_path / "ca").chmod(0o777)

    with pytest.raises(IdentityError, match="others may write here"):
        CertificateAuthority(tmp_path / "ca", authority.trust_domain, clock)


def test_a_link_to_a_key_file_is_refused(
    tmp_path: Path, authority: CertificateAuthority, clock: Clock
) -> None:
    root = tmp_path / "ca" / ROOT_FILE
    root.rename(tmp_path / "elsewhere")
    root.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(IdentityError, match="cannot be opened"):
        CertificateAuthority(tmp_path / "ca", authority.trust_domain, clock)


def _swap_keys(directory: Path) -> None:
    root, issuing = (directory / ROOT_FILE).read_text(), (directory / ISSUING_FILE).read_text()
    mark = "-----BEGIN CERTIFICATE-----"
    (directory / ISSUING_FILE).write_text(root[: root.index(mark)] + issuing[issuing.index(mark) :])


def _foreign_issuing(directory: Path) -> None:
    other = directory.parent / "other"
    CertificateAuthority(other, "tulle.local", Clock())
    (directory / ISSUING_FILE).write_text((other / ISSUING_FILE).read_text())


def _rsa_key(directory: Path) -> None:
    text = (directory / ROOT_FILE).read_text()
    key = RSA.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    (directory / ROOT_FILE).write_text(key + text[text.index("-----BEGIN CERTIFICATE-----") :])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_swap_keys, "key and certificate do not belong together"),
        (_foreign_issuing, "is not issued by root.pem"),
        (_rsa_key, "the key is not ECDSA P-256"),
        (lambda directory: (directory / ROOT_FILE).write_bytes(b"\xff" * 9), "holds no key"),
        (lambda directory: (directory / ROOT_FILE).write_bytes(b"x" * 65537), "longer than 65536"),
    ],
    ids=["swapped-key", "foreign-issuing", "rsa", "binary", "long"],
)
def test_damaged_files_are_named(
    tmp_path: Path,
    authority: CertificateAuthority,
    clock: Clock,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    damage(tmp_path / "ca")

    with pytest.raises(IdentityError, match=message):
        CertificateAuthority(tmp_path / "ca", authority.trust_domain, clock)


def test_the_trust_domain_of_an_authority_is_fixed(
    tmp_path: Path, authority: CertificateAuthority, clock: Clock
) -> None:
    with pytest.raises(IdentityError, match="not of spiffe://other"):
        CertificateAuthority(tmp_path / "ca", "other", clock)


def test_an_expired_root_is_refused(
    tmp_path: Path, authority: CertificateAuthority, clock: Clock
) -> None:
    clock.now += timedelta(days=3651)

    with pytest.raises(IdentityError, match=r"root\.pem: expired"):
        CertificateAuthority(tmp_path / "ca", authority.trust_domain, clock)


def test_an_expired_root_signs_no_more(authority: CertificateAuthority, clock: Clock) -> None:
    clock.now += timedelta(days=3650)

    with pytest.raises(IdentityError, match=r"root\.pem: expired 2036-02-27"):
        authority.sign(pem(request_for()), WEB, DAY)


def test_near_the_end_of_the_root_nothing_outlives_it(
    authority: CertificateAuthority, clock: Clock
) -> None:
    """And the issuing certificate, short as it is, is not made anew for each signature."""
    end = clock.now + timedelta(days=3650)
    clock.now = end - timedelta(hours=10)

    chains = [chain(authority.sign(pem(request_for()), WEB, DAY).chain_pem) for _ in range(3)]

    assert {leaf.not_valid_after_utc for leaf, _ in chains} == {end}
    assert len({issuing for _, issuing in chains}) == 1


def test_no_representation_shows_a_key(authority: CertificateAuthority) -> None:
    assert repr(authority) == "<CertificateAuthority tulle.local issuing until 2027-03-01>"
    assert "PRIVATE" not in repr(authority._root)
