//! SPIFFE ids: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::TlsError;

const SCHEME: &str = "spiffe://";
/// The longest URI the SPIFFE standard lets an id have.
const MAX_URI_BYTES: usize = 2048;
/// The longest trust domain the SPIFFE standard allows.
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// Who a workload is. Validated when made, so two equal ids are equal bytes; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    /// Where the trust domain and the namespace end in `uri`.
    domain_end: usize,
    namespace_end: usize,
}

impl SpiffeId {
    /// The id of `service_account` in `namespace`.
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, TlsError> {
        Self::parse(&format!(
            "{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}"
        ))
    }

    /// Reads a URI; anything but the exact form above is refused.
    pub fn parse(uri: &str) -> Result<Self, TlsError> {
        let refused = |why| TlsError::SpiffeId {
            // Bounded, because it ends up in logs and comes from the peer.
            value: uri.chars().take(128).collect(),
            why,
        };
        if uri.len() > MAX_URI_BYTES {
            return Err(refused("longer than 2048 bytes"));
        }
        let rest = uri
            .strip_prefix(SCHEME)
            .ok_or_else(|| refused("must start with \"spiffe://\""))?;
        let mut parts = rest.split('/');
        let (domain, ns, namespace, sa, account) = match (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) {
            (Some(domain), Some(ns), Some(namespace), Some(sa), Some(account), None) => {
                (domain, ns, namespace, sa, account)
            }
            _ => return Err(refused("the path must be /ns/<namespace>/sa/<account>")),
        };
        if ns != "ns" || sa != "sa" {
            return Err(refused("the path must be /ns/<namespace>/sa/<account>"));
        }
        if !is_trust_domain(domain) {
            return Err(refused(
                "the trust domain allows a-z, 0-9, '.', '-' and '_', at most 255",
            ));
        }
        if !is_segment(namespace) || !is_segment(account) {
            return Err(refused("names allow letters, digits, '.', '-' and '_'"));
        }
        let domain_end = SCHEME.len() + domain.len();
        Ok(Self {
            uri: uri.into(),
            domain_end,
            namespace_end: domain_end + "/ns/".len() + namespace.len(),
        })
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The domain whose roots vouch for the id.
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.domain_end]
    }

    /// The namespace of the workload.
    pub fn namespace(&self) -> &str {
        &self.uri[self.domain_end + "/ns/".len()..self.namespace_end]
    }

    /// The service account of the workload.
    pub fn service_account(&self) -> &str {
        &self.uri[self.namespace_end + "/sa/".len()..]
    }

    /// The id as policies write it: without `spiffe://`.
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }
}

impl FromStr for SpiffeId {
    type Err = TlsError;

    fn from_str(uri: &str) -> Result<Self, TlsError> {
        Self::parse(uri)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

fn is_trust_domain(domain: &str) -> bool {
    !domain.is_empty()
        && domain.len() <= MAX_TRUST_DOMAIN_BYTES
        && domain
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
}

fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_an_id_are_readable() {
        let id = SpiffeId::new("tulle.local", "shop", "cart").unwrap();

        assert_eq!("spiffe://tulle.local/ns/shop/sa/cart", id.to_string());
        assert_eq!("tulle.local", id.trust_domain());
        assert_eq!("shop", id.namespace());
        assert_eq!("cart", id.service_account());
        assert_eq!("tulle.local/ns/shop/sa/cart", id.principal());
        assert_eq!(id, id.as_str().parse().unwrap());
    }

    #[test]
    fn an_id_and_its_trust_domain_have_so_many_bytes() {
        let of = |domain: usize, uri: usize| {
            let start = format!("spiffe://{}/ns/shop/sa/", "d".repeat(domain));
            let account = "a".repeat(uri - start.len());
            SpiffeId::parse(&(start + &account)).is_ok()
        };
        assert!(of(MAX_TRUST_DOMAIN_BYTES, MAX_URI_BYTES));
        assert!(!of(MAX_TRUST_DOMAIN_BYTES + 1, MAX_URI_BYTES));
        assert!(!of(MAX_TRUST_DOMAIN_BYTES, MAX_URI_BYTES + 1));
    }

    #[test]
    fn anything_but_the_exact_form_is_refused() {
        let long_domain = "d".repeat(256);
        for uri in [
            "",
            "https://tulle.local/ns/shop/sa/cart",
            "SPIFFE://tulle.local/ns/shop/sa/cart",
            "spiffe:///ns/shop/sa/cart",
            "spiffe://Tulle.local/ns/shop/sa/cart",
            "spiffe://tulle.local:443/ns/shop/sa/cart",
            "spiffe://user@tulle.local/ns/shop/sa/cart",
            "spiffe://tulle.local/ns/shop/sa/cart/",
            "spiffe://tulle.local/ns/shop/sa/cart/more",
            "spiffe://tulle.local/ns/shop/sa/",
            "spiffe://tulle.local/ns//sa/cart",
            "spiffe://tulle.local/ns/../sa/cart",
            "spiffe://tulle.local/ns/shop/sa/ca%72t",
            "spiffe://tulle.local/ns/shop/sa/cart?x=1",
            "spiffe://tulle.local/ns/shop/sa/cart#x",
            "spiffe://tulle.local/ns/shop/sa/cart\0",
            "spiffe://tulle.local/ns/shop/sa/c\u{e4}rt",
            "spiffe://tulle.local/sa/shop/ns/cart",
            &format!("spiffe://{long_domain}/ns/shop/sa/cart"),
            &format!("spiffe://d/ns/shop/sa/{}", "a".repeat(2048)),
        ] {
            assert!(SpiffeId::parse(uri).is_err(), "{uri} was taken");
        }
    }
}
