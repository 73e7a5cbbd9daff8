//! Our own certificate, key and roots.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::verify::{self, MAX_CHAIN_CERTIFICATES};
use super::{SpiffeId, TlsError};

/// Roots one trust domain may have at a time; two is the usual number while they rotate.
pub(super) const MAX_ROOTS: usize = 16;

/// The certificates that vouch for a trust domain; never empty, cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots(Arc<Vec<TrustAnchor<'static>>>);

impl Roots {
    /// Reads PEM texts, each with one or more certificates.
    pub fn from_pem<S: AsRef<str>>(pems: &[S]) -> Result<Self, TlsError> {
        let refused = |why: String| TlsError::Pem { what: "roots", why };
        let mut anchors = Vec::new();
        for pem in pems {
            for der in certificates("roots", pem.as_ref())? {
                let anchor = webpki::anchor_from_trusted_cert(&der)
                    .map_err(|error| refused(error.to_string()))?;
                anchors.push(anchor.to_owned());
            }
        }
        if anchors.is_empty() || anchors.len() > MAX_ROOTS {
            return Err(refused(format!(
                "{} certificates; must be 1 to {MAX_ROOTS}",
                anchors.len()
            )));
        }
        Ok(Self(Arc::new(anchors)))
    }

    /// Whether every certificate of `others` is among these.
    pub fn include(&self, others: &Self) -> bool {
        others.0.iter().all(|other| self.0.contains(other))
    }

    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.0
    }
}

/// A certificate chain with its key, and the roots to judge others by. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    resolver: Arc<SingleCertAndKey>,
    roots: Roots,
    id: SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Identity {
    /// Reads a chain (leaf first), its PKCS#8 or SEC1 key, and the roots.
    ///
    /// Expiry is not checked here: an identity may be loaded to see that it has expired.
    pub fn from_pem<S: AsRef<str>>(chain: &str, key: &str, roots: &[S]) -> Result<Self, TlsError> {
        let roots = Roots::from_pem(roots)?;
        let chain = certificates("certificate chain", chain)?;
        if chain.is_empty() || chain.len() > MAX_CHAIN_CERTIFICATES {
            return Err(TlsError::Pem {
                what: "certificate chain",
                why: format!(
                    "{} certificates; must be 1 to {MAX_CHAIN_CERTIFICATES}",
                    chain.len()
                ),
            });
        }
        let leaf = verify::leaf(&chain[0])?;
        let unusable = |why: String| TlsError::Pem {
            what: "private key",
            why,
        };
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| unusable(error.to_string()))?;
        let key = any_supported_type(&key).map_err(|error| unusable(error.to_string()))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| TlsError::KeyMismatch)?;
        Ok(Self {
            resolver: Arc::new(SingleCertAndKey::from(certified)),
            roots,
            id: leaf.id,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        })
    }

    /// The same certificate, judging others by other roots.
    pub fn with_roots(&self, roots: Roots) -> Self {
        Self {
            roots,
            ..self.clone()
        }
    }

    /// Who we are.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The roots of our trust domain.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// When the certificate starts to be valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When the certificate stops being valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub(super) fn resolver(&self) -> Arc<SingleCertAndKey> {
        self.resolver.clone()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem {
            what,
            why: error.to_string(),
        })
}
