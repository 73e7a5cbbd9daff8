//! Mutual TLS 1.3 for both ends, its suite and key exchange fixed so that every peer pays the same.

use crate::arguments::Identity;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};
use std::sync::Arc;

const SESSIONS: usize = 4096;

/// Takes any chain, but checks that the peer holds its key: who the peer is, is not the question.
#[derive(Debug)]
struct AnyPeer(Arc<CryptoProvider>);

fn provider() -> Arc<CryptoProvider> {
    use rustls::crypto::aws_lc_rs as backend;
    Arc::new(CryptoProvider {
        cipher_suites: vec![backend::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![backend::kx_group::X25519],
        ..backend::default_provider()
    })
}

type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn chain(identity: &Identity) -> Result<Chain, String> {
    let wrong = |error| format!("{}: {error}", identity.chain.display());
    let chain = CertificateDer::pem_file_iter(&identity.chain)
        .and_then(Iterator::collect)
        .map_err(wrong)?;
    let key = PrivateKeyDer::from_pem_file(&identity.key)
        .map_err(|error| format!("{}: {error}", identity.key.display()))?;
    Ok((chain, key))
}

/// What the generator connects with.
pub fn client(identity: &Identity) -> Result<Arc<ClientConfig>, String> {
    let (chain, key) = chain(identity)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyPeer(provider())))
        .with_client_auth_cert(chain, key)
        .map_err(|error| error.to_string())?;
    config.resumption = if identity.resume {
        Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS)))
    } else {
        Resumption::disabled()
    };
    Ok(Arc::new(config))
}

/// What the application accepts with.
pub fn server(identity: &Identity) -> Result<Arc<ServerConfig>, String> {
    let (chain, key) = chain(identity)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(Arc::new(AnyPeer(provider())))
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    if identity.resume {
        // Tickets that may be shown twice: some clients keep one for all their connections.
        config.ticketer = Ticketer::new().map_err(|error| error.to_string())?;
        config.send_tls13_tickets = 1;
    } else {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

impl AnyPeer {
    fn check(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn only_tls13<T>() -> Result<T, Error> {
    Err(Error::General("TLS 1.3 is the only version".to_owned()))
}

impl ServerCertVerifier for AnyPeer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for AnyPeer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
