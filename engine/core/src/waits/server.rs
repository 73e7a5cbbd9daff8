//! The other end of connections of HTTP/2.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use super::{settle, within};
use crate::tls::{ClientAuth, Identity, server_config};

/// A server of HTTP/2 on this thread, which takes so many streams of a connection at once.
pub(super) struct Server {
    pub(super) at: SocketAddr,
    asked: mpsc::UnboundedReceiver<Asked>,
    /// The connections that ended.
    ended: Rc<RefCell<Vec<usize>>>,
    /// It hears and says nothing more.
    pub(super) is_mute: Rc<Cell<bool>>,
}

/// A request, and the number of the connection that it came on.
pub(super) struct Asked {
    pub(super) number: usize,
    pub(super) body: h2::RecvStream,
    pub(super) respond: h2::server::SendResponse<Bytes>,
}

impl Server {
    pub(super) async fn start(streams: u32, identity: Option<&Identity>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let tls = identity.map(|identity| {
            let config = server_config(identity, ClientAuth::Required, &[b"h2"]);
            TlsAcceptor::from(config.expect("a config"))
        });
        let (arrive, asked) = mpsc::unbounded_channel();
        let server = Server {
            at,
            asked,
            ended: Rc::default(),
            is_mute: Rc::default(),
        };
        let (ended, is_mute) = (Rc::clone(&server.ended), Rc::clone(&server.is_mute));
        spawn_local(async move {
            for number in 0.. {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (arrive, tls, is_mute) = (arrive.clone(), tls.clone(), Rc::clone(&is_mute));
                let ended = Rc::clone(&ended);
                spawn_local(async move {
                    match tls {
                        Some(tls) => {
                            let stream = tls.accept(stream).await.expect("a handshake");
                            take(stream, streams, number, &arrive, &is_mute).await;
                        }
                        None => take(stream, streams, number, &arrive, &is_mute).await,
                    }
                    ended.borrow_mut().push(number);
                });
            }
        });
        server
    }

    /// The next request.
    pub(super) async fn next(&mut self) -> Asked {
        within(self.asked.recv()).await.expect("a request")
    }

    /// The connections that have ended by now, in order.
    pub(super) async fn ended(&self) -> Vec<usize> {
        settle().await;
        let mut ended = self.ended.borrow().clone();
        ended.sort_unstable();
        ended
    }
}

/// Take the requests of a connection until it ends.
async fn take(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    streams: u32,
    number: usize,
    arrive: &mpsc::UnboundedSender<Asked>,
    is_mute: &Cell<bool>,
) {
    let mut builder = h2::server::Builder::new();
    let builder = builder
        .max_concurrent_streams(streams)
        .enable_connect_protocol();
    let mut connection = builder.handshake(stream).await.expect("HTTP/2");
    let mut next = async || {
        poll_fn(|cx| match is_mute.get() {
            true => Poll::Pending,
            false => connection.poll_accept(cx),
        })
        .await
    };
    while let Some(Ok((request, respond))) = next().await {
        let asked = Asked {
            number,
            body: request.into_body(),
            respond,
        };
        // The test may be over.
        let _over = arrive.send(asked);
    }
}
