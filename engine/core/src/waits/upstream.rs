//! What endpoints are waited for, and how long connections to them are kept.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::{Method, Response};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};
use tokio_rustls::TlsAcceptor;

use super::server::{Asked, Server};
use super::{
    CART, Deaf, GET, LARGE, MOMENT, Mesh, OK, WEB, ends_at, fill, head, identity, lasting,
    lasts_until, pair, send, settle, within,
};
use crate::error::{Error, Reason};
use crate::fields::Fields;
use crate::head::RequestHead;
use crate::http2::keepalive::PING_TIMEOUT;
use crate::inbound::APP_CONNECT_TIMEOUT;
use crate::intercept::{self, OUTSIDE_CONNECT_TIME};
use crate::record::Protocol;
use crate::timer::tests::{on_local, pass};
use crate::tls::test_ca::TestCa;
use crate::tls::{ClientAuth, SpiffeId, server_config};
use crate::upstream::Target;
use crate::upstream::connect::{Alpn, connect};
use crate::upstream::http2::{self, OnStream, PING_INTERVAL, SETTINGS_TIME};
use crate::upstream::pool::IDLE_TIME;
use crate::worker::Worker;

const CONNECT_TIME: Duration = Duration::from_secs(3);
/// The service's own limit; shorter than the time between pings.
const REQUEST_TIME: Duration = Duration::from_secs(15);
/// A connection under a certificate of 100 s takes no request after 80 s, less what the handshake
/// took and a second that certificates do not tell.
pub(super) const EXPIRES_IN: Duration = Duration::from_secs(80);
pub(super) const STILL_VALID: Duration = Duration::from_secs(75);

/// An endpoint at `at` that speaks HTTP/2.
pub(crate) fn target(at: SocketAddr, identity: Option<SpiffeId>) -> Target {
    Target {
        id: 1,
        address: at,
        identity,
        http2: true,
        connect_timeout: CONNECT_TIME,
        limits: None,
        source: None,
        files_end: i32::MAX,
    }
}

/// A request that is beginning at `to`; `switch`: to another protocol.
fn begin(
    worker: &Rc<Worker>,
    to: &Target,
    switch: Option<&'static [u8]>,
) -> JoinHandle<Result<OnStream, Error>> {
    let (worker, to) = (Rc::clone(worker), to.clone());
    let head = RequestHead::described(Method::GET, "/", Fields::of(&[("host", "cart")]));
    spawn_local(async move { http2::begin(&worker, &to, &head, switch).await })
}

/// A request that is open at `server`, and on which connection.
async fn ask(mesh: &Mesh, server: &mut Server, to: &Target) -> (Open, usize) {
    let began = begin(&mesh.worker, to, None);
    let asked = server.next().await;
    let near = within(began).await.expect("no panic").expect("a stream");
    let number = asked.number;
    (Open { near, far: asked }, number)
}

/// Both ends of a request.
struct Open {
    near: OnStream,
    far: Asked,
}

impl Open {
    /// Answer it.
    async fn end(mut self) {
        let sent = self.far.respond.send_response(Response::new(()), true);
        sent.expect("it is sent");
        let head = within(std::future::poll_fn(|cx| self.near.poll_head(cx))).await;
        assert_eq!(head.expect("an answer").status, 200);
        drop(self);
        settle().await;
    }
}

#[test]
fn to_connect_may_take_so_long_with_the_handshake() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        mesh.let_in("strict");
        let deaf = Deaf::listen();
        // It takes the connection, and says nothing.
        let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mute_at = mute.local_addr().expect("an address");
        for (at, identity) in [(deaf.at, None), (mute_at, SpiffeId::parse(CART).ok())] {
            let (worker, to) = (Rc::clone(&mesh.worker), target(at, identity));
            let connecting = spawn_local(async move {
                let error = connect(&worker, &to, Alpn::Http1)
                    .await
                    .expect_err("nobody");
                assert_eq!(error.reason, Reason::ConnectFailed);
            });
            ends_at(CONNECT_TIME, connecting).await;
        }
    });
}

#[test]
fn to_connect_to_the_own_application_may_take_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        mesh.let_in("disable");
        let deaf = Deaf::listen();
        let mut app = mesh.app(Protocol::Http, true);
        app.address = deaf.at;
        let (mut caller, served) = mesh.caller(app).await;
        send(&mut caller, GET).await;
        settle().await;
        pass(APP_CONNECT_TIMEOUT - MOMENT).await;
        assert!(!mesh.has_recorded("app-unreachable"));
        pass(MOMENT).await;
        let answer = head(&mut caller).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("app-unreachable"), "{answer}");
        drop((caller, served));
        app.protocol = Protocol::Tcp;
        let (_caller, served) = mesh.caller(app).await;
        ends_at(APP_CONNECT_TIMEOUT, served).await;
    });
}

#[test]
fn to_connect_to_what_is_not_of_the_mesh_may_take_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let deaf = Deaf::listen();
        let (_client, served) = pair().await;
        let (worker, at) = (Rc::clone(&mesh.worker), deaf.at);
        let outside = async move { intercept::outside(&worker, at, served).await };
        ends_at(OUTSIDE_CONNECT_TIME, spawn_local(outside)).await;
        assert!(mesh.has_recorded("connect-failed"));
    });
}

#[test]
fn the_first_stream_waits_for_settings_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let to = target(mute.local_addr().expect("an address"), None);
        let began = begin(&mesh.worker, &to, None);
        let _held = within(mute.accept()).await.expect("a connection");
        settle().await;
        pass(SETTINGS_TIME - MOMENT).await;
        assert!(!began.is_finished());
        pass(MOMENT).await;
        within(began).await.expect("no panic").expect("a stream");
    });
}

/// Settings that let clients begin streams with an extended CONNECT (RFC 8441 §3).
const SWITCHES: [u8; 15] = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1];
/// Settings that say nothing of it.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A switch that is asked of an endpoint whose first settings do not tell whether it takes any.
async fn undecided() -> (Mesh, Target, TcpStream, JoinHandle<Result<OnStream, Error>>) {
    let mesh = Mesh::start(|_| {}).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let to = target(listener.local_addr().expect("an address"), None);
    let began = begin(&mesh.worker, &to, Some(b"websocket"));
    let mut peer = within(listener.accept()).await.expect("a connection").0;
    peer.write_all(&SETTINGS).await.expect("it is sent");
    settle().await;
    (mesh, to, peer, began)
}

#[test]
fn a_peer_may_take_so_long_to_say_that_it_switches() {
    on_local(async {
        let (_mesh, _to, _peer, began) = undecided().await;
        pass(CONNECT_TIME - MOMENT).await;
        assert!(!began.is_finished());
        pass(MOMENT).await;
        let began = within(began).await.expect("no panic");
        assert_eq!(began.expect_err("it does not").reason, Reason::BadRequest);
    });
}

#[test]
fn a_peer_may_say_in_later_settings_that_it_switches() {
    on_local(async {
        let (mesh, to, mut peer, began) = undecided().await;
        assert!(!began.is_finished());
        peer.write_all(&SWITCHES).await.expect("it is sent");
        within(began).await.expect("no panic").expect("a stream");
        // A further one does not wait at all, however old the connection.
        pass(CONNECT_TIME).await;
        let again = begin(&mesh.worker, &to, Some(b"websocket"));
        within(again).await.expect("no panic").expect("a stream");
    });
}

#[test]
fn a_peer_that_leaves_while_it_is_waited_for_ends_the_wait() {
    on_local(async {
        let (_mesh, _to, peer, began) = undecided().await;
        assert!(!began.is_finished());
        drop(peer);
        let began = within(began).await.expect("no panic");
        assert_ne!(began.expect_err("it left").reason, Reason::BadRequest);
    });
}

#[test]
fn an_endpoint_that_answers_no_ping_is_gone() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let mut server = Server::start(100, None).await;
        let to = target(server.at, None);
        let (mut open, _) = ask(&mesh, &mut server, &to).await;
        let lost = spawn_local(async move {
            let head = std::future::poll_fn(|cx| open.near.poll_head(cx)).await;
            assert_eq!(head.expect_err("none").reason, Reason::Reset);
        });
        // It answers the first one.
        lasts_until(PING_INTERVAL, &lost).await;
        lasts_until(PING_TIMEOUT, &lost).await;
        server.is_mute.set(true);
        lasts_until(PING_INTERVAL - PING_TIMEOUT, &lost).await;
        ends_at(PING_TIMEOUT, lost).await;
    });
}

#[test]
fn connections_without_a_stream_are_swept_after_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let mut server = Server::start(1, None).await;
        let to = target(server.at, None);
        let mut open = Vec::new();
        for place in 0..3 {
            let (asked, number) = ask(&mesh, &mut server, &to).await;
            assert_eq!(number, place);
            open.push(asked);
        }
        for asked in open {
            asked.end().await;
        }
        pass(IDLE_TIME - MOMENT).await;
        mesh.worker.http2.sweep();
        assert!(server.ended().await.is_empty());
        let (asked, number) = ask(&mesh, &mut server, &to).await;
        assert_eq!(number, 0);
        asked.end().await;
        pass(MOMENT).await;
        mesh.worker.http2.sweep();
        assert_eq!(server.ended().await, [1, 2]);
        let (first, number) = ask(&mesh, &mut server, &to).await;
        assert_eq!(number, 0);
        let (second, number) = ask(&mesh, &mut server, &to).await;
        assert_eq!(number, 3);
        second.end().await;
        // An open stream keeps its connection.
        pass(IDLE_TIME).await;
        mesh.worker.http2.sweep();
        assert_eq!(server.ended().await, [1, 2, 3]);
        first.end().await;
        pass(IDLE_TIME).await;
        mesh.worker.http2.sweep();
        assert_eq!(server.ended().await, [0, 1, 2, 3]);
    });
}

#[test]
fn connections_take_no_request_after_a_certificate_of_either_side() {
    on_local(async {
        for (own_s, peers_s, swept) in [(100, 3600, true), (3600, 100, false)] {
            let mesh = Mesh::start(|_| {}).await;
            let ca = TestCa::new();
            let own = identity(&ca, &lasting(WEB, own_s));
            mesh.identify(own);
            let peers = identity(&ca, &lasting(CART, peers_s));
            let mut server = Server::start(1, Some(&peers)).await;
            let to = target(server.at, SpiffeId::parse(CART).ok());
            let mut open = Vec::new();
            for place in 0..3 {
                let (asked, number) = ask(&mesh, &mut server, &to).await;
                assert_eq!(number, place);
                open.push(asked);
            }
            let long = open.pop().expect("an open one");
            // As long as they are in use, all are good for more.
            pass(STILL_VALID).await;
            for asked in open {
                asked.end().await;
            }
            let (asked, number) = ask(&mesh, &mut server, &to).await;
            assert_eq!(number, 0);
            asked.end().await;
            pass(EXPIRES_IN - STILL_VALID).await;
            if swept {
                mesh.worker.http2.sweep();
                assert_eq!(server.ended().await, [0, 1]);
            }
            let (first, number) = ask(&mesh, &mut server, &to).await;
            assert_eq!(number, 3);
            let (second, number) = ask(&mesh, &mut server, &to).await;
            assert_eq!(number, 4);
            // The stream that is open ends as it would have, and its connection with it.
            assert_eq!(server.ended().await, [0, 1]);
            long.end().await;
            assert_eq!(server.ended().await, [0, 1, 2]);
            first.end().await;
            second.end().await;
        }
    });
}

#[test]
fn a_connection_that_is_let_go_of_does_not_wait_for_a_peer_that_reads_nothing() {
    /// Settings and an update that make every window as large as can be.
    const WIDE: [u8; 28] = [
        0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 127, 255, 255, 255, //
        0, 0, 4, 8, 0, 0, 0, 0, 0, 127, 255, 0, 0,
    ];
    on_local(async {
        let mesh = Mesh::start(|service| service["ports"][0]["protocol"] = "http2".into()).await;
        let service = mesh.worker.shared.directory.get("shop/cart");
        let service = service.expect("a service");
        let (mut client, _served) = mesh.client().await;
        let post = format!("POST / HTTP/1.1\r\nhost: cart.shop\r\ncontent-length: {LARGE}\r\n\r\n");
        send(&mut client, &post).await;
        let mut program = within(mesh.program.accept()).await.expect("a call").0;
        program.write_all(&WIDE).await.expect("it is sent");
        fill(&mut client, &[0; 1 << 20]).await;
        pass(REQUEST_TIME).await;
        assert!(head(&mut client).await.starts_with("HTTP/1.1 504"));
        pass(IDLE_TIME).await;
        mesh.worker.http2.sweep();
        settle().await;
        assert_eq!(service.load.connections.load(Relaxed), 1);
        pass(PING_INTERVAL).await;
        pass(PING_TIMEOUT).await;
        settle().await;
        assert_eq!(service.load.connections.load(Relaxed), 0);
    });
}

#[test]
fn a_connection_of_http1_takes_no_request_after_a_certificate_of_either_side() {
    on_local(async {
        for (own_s, peers_s) in [(100, 3600), (3600, 100)] {
            let mesh = Mesh::start(|_| {}).await;
            let ca = TestCa::new();
            mesh.identify(identity(&ca, &lasting(WEB, own_s)));
            let mut record = mesh.endpoints();
            record["endpoints"][0]["identity"] = CART.into();
            record["endpoints"][0]["tls"] = true.into();
            mesh.apply(&record);
            let peers = identity(&ca, &lasting(CART, peers_s));
            let config = server_config(&peers, ClientAuth::Required, &[b"http/1.1"]);
            let tls = TlsAcceptor::from(config.expect("a config"));
            let mut held = Vec::new();
            for (passed, connections) in [
                (Duration::ZERO, 1),
                (STILL_VALID, 1),
                (EXPIRES_IN - STILL_VALID, 2),
            ] {
                pass(passed).await;
                let (mut client, _served) = mesh.client().await;
                send(&mut client, GET).await;
                if held.len() < connections {
                    let (stream, _) = within(mesh.program.accept()).await.expect("a call");
                    held.push(within(tls.accept(stream)).await.expect("a handshake"));
                }
                let last = held.last_mut().expect("a connection");
                assert!(head(last).await.starts_with("GET"));
                last.write_all(OK.as_bytes()).await.expect("it is sent");
                last.flush().await.expect("it is sent");
                assert!(head(&mut client).await.starts_with("HTTP/1.1 200"));
                settle().await;
            }
        }
    });
}
