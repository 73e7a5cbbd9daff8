//! The way to an endpoint: connect, keep connections, send one request.

pub mod connect;
pub mod http1;
pub mod http2;
pub mod pool;
pub mod stream;
pub mod tunnels;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::Error;
use crate::head::{RequestHead, ResponseHead};
use crate::plan::service::Service;
use crate::record::Limits;
use crate::side::Side;
use crate::tls::SpiffeId;
use crate::worker::Worker;
use http1::Http1;
use http2::OnStream;

/// Where one try goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// Unique id of the endpoint (or of the application's port): pools are keyed by it.
    pub id: u64,
    /// The address to connect to.
    pub address: SocketAddr,
    /// Whom to expect there; `None`: plaintext.
    pub identity: Option<SpiffeId>,
    /// Whether HTTP/2 is spoken there.
    pub http2: bool,
    /// Longest time to connect, handshake included.
    pub connect_timeout: Duration,
    /// Counts connections against the service's limits; `None`: the own application.
    pub limits: Option<(Arc<Service>, Limits)>,
    /// The client in whose name to connect; `None`: in our own.
    pub source: Option<IpAddr>,
    /// Below which descriptor a connection must stay.
    pub files_end: i32,
}

/// A request at an endpoint.
#[derive(Debug)]
pub enum Upstream {
    /// On a connection of its own.
    Http1(Http1),
    /// On a stream.
    Http2(OnStream),
}

impl Upstream {
    /// Begin a request at `target`: find or open a connection, and put the head on its way.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn begin(
        worker: &Rc<Worker>,
        target: &Target,
        head: &RequestHead,
    ) -> Result<Upstream, Error> {
        let switch = head.protocol();
        if target.http2 {
            let began = Box::pin(http2::begin(worker, target, head, switch)).await?;
            return Ok(Upstream::Http2(began));
        }
        let mut connection = pool::checkout(worker, target).await?;
        connection.begin(head, switch);
        Ok(Upstream::Http1(connection))
    }

    /// Where bodies go to and come from.
    pub fn side(&mut self) -> Side<'_> {
        match self {
            Upstream::Http1(connection) => Side::Http1(connection.connection()),
            Upstream::Http2(began) => Side::Http2(&mut began.stream),
        }
    }

    /// Wait for the next head of a response, interim ones included.
    ///
    /// # Errors
    /// Why none will come; the reason tells whether sending again is safe.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Error>> {
        match self {
            Upstream::Http1(connection) => connection.poll_head(cx),
            Upstream::Http2(began) => began.poll_head(cx),
        }
    }

    /// Whether the peer had closed the connection, which was used before, when this request came:
    /// nothing of it was written.
    pub fn is_stale(&mut self) -> bool {
        match self {
            Upstream::Http1(reused) => !reused.is_fresh() && reused.connection().is_unwritten(),
            Upstream::Http2(_) => false,
        }
    }

    /// Break it off, so that the peer does not take what it has for the whole.
    pub fn abort(&mut self) {
        match self {
            Upstream::Http1(open) => open.connection().abort(),
            // A stream that is let go of before its end is reset.
            Upstream::Http2(_) => {}
        }
    }

    /// The exchange is over: keep the connection if both sides ended as they should; `sent`:
    /// the request did.
    pub fn finish(self, worker: &Rc<Worker>, sent: bool) {
        match self {
            Upstream::Http1(connection) if sent => connection.give_back(worker),
            // What was not sent to its end breaks the connection, or resets the stream.
            Upstream::Http1(_) | Upstream::Http2(_) => {}
        }
    }
}
