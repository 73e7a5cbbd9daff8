//! TLS as Tulle uses it: version 1.3, P-256 certificates, and peers known by SPIFFE id alone.
//!
//! - [`Identity`]: our own certificate, key and roots; made from PEM, replaced as a whole.
//! - [`server_config`], [`client_config`]: the rustls configs. They are made once per identity
//!   (and, for clients, per expected peer) and shared; a new identity means new configs, so no
//!   session outlives a change of certificate or roots.
//! - [`verified_peer`]: who is at the other end. **Call it after every handshake**: a resumed
//!   handshake does not verify certificates again, so the expiry is checked there.
//!
//! Absent on purpose: TLS 1.2, DNS name checks, the process-wide crypto provider, a store of
//! operating-system roots, and any way to switch verification off.

mod csr;
pub mod hello;
mod identity;
mod session;
mod spiffe;
#[cfg(test)]
pub(crate) mod test_ca;
#[cfg(test)]
mod tests;
mod verify;

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ServerConfig};

pub use csr::new_key_and_csr;
pub use identity::{Identity, Roots};
pub use session::session_name;
pub use spiffe::SpiffeId;
pub use verify::{Peer, peer, verified_peer};

use session::Tickets;
use verify::{ClientVerifier, ServerVerifier};

/// The one provider of every config: fast suites first, and the two groups all peers have.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
});

/// Why TLS could not be set up, or a peer was not taken for what it should be.
#[derive(Clone, PartialEq, Eq)]
pub enum TlsError {
    /// A PEM text that cannot be used: what it should have been, and why it is not.
    Pem {
        /// `certificate chain`, `private key` or `roots`.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The certificate is not for the private key.
    KeyMismatch,
    /// A certificate that cannot be read.
    Certificate(String),
    /// More certificates, or more bytes of them, than a peer may send.
    ChainTooLarge,
    /// A URI that is not a SPIFFE id of ours.
    SpiffeId {
        /// The URI, cut to 128 characters.
        value: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// A certificate with no URI name, or with several.
    UriNames(usize),
    /// The peer is a valid workload, but another one.
    WrongPeer {
        /// The id that was asked for.
        expected: SpiffeId,
        /// The id in the certificate.
        found: SpiffeId,
    },
    /// The peer belongs to another trust domain.
    WrongTrustDomain {
        /// The domain of the roots.
        expected: String,
        /// The id in the certificate.
        found: SpiffeId,
    },
    /// The peer of a finished handshake showed no certificate.
    NoCertificate,
    /// The peer's certificate ran out; a full handshake would have said so too.
    Expired(SpiffeId),
    /// A key or signing request could not be made.
    Request(String),
    /// rustls refused a config.
    Config(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem { what, why } => write!(f, "{what}: {why}"),
            Self::KeyMismatch => f.write_str("the certificate is not for this private key"),
            Self::Certificate(why) => write!(f, "certificate: {why}"),
            Self::ChainTooLarge => write!(
                f,
                "certificate chain too large; at most {} certificates and {} bytes",
                verify::MAX_CHAIN_CERTIFICATES,
                verify::MAX_CHAIN_BYTES
            ),
            Self::SpiffeId { value, why } => write!(f, "SPIFFE id {value:?}: {why}"),
            Self::UriNames(count) => {
                write!(f, "certificate has {count} URI names; must be exactly one")
            }
            Self::WrongPeer { expected, found } => {
                write!(f, "peer is {found}, expected {expected}")
            }
            Self::WrongTrustDomain { expected, found } => {
                write!(f, "peer is {found}, expected trust domain {expected}")
            }
            Self::NoCertificate => f.write_str("peer showed no certificate"),
            Self::Expired(id) => write!(f, "certificate of {id} has expired"),
            Self::Request(why) => write!(f, "signing request: {why}"),
            Self::Config(why) => write!(f, "TLS config: {why}"),
        }
    }
}

/// The same sentence: rustls shows the causes of its own errors by `Debug`.
impl fmt::Debug for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for TlsError {}

/// Whether a server lets clients in that show no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// A handshake without a client certificate fails.
    Required,
    /// A client may show none (to join); one it shows must be valid.
    Optional,
}

/// A server for `identity`; clients must be of its trust domain.
pub fn server_config(
    identity: &Identity,
    client_auth: ClientAuth,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let failed = |error: rustls::Error| TlsError::Config(error.to_string());
    let verifier = ClientVerifier::new(
        identity.roots().clone(),
        identity.id().trust_domain(),
        client_auth,
    );
    let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(failed)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(identity.resolver());
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // Stateless: the ticket carries the session, the key is this config's own.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(failed)?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// A client that talks to `expected` and to nobody else; it shows `identity` if there is one.
///
/// Keep the config as long as the peer is in use: its tickets are the resumption.
pub fn client_config(
    identity: Option<&Identity>,
    roots: &Roots,
    expected: &SpiffeId,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = ServerVerifier::new(roots.clone(), expected.clone());
    let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError::Config(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity.resolver()),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.enable_sni = false;
    config.resumption = rustls::client::Resumption::store(Arc::new(Tickets::default()));
    Ok(Arc::new(config))
}
