//! A switch of protocols (WebSocket and its like): after the 101, bytes both ways.

use std::rc::Rc;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;

use crate::error::{Error, Reason};
use crate::steps::headers;
use crate::upstream::Target;
use crate::upstream::body::RequestBody;
use crate::upstream::connect::{Alpn, ConnectionPermit, connect};
use crate::upstream::http1::{builder, describe};
use crate::worker::Worker;

/// Bytes buffered in each direction.
pub const BUFFER: usize = 16 * 1024;

/// Ask `target` to switch to `protocol` on a connection of its own. When it does, the client's
/// connection and this one are joined until either ends; any other response is handed back.
///
/// # Errors
/// No connection, no response, or a target that speaks HTTP/2.
pub async fn carry(
    worker: &Rc<Worker>,
    target: &Target,
    mut parts: Parts,
    protocol: HeaderValue,
    client: OnUpgrade,
) -> Result<Response<Incoming>, Error> {
    if target.http2 {
        return Err(Error::new(
            Reason::BadRequest,
            "a service on HTTP/2 cannot switch protocols",
        ));
    }
    let permit = target.limits.as_ref().map(|(service, _)| {
        service
            .load
            .connections
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        ConnectionPermit(std::sync::Arc::clone(service))
    });
    let connected = connect(worker, target, Alpn::Http1).await?;
    let lost = |error: hyper::Error| Error::new(Reason::Reset, describe(&error));
    let (mut sender, connection) = builder()
        .handshake(TokioIo::new(connected.stream))
        .await
        .map_err(lost)?;
    tokio::task::spawn_local(async move {
        // Its end reaches whoever holds the response or the upgraded stream.
        let _ended = connection.with_upgrades().await;
        drop(permit);
    });
    parts.version = Version::HTTP_11;
    headers::to_http1(&parts.method, &mut parts.uri, &mut parts.headers);
    mark(&mut parts.headers, &protocol);
    let request = Request::from_parts(parts, RequestBody::Empty);
    let mut response = sender.send_request(request).await.map_err(lost)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let protocol = response.headers().get(UPGRADE).cloned().unwrap_or(protocol);
        let server = hyper::upgrade::on(&mut response);
        headers::strip_hop_by_hop(response.headers_mut());
        mark(response.headers_mut(), &protocol);
        tokio::task::spawn_local(join(client, server));
    }
    Ok(response)
}

fn mark(headers: &mut http::HeaderMap, protocol: &HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol.clone());
}

async fn join(client: OnUpgrade, server: OnUpgrade) {
    if let (Ok(client), Ok(server)) = (client.await, server.await) {
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        // A broken connection is the ordinary end of such a conversation.
        let _ended = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await;
    }
}
