//! Handshakes in memory: who gets in, who does not, and what a resumed session is worth.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};

use super::test_ca::{Leaf, TestCa};
use super::*;

const CART: &str = "spiffe://tulle.local/ns/shop/sa/cart";
const WEB: &str = "spiffe://tulle.local/ns/shop/sa/web";
const ALPN: &[&[u8]] = &[b"h2"];

fn id(uri: &str) -> SpiffeId {
    SpiffeId::parse(uri).unwrap()
}

fn identity(ca: &TestCa, leaf: &Leaf) -> Identity {
    let issued = ca.issue(leaf);
    Identity::from_pem(&issued.chain_pem, &issued.key_pem, &[&ca.root_pem]).unwrap()
}

fn server(ca: &TestCa, leaf: &Leaf) -> Arc<ServerConfig> {
    server_config(&identity(ca, leaf), ClientAuth::Required, ALPN).unwrap()
}

fn client(ca: &TestCa, leaf: &Leaf, expected: &str) -> Arc<ClientConfig> {
    let identity = identity(ca, leaf);
    client_config(Some(&identity), identity.roots(), &id(expected), ALPN).unwrap()
}

fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), String> {
    handshake_at(15008, client, server)
}

/// Moves bytes until neither side has more to say; the first refusal ends it.
fn handshake_at(
    port: u16,
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), String> {
    let name = session_name((Ipv4Addr::LOCALHOST, port).into());
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        feed(&wire, |bytes| server.read_tls(bytes));
        server
            .process_new_packets()
            .map_err(|error| format!("server: {error}"))?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        feed(&wire, |bytes| client.read_tls(bytes));
        client
            .process_new_packets()
            .map_err(|error| format!("client: {error}"))?;
    }
    Ok((client, server))
}

fn feed(mut wire: &[u8], mut read: impl FnMut(&mut &[u8]) -> std::io::Result<usize>) {
    while !wire.is_empty() {
        read(&mut wire).unwrap();
    }
}

fn refused(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, part: &str) {
    let error = handshake(client, server).expect_err("a refusal");
    assert!(error.contains(part), "{error:?} does not say {part:?}");
}

#[test]
fn both_sides_learn_who_the_other_is() {
    let ca = TestCa::new();

    let (mut client, mut server) = handshake(
        &client(&ca, &Leaf::of(WEB), CART),
        &server(&ca, &Leaf::of(CART)),
    )
    .unwrap();

    let now = SystemTime::now();
    assert_eq!(id(CART), verified_peer(&client, now).unwrap().id);
    assert_eq!(id(WEB), verified_peer(&server, now).unwrap().id);
    assert_eq!(Some(&b"h2"[..]), client.alpn_protocol());
    client.writer().write_all(b"hello").unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    server.read_tls(&mut &wire[..]).unwrap();
    server.process_new_packets().unwrap();
    let mut text = [0; 5];
    server.reader().read_exact(&mut text).unwrap();
    assert_eq!(b"hello", &text);
}

#[test]
fn another_authority_convinces_neither_side() {
    let (ours, theirs) = (TestCa::new(), TestCa::new());
    let stranger = theirs.issue(&Leaf::of(WEB));
    let stranger =
        Identity::from_pem(&stranger.chain_pem, &stranger.key_pem, &[&ours.root_pem]).unwrap();
    let bold = client_config(Some(&stranger), stranger.roots(), &id(CART), ALPN).unwrap();

    refused(
        &client(&theirs, &Leaf::of(WEB), CART),
        &server(&ours, &Leaf::of(CART)),
        "client: invalid peer certificate: ",
    );
    refused(
        &bold,
        &server(&ours, &Leaf::of(CART)),
        "server: invalid peer certificate: ",
    );
}

#[test]
fn a_valid_workload_that_was_not_asked_for_is_refused() {
    let ca = TestCa::new();

    refused(
        &client(&ca, &Leaf::of(WEB), CART),
        &server(&ca, &Leaf::of(WEB)),
        &format!("peer is {WEB}, expected {CART}"),
    );
}

#[test]
fn a_client_of_another_trust_domain_is_refused() {
    let ca = TestCa::new();

    refused(
        &client(&ca, &Leaf::of("spiffe://other/ns/shop/sa/web"), CART),
        &server(&ca, &Leaf::of(CART)),
        "expected trust domain tulle.local",
    );
}

#[test]
fn a_certificate_must_have_exactly_one_uri_name() {
    let ca = TestCa::new();
    let good = server(&ca, &Leaf::of(CART));
    for uris in [vec![], vec![WEB.to_owned(), CART.to_owned()]] {
        let spoiled = ca.issue(&Leaf {
            uris: uris.clone(),
            ..Leaf::of(WEB)
        });
        let loaded = Identity::from_pem(&spoiled.chain_pem, &spoiled.key_pem, &[&ca.root_pem]);
        assert_eq!(Some(TlsError::UriNames(uris.len())), loaded.err());

        // Our own loader refuses it, so the client is built the way an attacker's would be.
        let config = careless_client(&spoiled.chain_pem, &spoiled.key_pem);
        let expected = format!("certificate has {} URI names", uris.len());
        refused(&config, &good, &expected);
    }
}

#[test]
fn a_name_that_is_not_text_cannot_hide_a_second_identity() {
    let ca = TestCa::new();
    let good = server(&ca, &Leaf::of(CART));
    let nul = format!("{WEB}\0.evil");
    for (names, why) in [
        (vec![WEB.as_bytes(), b"spiffe://\xff"], "has 2 URI names"),
        (vec![b"\xff"], "URI name is not text"),
        (vec![nul.as_bytes()], "SPIFFE id"),
    ] {
        let mut der = Vec::new();
        for name in names {
            der.extend([0x86, u8::try_from(name.len()).unwrap()]);
            der.extend(name);
        }
        let length = u8::try_from(der.len()).unwrap();
        der.splice(0..0, [0x30, length]);
        let spoiled = ca.issue(&Leaf {
            raw_names: Some(der),
            ..Leaf::of(WEB)
        });

        let config = careless_client(&spoiled.chain_pem, &spoiled.key_pem);

        refused(&config, &good, why);
    }
}

#[test]
fn an_expired_or_future_certificate_is_refused() {
    let ca = TestCa::new();
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let expired = Leaf {
        not_before: now - hour * 2,
        not_after: now - hour,
        ..Leaf::of(WEB)
    };
    let future = Leaf {
        not_before: now + hour,
        not_after: now + hour * 2,
        ..Leaf::of(WEB)
    };
    let good = server(&ca, &Leaf::of(CART));

    refused(&client(&ca, &expired, CART), &good, "certificate expired");
    refused(
        &client(&ca, &future, CART),
        &good,
        "certificate not valid yet",
    );
}

#[test]
fn a_certificate_for_the_other_role_is_refused() {
    let ca = TestCa::new();
    let only = |uri, usage| Leaf {
        usages: vec![usage],
        ..Leaf::of(uri)
    };
    let (server_only, client_only) = (
        only(WEB, ExtendedKeyUsagePurpose::ServerAuth),
        only(CART, ExtendedKeyUsagePurpose::ClientAuth),
    );

    refused(
        &client(&ca, &server_only, CART),
        &server(&ca, &Leaf::of(CART)),
        "server: invalid peer certificate",
    );
    refused(
        &client(&ca, &Leaf::of(WEB), CART),
        &server(&ca, &client_only),
        "client: invalid peer certificate",
    );
}

#[test]
fn a_client_without_certificate_gets_in_only_where_that_is_optional() {
    let ca = TestCa::new();
    let own = identity(&ca, &Leaf::of(CART));
    let anonymous = client_config(None, own.roots(), &id(CART), ALPN).unwrap();
    let optional = server_config(&own, ClientAuth::Optional, ALPN).unwrap();
    let required = server_config(&own, ClientAuth::Required, ALPN).unwrap();

    let (_, joined) = handshake(&anonymous, &optional).unwrap();

    assert_eq!(
        Err(TlsError::NoCertificate),
        verified_peer(&joined, SystemTime::now())
    );
    refused(&anonymous, &required, "peer sent no certificates");
}

#[test]
fn a_chain_above_the_limit_is_refused() {
    let ca = TestCa::new();
    let issued = ca.issue(&Leaf::of(WEB));
    let good = server(&ca, &Leaf::of(CART));
    let chain = |copies| issued.chain_pem.repeat(copies);

    assert!(handshake(&careless_client(&chain(4), &issued.key_pem), &good).is_ok());
    refused(
        &careless_client(&chain(5), &issued.key_pem),
        &good,
        "certificate chain too large",
    );
}

#[test]
fn a_chain_has_so_many_bytes() {
    let ca = TestCa::new();
    let issued = ca.issue(&Leaf::of(WEB));
    let own = CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap();
    let good = server(&ca, &Leaf::of(CART));
    // Zeros in base64.
    let filler = |bytes: usize| {
        let zeros = "AAAA".repeat(bytes / 3) + ["", "AA==", "AAA="][bytes % 3];
        format!("-----BEGIN CERTIFICATE-----\n{zeros}\n-----END CERTIFICATE-----\n")
    };
    let chain = |bytes: usize| issued.chain_pem.clone() + &filler(bytes - own.len());

    let fits = careless_client(&chain(verify::MAX_CHAIN_BYTES), &issued.key_pem);
    assert!(handshake(&fits, &good).is_ok());
    refused(
        &careless_client(&chain(verify::MAX_CHAIN_BYTES + 1), &issued.key_pem),
        &good,
        "certificate chain too large",
    );
}

#[test]
fn a_trust_domain_has_so_many_roots() {
    let root = TestCa::new().root_pem;
    assert!(Roots::from_pem(&[root.repeat(identity::MAX_ROOTS)]).is_ok());
    let error = Roots::from_pem(&[root.repeat(identity::MAX_ROOTS + 1)]).unwrap_err();
    assert!(error.to_string().contains("17 certificates"), "{error}");
}

#[test]
fn a_second_connection_resumes_and_still_knows_its_peer() {
    let ca = TestCa::new();
    let client = client(&ca, &Leaf::of(WEB), CART);
    let server = server(&ca, &Leaf::of(CART));

    let (first, _) = handshake(&client, &server).unwrap();
    let (second, accepted) = handshake(&client, &server).unwrap();

    let now = SystemTime::now();
    assert_eq!(Some(HandshakeKind::Full), first.handshake_kind());
    assert_eq!(Some(HandshakeKind::Resumed), second.handshake_kind());
    assert_eq!(id(CART), verified_peer(&second, now).unwrap().id);
    assert_eq!(id(WEB), verified_peer(&accepted, now).unwrap().id);
}

#[test]
fn so_many_servers_are_known_again_and_the_oldest_is_not() {
    let ca = TestCa::new();
    let client = client(&ca, &Leaf::of(WEB), CART);
    let server = server(&ca, &Leaf::of(CART));
    let kind = |port| {
        let (connected, _) = handshake_at(port, &client, &server).unwrap();
        connected.handshake_kind()
    };
    let most = u16::try_from(session::MAX_TICKETS).unwrap();
    for port in 1..=most + 1 {
        assert_eq!(Some(HandshakeKind::Full), kind(port));
    }
    for port in 2..=most + 1 {
        assert_eq!(Some(HandshakeKind::Resumed), kind(port), "{port}");
    }
    assert_eq!(Some(HandshakeKind::Full), kind(1));
}

#[test]
fn a_resumed_session_does_not_outlive_the_certificate() {
    let ca = TestCa::new();
    let client = client(&ca, &Leaf::of(WEB), CART);
    let server = server(&ca, &Leaf::of(CART));
    handshake(&client, &server).unwrap();

    let (_, accepted) = handshake(&client, &server).unwrap();

    let later = SystemTime::now() + Duration::from_secs(3601);
    assert_eq!(Some(HandshakeKind::Resumed), accepted.handshake_kind());
    assert_eq!(
        Err(TlsError::Expired(id(WEB))),
        verified_peer(&accepted, later)
    );
}

#[test]
fn a_new_identity_ends_resumption() {
    let ca = TestCa::new();
    let client = client(&ca, &Leaf::of(WEB), CART);
    handshake(&client, &server(&ca, &Leaf::of(CART))).unwrap();

    let (renewed, _) = handshake(&client, &server(&ca, &Leaf::of(CART))).unwrap();

    assert_eq!(Some(HandshakeKind::Full), renewed.handshake_kind());
}

#[test]
fn plaintext_and_tls_1_2_are_answered_with_an_error() {
    let ca = TestCa::new();
    let config = server(&ca, &Leaf::of(CART));
    for (hello, part) in [
        (
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
            "InvalidContentType",
        ),
        (tls_1_2_hello(), "incompatible"),
    ] {
        let mut server = ServerConnection::new(config.clone()).unwrap();
        server.read_tls(&mut &hello[..]).unwrap();

        let error = server.process_new_packets().unwrap_err().to_string();

        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn an_identity_must_be_whole() {
    let ca = TestCa::new();
    let (one, other) = (ca.issue(&Leaf::of(CART)), ca.issue(&Leaf::of(CART)));
    let root = [&ca.root_pem];
    let none: [&str; 0] = [];

    assert_eq!(
        Some(TlsError::KeyMismatch),
        Identity::from_pem(&one.chain_pem, &other.key_pem, &root).err()
    );
    for (chain, key, what) in [
        ("", one.key_pem.as_str(), "certificate chain"),
        (&one.chain_pem, "", "private key"),
        (&one.chain_pem, &one.chain_pem, "private key"),
    ] {
        let error = Identity::from_pem(chain, key, &root)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(what), "{error}");
    }
    let rootless = Identity::from_pem(&one.chain_pem, &one.key_pem, &none);
    assert!(rootless.unwrap_err().to_string().starts_with("roots: 0"));
}

/// A client that sends any chain and believes any server.
fn careless_client(chain: &str, key: &str) -> Arc<ClientConfig> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Careless))
        .with_client_auth_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

#[derive(Debug)]
struct Careless;

impl rustls::client::danger::ServerCertVerifier for Careless {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A TLS 1.2 client hello: one suite, P-256, ECDSA, no `supported_versions`.
fn tls_1_2_hello() -> Vec<u8> {
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 23, // supported_groups: secp256r1
        0, 11, 0, 2, 1, 0, // ec_point_formats: uncompressed
        0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms: ecdsa_secp256r1_sha256
    ];
    let mut body = vec![3, 3];
    body.extend([7; 32]); // random
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]); // no session, one suite, no compression
    body.extend([0, u8::try_from(extensions.len()).unwrap()]);
    body.extend(extensions);
    let length = u8::try_from(body.len()).unwrap();
    let mut hello = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    hello.extend(body);
    hello
}
