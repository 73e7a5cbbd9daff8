//! The way to an endpoint: connect, keep connections, send one request.

pub mod body;
pub mod connect;
pub mod http1;
pub mod http2;
pub mod pool;
pub mod stream;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::body::Incoming;

use crate::error::{Error, Reason};
use crate::plan::service::Service;
use crate::record::Limits;
use crate::steps::headers;
use crate::tls::SpiffeId;
use crate::worker::Worker;
use body::RequestBody;
use http1::Http1;

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
}

/// A response and, over HTTP/1.1, the connection that still carries its body.
#[derive(Debug)]
pub struct Sent {
    /// Head and body.
    pub response: Response<Incoming>,
    /// `None` over HTTP/2, where a task of its own drives the connection.
    pub connection: Option<Http1>,
}

/// Send one request to `target`.
///
/// # Errors
/// Why there is no response; the reason tells whether sending again is safe.
pub async fn send(
    worker: &Rc<Worker>,
    target: &Target,
    mut request: Request<RequestBody>,
) -> Result<Sent, Error> {
    let (mut parts, body) = request.into_parts();
    if target.http2 {
        parts.version = Version::HTTP_2;
        headers::to_http2(
            &mut parts.uri,
            &mut parts.headers,
            &target.address.to_string(),
        );
        request = Request::from_parts(parts, body);
        let response = Box::pin(http2::send(worker, target, request)).await?;
        return Ok(Sent {
            response,
            connection: None,
        });
    }
    parts.version = Version::HTTP_11;
    headers::to_http1(&parts.method, &mut parts.uri, &mut parts.headers);
    request = Request::from_parts(parts, body);
    loop {
        let (mut connection, fresh) = pool::checkout(worker, target).await?;
        match connection.send(request).await {
            Ok(response) => {
                return Ok(Sent {
                    response,
                    connection: Some(connection),
                });
            }
            // A pooled connection that the peer closed meanwhile: nothing was sent, so another
            // connection may take the very same request.
            Err(http1::Failed {
                error,
                request: Some(unsent),
            }) if !fresh && error.reason == Reason::Unsent => {
                request = unsent;
            }
            Err(http1::Failed { error, .. }) => return Err(error),
        }
    }
}
