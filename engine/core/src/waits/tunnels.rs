//! Connections that carry TCP between sidecars, on both sides.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};

use super::server::{Asked, Server};
use super::upstream::target;
use super::{
    CART, MOMENT, Mesh, WEB, ends_at, identity, lasting, lasts_until, pair, settle, within,
};
use crate::hbone::{self, PING_INTERVAL, STREAMS_MAX, UNUSED_TIME};
use crate::http2::keepalive::PING_TIMEOUT;
use crate::inbound::Caller;
use crate::join::Tunnel;
use crate::observe::names::NONE;
use crate::record::Protocol;
use crate::timer::tests::{on_local, pass};
use crate::tls::SpiffeId;
use crate::tls::test_ca::TestCa;
use crate::upstream::Target;
use crate::upstream::pool::IDLE_TIME;
use crate::upstream::stream::Stream;
use crate::upstream::tunnels::{self, Lease};

/// The calling end of a connection, by hand.
struct ByHand {
    sender: SendRequest<Bytes>,
    connection: h2::client::Connection<TcpStream>,
    /// What the other end calls itself.
    at: SocketAddr,
}

impl ByHand {
    /// One to the program of `mesh`, and the task that serves it.
    async fn connect(mesh: &Mesh) -> (ByHand, JoinHandle<()>) {
        mesh.let_in("strict");
        let (caller, served) = pair().await;
        let at = caller.peer_addr().expect("an address");
        let (worker, app) = (Rc::clone(&mesh.worker), mesh.app(Protocol::Tcp, true));
        let of = Rc::new(Caller {
            id: SpiffeId::parse(WEB).ok(),
            name_id: NONE,
            identity_id: NONE,
        });
        let serve = async move {
            let stream = Stream::Plain(served);
            hbone::serve(&worker, app, of, stream, std::future::pending()).await;
        };
        let task = spawn_local(serve);
        let (sender, connection) = h2::client::handshake(caller).await.expect("HTTP/2");
        let by_hand = ByHand {
            sender,
            connection,
            at,
        };
        (by_hand, task)
    }

    fn ask(&mut self) -> (ResponseFuture, SendStream<Bytes>) {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(self.at.to_string());
        let request = request.body(()).expect("a request");
        self.sender
            .send_request(request, false)
            .expect("it is sent")
    }
}

#[test]
fn a_connection_without_a_tunnel_is_kept_for_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut caller, served) = ByHand::connect(&mesh).await;
        let (answer, mut send) = caller.ask();
        let left = spawn_local(async move { caller.connection.await.expect("a goodbye") });
        // From its last tunnel on.
        pass(UNUSED_TIME - MOMENT).await;
        let response = within(answer).await.expect("an answer");
        let program = within(mesh.program.accept()).await.expect("a call").0;
        drop(program);
        send.send_data(Bytes::new(), true).expect("it is sent");
        drop((send, response));
        lasts_until(UNUSED_TIME, &served).await;
        within(left).await.expect("it is told to leave");
        within(served).await.expect("no panic");
    });
}

#[test]
fn a_caller_that_answers_no_ping_is_gone() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let (mut caller, served) = ByHand::connect(&mesh).await;
        let _asked = caller.ask();
        // It asks, and hears nothing from then on.
        std::future::poll_fn(|cx| {
            let _pending = std::pin::Pin::new(&mut caller.connection).poll(cx);
            std::task::Poll::Ready(())
        })
        .await;
        let _program = within(mesh.program.accept()).await.expect("a call");
        lasts_until(PING_INTERVAL, &served).await;
        ends_at(PING_TIMEOUT, served).await;
    });
}

/// A tunnel to `server`, and the other end of it.
async fn open(mesh: &Mesh, server: &mut Server, to: &Target) -> (Open, usize) {
    let (worker, to) = (Rc::clone(&mesh.worker), to.clone());
    let opened = spawn_local(async move { tunnels::open(&worker, &to).await });
    let Asked {
        number,
        body,
        mut respond,
    } = server.next().await;
    let sent = respond.send_response(Response::new(()), false);
    let (tunnel, lease) = within(opened).await.expect("no panic").expect("a tunnel");
    let open = Open {
        near: tunnel,
        _lease: lease,
        _far: (body, sent.expect("it is sent")),
    };
    (open, number)
}

/// Both ends of a tunnel.
struct Open {
    near: Tunnel,
    _lease: Lease,
    _far: (RecvStream, SendStream<Bytes>),
}

#[test]
fn a_called_sidecar_that_answers_no_ping_is_gone_with_and_without_a_tunnel() {
    on_local(async {
        for carries in [true, false] {
            let mesh = Mesh::start(|_| {}).await;
            let mut server = Server::start(1000, None).await;
            let to = target(server.at, None);
            let (mut tunnel, _) = open(&mesh, &mut server, &to).await;
            let mut kept = None;
            if carries {
                let near = async move {
                    let read = tunnel.near.receive.data().await;
                    assert!(read.is_some_and(|read| read.is_err()));
                };
                kept = Some(spawn_local(near));
            } else {
                drop(tunnel);
            }
            settle().await;
            server.is_mute.set(true);
            pass(PING_INTERVAL).await;
            pass(PING_TIMEOUT - MOMENT).await;
            if let Some(near) = &kept {
                assert!(!near.is_finished());
            }
            pass(MOMENT).await;
            server.is_mute.set(false);
            if let Some(near) = kept {
                within(near).await.expect("no panic");
            }
            // What is opened now has another connection.
            let (_tunnel, number) = open(&mesh, &mut server, &to).await;
            assert_eq!(number, 1);
        }
    });
}

#[test]
fn connections_without_a_tunnel_are_swept_after_so_long() {
    on_local(async {
        let mesh = Mesh::start(|_| {}).await;
        let mut server = Server::start(1000, None).await;
        let to = target(server.at, None);
        let mut held = Vec::new();
        for place in 0..=2 * STREAMS_MAX {
            let (tunnel, number) = open(&mesh, &mut server, &to).await;
            assert_eq!(number, place / STREAMS_MAX);
            held.push(tunnel);
        }
        // The last one keeps its connection.
        let last = held.pop();
        drop(held);
        settle().await;
        pass(IDLE_TIME - MOMENT).await;
        mesh.worker.tunnels.sweep();
        assert!(server.ended().await.is_empty());
        let (tunnel, number) = open(&mesh, &mut server, &to).await;
        assert_eq!(number, 0);
        drop(tunnel);
        settle().await;
        pass(MOMENT).await;
        mesh.worker.tunnels.sweep();
        assert_eq!(server.ended().await, [1]);
        drop(last);
        pass(IDLE_TIME).await;
        mesh.worker.tunnels.sweep();
        assert_eq!(server.ended().await, [0, 1, 2]);
    });
}

#[test]
fn connections_end_with_a_certificate_of_either_side() {
    on_local(async {
        for (own_s, peers_s) in [(100, 3600), (3600, 100)] {
            let mesh = Mesh::start(|_| {}).await;
            let ca = TestCa::new();
            let own = identity(&ca, &lasting(WEB, own_s));
            mesh.identify(own);
            let peers = identity(&ca, &lasting(CART, peers_s));
            let mut server = Server::start(1000, Some(&peers)).await;
            let to = target(server.at, SpiffeId::parse(CART).ok());
            let (first, _) = open(&mesh, &mut server, &to).await;
            pass(super::upstream::STILL_VALID).await;
            let (second, number) = open(&mesh, &mut server, &to).await;
            assert_eq!(number, 0);
            pass(super::upstream::EXPIRES_IN - super::upstream::STILL_VALID).await;
            let (_third, number) = open(&mesh, &mut server, &to).await;
            assert_eq!(number, 1);
            assert!(server.ended().await.is_empty(), "it carries tunnels");
            drop((first, second));
            assert_eq!(server.ended().await, [0]);
        }
    });
}
