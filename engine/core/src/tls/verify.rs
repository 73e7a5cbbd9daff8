//! Verifying peers: chain, time, usage, and exactly one SPIFFE id.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, CommonState, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage, aws_lc_rs as webpki_algorithms};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::{ClientAuth, Roots, SpiffeId, TlsError};

/// Certificates a peer may send, the leaf included.
pub(super) const MAX_CHAIN_CERTIFICATES: usize = 4;
/// Bytes (DER) all certificates of a peer may have together.
pub(super) const MAX_CHAIN_BYTES: usize = 16 * 1024;
/// The tag of a URI among the alternative names of a certificate (RFC 5280, 4.2.1.6).
const URI_TAG: u32 = 6;

/// Handshakes are signed with P-256; the authorities above may also use P-384 or Ed25519.
static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        webpki_algorithms::ECDSA_P256_SHA256,
        webpki_algorithms::ECDSA_P256_SHA384,
        webpki_algorithms::ECDSA_P384_SHA256,
        webpki_algorithms::ECDSA_P384_SHA384,
        webpki_algorithms::ED25519,
    ],
    mapping: &[(
        SignatureScheme::ECDSA_NISTP256_SHA256,
        &[webpki_algorithms::ECDSA_P256_SHA256],
    )],
};

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub id: SpiffeId,
    /// When its certificate stops being valid.
    pub not_after: SystemTime,
}

/// What a leaf certificate says of its owner.
pub(super) struct Leaf {
    pub(super) id: SpiffeId,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

/// Reads the owner out of a chain that a handshake has verified.
pub fn peer(certs: &[CertificateDer<'_>]) -> Result<Peer, TlsError> {
    let leaf = leaf(certs.first().ok_or(TlsError::NoCertificate)?)?;
    Ok(Peer {
        id: leaf.id,
        not_after: leaf.not_after,
    })
}

/// The peer of a finished handshake, whose certificate is valid at `now`.
///
/// A resumed session brings the certificates of the first handshake, which may have expired
/// since: such a connection must be closed.
pub fn verified_peer(connection: &CommonState, now: SystemTime) -> Result<Peer, TlsError> {
    let peer = peer(connection.peer_certificates().unwrap_or_default())?;
    if peer.not_after <= now {
        return Err(TlsError::Expired(peer.id));
    }
    Ok(peer)
}

pub(super) fn leaf(der: &CertificateDer<'_>) -> Result<Leaf, TlsError> {
    let unreadable = |error: &dyn std::fmt::Display| TlsError::Certificate(error.to_string());
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| unreadable(&error))?;
    if !rest.is_empty() {
        return Err(unreadable(&"bytes after its end"));
    }
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| unreadable(&error))?;
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(Some(*uri)),
        // A URI that is not even text still counts, else it would hide a second identity.
        GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => Some(None),
        _ => None,
    });
    let uri = match (uris.next(), uris.next()) {
        (Some(uri), None) => uri.ok_or_else(|| unreadable(&"URI name is not text"))?,
        (first, second) => {
            let found = usize::from(first.is_some()) + usize::from(second.is_some());
            return Err(TlsError::UriNames(found + uris.count()));
        }
    };
    Ok(Leaf {
        id: SpiffeId::parse(uri)?,
        not_before: system_time(certificate.validity().not_before),
        not_after: system_time(certificate.validity().not_after),
    })
}

/// Before 1970 nothing of ours was issued, so the epoch stands for all earlier times.
fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Takes servers that are `expected`.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    roots: Roots,
    expected: SpiffeId,
}

impl ServerVerifier {
    pub(super) fn new(roots: Roots, expected: SpiffeId) -> Self {
        Self { roots, expected }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let usage = KeyUsage::server_auth();
        let found = verify_chain(&self.roots, end_entity, intermediates, now, usage)?;
        if found != self.expected {
            return Err(refusal(TlsError::WrongPeer {
                expected: self.expected.clone(),
                found,
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

/// Takes clients of one trust domain.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    roots: Roots,
    trust_domain: String,
    client_auth: ClientAuth,
}

impl ClientVerifier {
    pub(super) fn new(roots: Roots, trust_domain: &str, client_auth: ClientAuth) -> Self {
        Self {
            roots,
            trust_domain: trust_domain.to_owned(),
            client_auth,
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }

    /// None: every client has one certificate, and the list would be sent in each handshake.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let usage = KeyUsage::client_auth();
        let found = verify_chain(&self.roots, end_entity, intermediates, now, usage)?;
        if found.trust_domain() != self.trust_domain {
            return Err(refusal(TlsError::WrongTrustDomain {
                expected: self.trust_domain.clone(),
                found,
            }));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

/// The one order of checks for both directions; the size first, since the rest costs time.
fn verify_chain(
    roots: &Roots,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<SpiffeId, Error> {
    let bytes = end_entity.len() + intermediates.iter().map(|der| der.len()).sum::<usize>();
    if 1 + intermediates.len() > MAX_CHAIN_CERTIFICATES || bytes > MAX_CHAIN_BYTES {
        return Err(refusal(TlsError::ChainTooLarge));
    }
    let certificate = EndEntityCert::try_from(end_entity).map_err(chain_error)?;
    certificate
        .verify_for_usage(
            ALGORITHMS.all,
            roots.anchors(),
            intermediates,
            now,
            usage,
            None,
            None,
        )
        .map_err(chain_error)?;
    Ok(leaf(end_entity).map_err(refusal)?.id)
}

fn refusal(error: TlsError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// rustls' own words where it has them: they choose the alert that tells the peer.
fn chain_error(error: webpki::Error) -> Error {
    let reason = match error {
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding,
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => {
            return refusal(TlsError::Certificate(other.to_string()));
        }
    };
    Error::InvalidCertificate(reason)
}
