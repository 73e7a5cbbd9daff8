//! A switch of protocols (WebSocket and its like): after the 101, bytes both ways.

use std::rc::Rc;

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;

use crate::error::{Error, Reason};
use crate::listen::{Closing, Open};
use crate::steps::headers;
use crate::upstream::Target;
use crate::upstream::body::RequestBody;
use crate::upstream::connect::{Alpn, ConnectionPermit, connect};
use crate::upstream::http1::{builder, describe};
use crate::worker::Worker;

/// Bytes buffered in each direction.
pub const BUFFER: usize = 16 * 1024;

/// The protocol that a request asks to switch to. One with a body is not heeded, as any server
/// may do: nobody could tell the body from what follows the switch.
pub fn asked(request: &Request<Incoming>) -> Option<HeaderValue> {
    headers::upgrade(request.headers()).filter(|_| request.body().is_end_stream())
}

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
    // Held by the exchange of heads and then by the bytes, whichever lasts longer.
    let permit = Rc::new(match &target.limits {
        Some((service, limits)) => Some(ConnectionPermit::take(service, limits)?),
        None => None,
    });
    let connected = connect(worker, target, Alpn::Http1).await?;
    let lost = |error: hyper::Error| Error::new(Reason::Reset, describe(&error));
    let (mut sender, connection) = builder()
        .handshake(TokioIo::new(connected.stream))
        .await
        .map_err(lost)?;
    let held = Rc::clone(&permit);
    tokio::task::spawn_local(async move {
        // Its end reaches whoever holds the response or the upgraded stream.
        let _ended = connection.with_upgrades().await;
        drop(held);
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
        let closes = match target.limits {
            Some(_) => Closing::All,
            None => Closing::Inbound,
        };
        let open = Open::count(worker, closes);
        tokio::task::spawn_local(async move {
            join(client, server).await;
            drop((permit, open));
        });
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
