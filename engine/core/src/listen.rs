//! Listeners and what becomes of an accepted connection: bytes, HTTP/1.1 or HTTP/2.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::accept::{Accepted, authenticate};
use crate::discover::Entrance;
use crate::http1::Connection;
use crate::inbound::App;
use crate::intercept::{self, Way};
use crate::plan::service::Service;
use crate::record::Protocol;
use crate::serve;
use crate::timer::Deadline;
use crate::upstream::stream::{Rewound, Stream};
use crate::worker::Worker;
use crate::{hbone, tcp};

/// Most open connections of a sidecar, where there are files for so many; further ones are closed at
/// once.
pub const CONNECTIONS_MAX: i64 = 16_384;
/// One in so many of the connections, and of the files for them, is left for the application's own
/// calls, however many other sidecars come; what serves those is held to the rest.
pub const OWN_PART: i32 = 4;
/// Longest time for the first bytes, or a handshake.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Pause after an accept failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a listener is for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// The HTTP proxy of the application.
    Proxy,
    /// A local address that stands for a service.
    Service(Arc<Service>, u16),
    /// A port of the application, for other sidecars.
    Inbound(App),
    /// What the kernel leads here although it was meant for somebody else.
    Intercepted(Way),
}

impl Purpose {
    /// When what came by it ends.
    pub(crate) fn closes(&self) -> Closing {
        match self {
            Purpose::Inbound(_) | Purpose::Intercepted(Way::In) => Closing::Inbound,
            Purpose::Proxy | Purpose::Service(..) | Purpose::Intercepted(_) => Closing::All,
        }
    }
}

/// Accept until the sidecar closes.
pub async fn serve(worker: Rc<Worker>, purpose: Purpose, listener: std::net::TcpListener) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    let closes = purpose.closes();
    let mut closing = worker.shared.closing.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ended(&mut closing, closes) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                if worker.shared.has_room(closes, &stream) {
                    let open = Open::count(&worker, closes);
                    worker.spawn(connection(open, purpose.clone(), stream));
                } else {
                    let overflow = &worker.shared.metrics.overflown_connections;
                    overflow.fetch_add(1, Relaxed);
                }
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// How far a sidecar has closed. What comes in ends first: to answer what is open, the
/// application may have to call others until the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closing {
    /// It is open.
    Nothing,
    /// A successor accepts in its place; what is open goes on.
    HandedOver,
    /// Connections of other sidecars end.
    Inbound,
    /// Those of the application, too.
    All,
}

/// Counts a connection, or what it became after a switch of protocols, while it is open.
#[derive(Debug)]
pub struct Open {
    worker: Rc<Worker>,
    closes: Closing,
}

impl Open {
    /// Count one that ends when the sidecar has closed as far as `closes`.
    pub fn count(worker: &Rc<Worker>, closes: Closing) -> Open {
        worker.shared.metrics.connections.fetch_add(1, Relaxed);
        if closes == Closing::Inbound {
            worker.shared.inbound_connections.fetch_add(1, Relaxed);
        }
        Open {
            worker: Rc::clone(worker),
            closes,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let shared = &self.worker.shared;
        shared.metrics.connections.fetch_sub(1, Relaxed);
        if self.closes == Closing::Inbound {
            shared.inbound_connections.fetch_sub(1, Relaxed);
        }
    }
}

/// When nothing more is to be accepted that ends with `closes`.
pub(crate) async fn ended(closing: &mut watch::Receiver<Closing>, closes: Closing) {
    let ends = |now: &Closing| *now >= closes || *now == Closing::HandedOver;
    let _ended = closing.wait_for(ends).await;
}

/// When the sidecar has closed as far as `closes`; at once, if it is gone.
pub async fn closed(closing: &mut watch::Receiver<Closing>, closes: Closing) {
    let _closed = closing.wait_for(|closing| *closing >= closes).await;
}

async fn connection(open: Open, purpose: Purpose, stream: TcpStream) {
    // Boxed, and gone before the client is served: a handshake and a first look take much room.
    let client = Box::pin(begin(&open.worker, purpose, stream)).await;
    if let Some(client) = client {
        serve::client(&open.worker, client).await;
    }
}

/// Serve what speaks bytes, or surely HTTP/2; any other client is handed back.
async fn begin(
    worker: &Rc<Worker>,
    purpose: Purpose,
    stream: TcpStream,
) -> Option<Box<serve::Client>> {
    match purpose {
        Purpose::Proxy => Some(plain_http(Entrance::Proxy, stream)),
        Purpose::Service(service, port) => serve_service(worker, (service, port), stream).await,
        Purpose::Inbound(app) => serve_inbound(worker, app, stream).await,
        Purpose::Intercepted(way) => Box::pin(intercept::serve(worker, way, stream)).await,
    }
}

/// A connection of the application to a port of a service.
pub async fn serve_service(
    worker: &Rc<Worker>,
    to: (Arc<Service>, u16),
    stream: TcpStream,
) -> Option<Box<serve::Client>> {
    let (service, port) = to;
    let local = stream.local_addr().ok()?;
    let stream = Box::pin(tcp::take_bytes(worker, &service, port, stream)).await?;
    let entrance = Entrance::service(worker, service, port, local);
    Some(plain_http(entrance, stream))
}

/// HTTP of the application.
fn plain_http(entrance: Entrance, stream: TcpStream) -> Box<serve::Client> {
    let connection = Connection::new(Stream::Plain(stream));
    serve::Client::undecided(serve::Way::Outbound(entrance), connection)
}

/// A connection of another sidecar, or a plain one where the workload lets it in.
pub async fn serve_inbound(
    worker: &Rc<Worker>,
    app: App,
    stream: TcpStream,
) -> Option<Box<serve::Client>> {
    // Boxed: what a handshake needs is not kept while a connection carries bytes.
    match Box::pin(authenticate(worker, app, stream)).await {
        Some(accepted) => serve_app(worker, app, accepted).await,
        None => {
            worker
                .shared
                .metrics
                .refused_connections
                .fetch_add(1, Relaxed);
            None
        }
    }
}

async fn serve_app(
    worker: &Rc<Worker>,
    app: App,
    accepted: Accepted,
) -> Option<Box<serve::Client>> {
    let Accepted {
        stream,
        caller,
        told,
        expiry,
    } = accepted;
    let expires_us = expiry.as_ref().map(Deadline::due_us);
    let expiry = async move {
        match expiry {
            Some(expiry) => expiry.await,
            None => std::future::pending().await,
        }
    };
    let way = serve::Way::Inbound(app, Rc::clone(&caller));
    match (app.protocol, stream) {
        // Bytes cannot be asked to end: such a connection lives on as it was authenticated.
        (Protocol::Tcp | Protocol::Http, stream) if stream.is_http2() => {
            Box::pin(hbone::serve(worker, app, caller, stream, expiry)).await;
        }
        (_, Stream::Plain(peer)) if app.takes_bytes(&peer).await => {
            Box::pin(tcp::inbound(worker, app, (&caller, told), peer)).await;
        }
        // A caller without ALPN is no sidecar.
        (Protocol::Tcp, _) => {}
        (Protocol::Http | Protocol::Auto, Stream::Plain(peer)) if !app.declared => {
            let connection = Connection::new(Stream::Plain(peer));
            return Some(serve::Client::undecided(way, connection));
        }
        (Protocol::Http | Protocol::Auto, stream) => {
            return Some(serve::Client::new(way, Connection::new(stream), expires_us));
        }
        (Protocol::Http2 | Protocol::Grpc, stream) => {
            let stream = Rewound::new(stream, Vec::new());
            Box::pin(serve::http2(worker, way, stream, expiry)).await;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a task holds that is at rest; with the socket's registration it is all that a
    /// connection costs.
    #[test]
    fn a_connection_at_rest_is_small() {
        fn size<A, B, C, R>(_: fn(A, B, C) -> R) -> usize {
            size_of::<R>()
        }
        let (task, client) = (size(connection), size_of::<serve::Client>());
        assert!(task + client <= 640, "{task} + {client}");
    }
}
