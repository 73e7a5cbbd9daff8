//! Private keys and signing requests. The key never leaves the engine.

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};

use super::{SpiffeId, TlsError};

/// Makes a new P-256 key and a request to certify it for `id`; both PEM, the key PKCS#8.
pub fn new_key_and_csr(id: &SpiffeId) -> Result<(String, String), TlsError> {
    let failed = |error: rcgen::Error| TlsError::Request(error.to_string());
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = Ia5String::try_from(id.as_str()).map_err(failed)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    let request = params.serialize_request(&key).map_err(failed)?;
    Ok((key.serialize_pem(), request.pem().map_err(failed)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Identity;
    use crate::tls::test_ca::{Leaf, TestCa};
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::pem::parse_x509_pem;
    use x509_parser::prelude::{FromDer, X509CertificationRequest};

    #[test]
    fn a_request_asks_for_the_id_and_nothing_else() {
        let id = SpiffeId::new("tulle.local", "shop", "cart").unwrap();

        let (key, request) = new_key_and_csr(&id).unwrap();

        assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"));
        let (_, pem) = parse_x509_pem(request.as_bytes()).unwrap();
        let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).unwrap();
        let names: Vec<_> = parsed
            .requested_extensions()
            .unwrap()
            .filter_map(|extension| match extension {
                ParsedExtension::SubjectAlternativeName(san) => Some(&san.general_names),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(vec![&GeneralName::URI(id.as_str())], names);
        assert_eq!(0, parsed.certification_request_info.subject.iter().count());
    }

    #[test]
    fn key_and_certified_request_make_an_identity() {
        let ca = TestCa::new();
        let id = SpiffeId::new("tulle.local", "shop", "cart").unwrap();
        let (key, request) = new_key_and_csr(&id).unwrap();

        let chain = ca.sign(&request, &Leaf::of(id.as_str()));

        let identity = Identity::from_pem(&chain, &key, &[&ca.root_pem]).unwrap();
        assert_eq!(&id, identity.id());
    }

    #[test]
    fn every_request_has_a_new_key() {
        let id = SpiffeId::new("tulle.local", "shop", "cart").unwrap();

        assert_ne!(
            new_key_and_csr(&id).unwrap().0,
            new_key_and_csr(&id).unwrap().0
        );
    }
}
