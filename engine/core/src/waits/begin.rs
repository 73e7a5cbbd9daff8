//! What has to come before a connection is served.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{
    CART, GET, MOMENT, Mesh, OK, WEB, ends_at, head, identity, lasting, lasts_until, pair, send,
    settle, within,
};
use crate::accept::SERVER_FIRST_TIME;
use crate::detect::{LOOK_TIME, SILENCE_TIME};
use crate::error::Reason;
use crate::join::{End, Side};
use crate::listen::{self, HANDSHAKE_TIME};
use crate::proxy_protocol::{HEADER_TIME, SIGNATURE};
use crate::record::Protocol;
use crate::tcp;
use crate::timer::TICK;
use crate::timer::tests::{on_local, pass};
use crate::tls::test_ca::{Leaf, TestCa};
use crate::tls::{Identity, SpiffeId, client_config, session_name};

/// The beginning of a TLS handshake.
const HALF_HELLO: &str = "\x16\x03\x01\x02";

#[test]
fn a_handshake_may_take_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        for (mtls, begun) in [
            ("strict", ""),
            ("strict", HALF_HELLO),
            ("permissive", ""),
            ("permissive", HALF_HELLO),
        ] {
            mesh.let_in(mtls);
            let (mut caller, served) = mesh.caller(mesh.app(Protocol::Http, true)).await;
            send(&mut caller, begun).await;
            ends_at(HANDSHAKE_TIME, served).await;
        }
        assert!(mesh.called().await.is_none());
    });
}

#[test]
fn what_is_agreed_on_in_a_handshake_may_take_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let ca = TestCa::new();
        mesh.let_in("strict");
        let own = identity(&ca, &Leaf::of(WEB));
        mesh.identify(own);
        let (caller, served) = mesh.caller(mesh.app(Protocol::Tcp, true)).await;
        let cart = identity(&ca, &Leaf::of(CART));
        let _silent = shake(&cart, caller, b"h2").await;
        ends_at(HANDSHAKE_TIME, served).await;
    });
}

#[test]
fn a_client_may_take_so_long_to_name_a_server() {
    on_local(async {
        let _mesh = Mesh::start(|_| {}).await;
        let (mut client, served) = pair().await;
        let named = spawn_local(async move {
            let mut client = End::from(Side::Tcp(served));
            let named = tcp::server_name(&mut client).await;
            assert_eq!(named.expect_err("none came").reason, Reason::BadRequest);
        });
        send(&mut client, HALF_HELLO).await;
        ends_at(HANDSHAKE_TIME, named).await;
    });
}

#[test]
fn a_proxy_protocol_header_may_take_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        mesh.let_in("disable");
        let mut app = mesh.app(Protocol::Tcp, true);
        app.proxy_protocol = true;
        for begun in [&b""[..], &SIGNATURE] {
            let (mut caller, served) = mesh.caller(app).await;
            send(&mut caller, std::str::from_utf8(begun).expect("text")).await;
            ends_at(HEADER_TIME, served).await;
        }
        assert!(mesh.called().await.is_none());
    });
}

#[test]
fn a_server_begins_when_its_client_was_silent_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        mesh.let_in("permissive");
        let (mut caller, served) = mesh.caller(mesh.app(Protocol::Tcp, true)).await;
        lasts_until(SERVER_FIRST_TIME, &served).await;
        let mut program = within(mesh.program.accept()).await.expect("a call").0;
        send(&mut program, "220 ready").await;
        assert_eq!(within(caller.read_u8()).await.expect("a byte"), b'2');
    });
}

#[test]
fn where_plaintext_is_let_in_it_waits_no_longer_than_until_then() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        mesh.let_in("permissive");
        let (_caller, _served) = mesh.caller(mesh.app(Protocol::Tcp, true)).await;
        settle().await;
        pass(SERVER_FIRST_TIME - MOMENT).await;
        assert!(mesh.called().await.is_none());
    });
}

#[test]
fn on_a_port_that_nobody_declared_a_client_may_be_silent_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        mesh.let_in("disable");
        let (_caller, _served) = mesh.caller(mesh.app(Protocol::Http, false)).await;
        settle().await;
        pass(SILENCE_TIME - MOMENT).await;
        assert!(mesh.called().await.is_none());
        pass(MOMENT).await;
        within(mesh.program.accept()).await.expect("a call");
    });
}

#[test]
fn one_that_has_begun_may_take_so_long_to_show_what_it_speaks() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        mesh.let_in("disable");
        let (begun, rest) = GET.split_at(8);
        // It goes on before the time is over, and is served as what it speaks.
        let (mut caller, _served) = mesh.caller(mesh.app(Protocol::Http, false)).await;
        send(&mut caller, begun).await;
        settle().await;
        pass(LOOK_TIME - TICK).await;
        send(&mut caller, rest).await;
        pass(TICK - MOMENT).await;
        let mut program = mesh.asked().await;
        send(&mut program, OK).await;
        assert!(head(&mut caller).await.starts_with("HTTP/1.1 200"));
        settle().await;
        assert!(mesh.has_recorded("http"));
        // Or it does not, and is carried as it is.
        let (mut caller, _served) = mesh.caller(mesh.app(Protocol::Http, false)).await;
        send(&mut caller, begun).await;
        settle().await;
        pass(LOOK_TIME - MOMENT).await;
        assert!(mesh.called().await.is_none());
        pass(MOMENT).await;
        let mut program = within(mesh.program.accept()).await.expect("a call").0;
        assert_eq!(within(program.read_u8()).await.expect("a byte"), b'G');
    });
}

#[test]
fn towards_a_port_that_nobody_declared_it_is_the_same() {
    on_local(async {
        let mesh = Mesh::start(|service| service["ports"][0]["protocol"] = "auto".into()).await;
        let service = mesh.worker.shared.directory.get("shop/cart");
        let service = service.expect("a service");
        let (mut client, served) = pair().await;
        let worker = Rc::clone(&mesh.worker);
        let _task = spawn_local(async move {
            listen::serve_service(&worker, (service, 80), served).await;
        });
        settle().await;
        pass(SILENCE_TIME - MOMENT).await;
        assert!(mesh.called().await.is_none());
        pass(MOMENT).await;
        let mut program = within(mesh.program.accept()).await.expect("a call").0;
        send(&mut program, "220 ready").await;
        assert_eq!(within(client.read_u8()).await.expect("a byte"), b'2');
    });
}

#[test]
fn a_connection_takes_no_request_after_its_callers_certificate() {
    const LEFT: Duration = Duration::from_secs(30);
    /// What the handshake took, and a second that certificates do not tell.
    const BEFORE: Duration = Duration::from_secs(5);
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        mesh.let_in("strict");
        for (protocol, alpn) in [
            (Protocol::Http, &b"http/1.1"[..]),
            (Protocol::Http, b"h2"),
            (Protocol::Http2, b"h2"),
            (Protocol::Tcp, b"h2"),
        ] {
            let ca = TestCa::new();
            mesh.identify(identity(&ca, &Leaf::of(WEB)));
            let (caller, served) = mesh.caller(mesh.app(protocol, true)).await;
            let cart = identity(&ca, &lasting(CART, LEFT.as_secs()));
            let caller = shake(&cart, caller, alpn).await;
            // Told to leave, a client of HTTP/2 does.
            let (mut http1, mut http2) = (None, None::<h2::client::SendRequest<Bytes>>);
            if alpn == b"h2" {
                let (sender, connection) = h2::client::handshake(caller).await.expect("HTTP/2");
                http2 = Some(sender);
                spawn_local(async move { connection.await.expect("a goodbye") });
            } else {
                http1 = Some(caller);
            }
            settle().await;
            pass(LEFT - BEFORE).await;
            assert!(!served.is_finished(), "{protocol:?}");
            pass(BEFORE).await;
            within(served).await.expect("no panic");
            drop((http1, http2));
        }
    });
}

/// A connection to the sidecar as `identity`.
async fn shake(identity: &Identity, caller: TcpStream, alpn: &[u8]) -> TlsStream<TcpStream> {
    let web = SpiffeId::parse(WEB).expect("an id");
    let config = client_config(Some(identity), identity.roots(), &web, &[alpn]);
    let name = session_name(caller.peer_addr().expect("an address"));
    let shake = TlsConnector::from(config.expect("a config")).connect(name, caller);
    within(shake).await.expect("a handshake")
}
