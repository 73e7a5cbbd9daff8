//! A certificate authority for tests; it signs what a real one would refuse to.

use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType, SignatureAlgorithm,
};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

/// A root with its key.
pub(crate) struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    /// The root certificate.
    pub(crate) root_pem: String,
}

/// A certificate with its key.
pub(crate) struct Issued {
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
}

/// What to put in a certificate; the fields are open so that tests can spoil them.
pub(crate) struct Leaf {
    pub(crate) uris: Vec<String>,
    /// The DER of a subject alternative name extension, in the place of one with `uris`.
    pub(crate) raw_names: Option<Vec<u8>>,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Leaf {
    /// A good certificate of `uri`, valid for an hour.
    pub(crate) fn of(uri: &str) -> Self {
        let now = SystemTime::now();
        Self {
            uris: vec![uri.to_owned()],
            raw_names: None,
            usages: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            not_before: now - Duration::from_secs(60),
            not_after: now + Duration::from_secs(3600),
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = self
            .uris
            .iter()
            .map(|uri| SanType::URI(Ia5String::try_from(uri.as_str()).expect("ASCII")))
            .collect();
        if let Some(der) = &self.raw_names {
            params.subject_alt_names.clear();
            let names = CustomExtension::from_oid_content(&[2, 5, 29, 17], der.clone());
            params.custom_extensions.push(names);
        }
        params.extended_key_usages = self.usages.clone();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params
    }
}

/// The public key of a request.
struct RequestedKey(Vec<u8>);

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl TestCa {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "test root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let root_pem = params.self_signed(&key).expect("a root").pem();
        Self {
            issuer: Issuer::new(params, key),
            root_pem,
        }
    }

    /// Certifies a new key.
    pub(crate) fn issue(&self, leaf: &Leaf) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let certificate = leaf
            .params()
            .signed_by(&key, &self.issuer)
            .expect("a certificate");
        Issued {
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// Certifies the key of a request; what else the request asks for is ignored.
    pub(crate) fn sign(&self, csr_pem: &str, leaf: &Leaf) -> String {
        let (_, pem) = parse_x509_pem(csr_pem.as_bytes()).expect("a PEM text");
        let (_, request) =
            X509CertificationRequest::from_der(&pem.contents).expect("a signing request");
        let point = request.certification_request_info.subject_pki;
        let key = RequestedKey(point.subject_public_key.as_ref().to_vec());
        leaf.params()
            .signed_by(&key, &self.issuer)
            .expect("a certificate")
            .pem()
    }
}
