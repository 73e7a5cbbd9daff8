//! TLS that nobody opens on the way, routed by its server name.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream,
};
use serde_json::{Value, json};
use tulle_engine::engine::Engine;

use crate::mesh::{
    Pair, address, apply, connect, counted, endpoints, eventually, is_closed, is_reset, program,
    service,
};

/// Speak TLS on each connection and say `name`; whom clients have to trust.
fn serve(name: &'static str, accepted: Receiver<TcpStream>) -> RootCertStore {
    let names = vec!["pay.shop.example".to_owned(), "any.shop.example".to_owned()];
    let issued = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).expect("a key");
    let certificate = issued.cert.der().clone();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("a config");
    let config = Arc::new(config);
    thread::spawn(move || {
        for mut tcp in accepted {
            let mut tls = ServerConnection::new(Arc::clone(&config)).expect("a server");
            // A client that leaves early is no concern of this server.
            let _left = Stream::new(&mut tls, &mut tcp).write_all(name.as_bytes());
        }
    });
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a root");
    roots
}

fn client(roots: RootCertStore, name: &'static str) -> ClientConnection {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name).expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client")
}

/// What the server says to a client that asks for `name`.
fn ask(mut tcp: TcpStream, roots: &RootCertStore, name: &'static str) -> String {
    let mut tls = client(roots.clone(), name);
    let mut said = [0; 4];
    Stream::new(&mut tls, &mut tcp)
        .read_exact(&mut said)
        .expect("an answer");
    String::from_utf8_lossy(&said).into_owned()
}

/// A caller of `shop/cart`, which has a TLSRoute.
struct Routed {
    web: Engine,
    /// Behind its sidecar.
    _cart: Engine,
    /// Of the server for `pay.shop.example`, which has no sidecar.
    pay: RootCertStore,
    /// Of the server for the rest of `*.shop.example`.
    any: RootCertStore,
}

fn routed() -> Routed {
    let Pair {
        web,
        cart,
        accepted,
        ..
    } = Pair::new();
    let rule = |name: &str, service: &str| {
        json!({"route": "shop/names", "rule": name, "source": null, "filters": [],
               "timeouts": {"request_ms": null, "backend_request_ms": null}, "retry": null,
               "backends": [{"service": service, "port": 80, "weight": 1, "labels": {},
                             "filters": [], "error": null}]})
    };
    let entry = |name: &str, rule: usize| {
        json!({"match": {"path": null, "method": null, "headers": [], "query": [],
                         "server_name": name}, "rule": rule})
    };
    let mut front = service("tcp", |_| {});
    front["ports"][0]["tables"] = json!([
        {"consumer_namespace": null, "kind": "tls",
         "entries": [entry("pay.shop.example", 0), entry("*.shop.example", 1)],
         "rules": [rule("pay", "shop/pay"), rule("any", "shop/cart")]}]);
    apply(&web, &front);
    let (at, at_pay) = program();
    for mut record in [service("tcp", |_| {}), endpoints(at, None)] {
        record["name"] = json!("pay");
        apply(&web, &record);
    }
    Routed {
        web,
        _cart: cart,
        pay: serve("pay!", at_pay),
        any: serve("any!", accepted),
    }
}

impl Routed {
    fn connect(&self) -> TcpStream {
        connect(address(&self.web, "/outbound/0/listen"))
    }
}

#[test]
fn the_server_name_decides_where_the_bytes_go() {
    let mesh = routed();
    assert_eq!(ask(mesh.connect(), &mesh.pay, "pay.shop.example"), "pay!");
    assert_eq!(ask(mesh.connect(), &mesh.any, "any.shop.example"), "any!");
}

#[test]
fn the_name_is_found_through_the_proxy_too_and_in_a_hello_that_comes_in_pieces() {
    let mesh = routed();
    let mut tunnel = connect(address(&mesh.web, "/proxy"));
    tunnel
        .write_all(b"CONNECT cart:80 HTTP/1.1\r\nhost: cart:80\r\n\r\n")
        .expect("it is sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tunnel.read_exact(&mut byte).expect("a head");
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 200"));
    assert_eq!(ask(tunnel, &mesh.pay, "pay.shop.example"), "pay!");

    let mut slow = mesh.connect();
    slow.set_nodelay(true).expect("a socket");
    let mut hello = Vec::new();
    let mut tls = client(mesh.any.clone(), "any.shop.example");
    tls.write_tls(&mut hello).expect("a hello");
    for piece in hello.chunks(40) {
        slow.write_all(piece).expect("it is sent");
        thread::yield_now();
    }
    let mut said = [0; 4];
    Stream::new(&mut tls, &mut slow)
        .read_exact(&mut said)
        .expect("an answer");
    assert_eq!(&said, b"any!");
}

#[test]
fn a_name_that_no_route_is_for_is_refused_with_an_alert_and_no_tls_by_closing() {
    let mesh = routed();
    let mut tls = client(mesh.pay.clone(), "other.example");
    let mut tcp = mesh.connect();
    let refused = Stream::new(&mut tls, &mut tcp).read(&mut [0; 1]);
    let refused = refused.expect_err("nobody has this name").to_string();
    assert!(refused.contains("UnrecognisedName"), "{refused}");
    let mut tcp = mesh.connect();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n")
        .expect("it is sent");
    assert!(is_closed(&mut tcp) || is_reset(&mut tcp));
    eventually("both are counted", || {
        let count = |reason| counted(&mesh.web, Some(reason)).0;
        (count("no-route"), count("bad-request")) == (1, 1)
    });
}

#[test]
fn a_described_request_is_decided_by_the_name_in_its_host() {
    let mesh = routed();
    let decided = |headers: Value| {
        let asked = json!({"direction": "outbound", "service": "shop/cart", "port": 80,
                           "method": "GET", "path": "/", "headers": headers, "principal": null});
        let answer = mesh.web.resolve(asked.to_string().as_bytes());
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        let steps = answer["steps"].as_array().expect("steps");
        let route = steps.iter().find(|step| step["step"] == "route");
        let route = route.map_or("none", |step| step["decision"].as_str().expect("text"));
        let outcome = answer["outcome"].as_str().expect("text");
        format!("{route} {outcome} {}", answer["reason"])
    };
    let named = |name: &str| decided(json!([["host", name]]));
    assert_eq!(named("pay.shop.example"), "shop/names/pay forward null");
    assert_eq!(named("any.shop.example:443"), "shop/names/any forward null");
    assert!(named("other.example").contains("no route is for"));
    assert!(decided(json!([])).contains("header host"));
}
