//! The HTTP face of the port: the requests Python answers, and the stream.

use std::cell::{Cell, OnceCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::outbox::{Outbox, OutboxBody};
use super::state::{Reply, State, event};
use super::stream;
use crate::tls::Peer;

/// Sent with 503. Sidecars add jitter of their own.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("2");

pub(super) type Body = Either<Full<Bytes>, OutboxBody>;

/// One connection, as its requests see it.
pub(super) struct Client {
    pub(super) state: Arc<State>,
    /// `None` when the client showed no certificate.
    pub(super) peer: Option<Peer>,
    /// The stream of this connection: it has one at most, and ends with it.
    pub(super) stream: OnceCell<Arc<Outbox>>,
    /// Told when the stream has ended.
    pub(super) closing: Notify,
    /// Requests so far; a connection without news is idle.
    pub(super) requests: Cell<u64>,
}

/// Answer one request. Never an error: refusals are responses.
pub(super) async fn answer(
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    client.requests.set(client.requests.get() + 1);
    Ok(route(client, request).await.unwrap_or_else(refusal))
}

/// A status and why.
type Refused = (StatusCode, String);

async fn route(client: Rc<Client>, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let path = request.uri().path().to_owned();
    if !matches!(
        &*path,
        "/v1/join" | "/v1/renew" | "/v1/report" | "/v1/stream"
    ) {
        let why = format!("no such path: {path:?}");
        return Err((StatusCode::NOT_FOUND, why));
    }
    if request.method() != Method::POST {
        let why = "only POST is allowed".to_owned();
        return Err((StatusCode::METHOD_NOT_ALLOWED, why));
    }
    if path == "/v1/join" {
        return ask(&client.state, "join", None, request).await;
    }
    let Some(peer) = &client.peer else {
        let why = format!("{path} needs a client certificate");
        return Err((StatusCode::UNAUTHORIZED, why));
    };
    let identity = Some(peer.id.as_str());
    match &*path {
        "/v1/renew" => return ask(&client.state, "renew", identity, request).await,
        "/v1/report" => return ask(&client.state, "last_report", identity, request).await,
        _ => {}
    }
    if client.stream.get().is_some() {
        let why = "this connection has had its stream".to_owned();
        return Err((StatusCode::CONFLICT, why));
    }
    let id = peer.id.clone();
    let outbox = stream::open(client, id, request.into_body());
    Ok(Response::new(Either::Right(OutboxBody(outbox))))
}

/// Hand a request to Python and wait for its reply.
async fn ask(
    state: &State,
    kind: &'static str,
    identity: Option<&str>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
    let bytes_max = match kind {
        "last_report" => state.limits.report_bytes,
        _ => state.limits.body_bytes,
    };
    let body = read_json(state, request.into_body(), bytes_max).await?;
    let mut waiting = state.wait_for_reply().ok_or_else(|| busy(state))?;
    let room = state.events.room_now(None).ok_or_else(|| busy(state))?;
    let mut asked = json!({"request_id": waiting.id, "body": body});
    if let Some(identity) = identity {
        asked["identity"] = Value::from(identity);
    }
    state.events.push(Some(room), event(kind, &asked));
    match timeout(state.limits.reply_wait, &mut waiting.reply).await {
        Ok(Ok(Reply { status, body })) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Ok(json_response(status, body))
        }
        Ok(Err(_)) | Err(_) => Err(busy(state)),
    }
}

async fn read_json(state: &State, body: Incoming, bytes_max: usize) -> Result<Value, Refused> {
    let limits = &state.limits;
    let collected = timeout(limits.body_wait, Limited::new(body, bytes_max).collect());
    let bytes = match collected.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let why = format!("body too large; at most {bytes_max} bytes");
            return Err((StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        Ok(Err(error)) => return Err((StatusCode::BAD_REQUEST, format!("body: {error}"))),
        Err(_) => {
            let why = format!("body took longer than {:?}", limits.body_wait);
            return Err((StatusCode::REQUEST_TIMEOUT, why));
        }
    };
    let body: Value = serde_json::from_slice(&bytes)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("body: {error}")))?;
    if !body.is_object() {
        let why = "body: must be a JSON object".to_owned();
        return Err((StatusCode::BAD_REQUEST, why));
    }
    Ok(body)
}

fn busy(state: &State) -> Refused {
    let refused = &state.counters.refused_requests;
    refused.fetch_add(1, Ordering::Relaxed);
    let why = "the control plane is busy; try again".to_owned();
    (StatusCode::SERVICE_UNAVAILABLE, why)
}

fn refusal((status, why): Refused) -> Response<Body> {
    let body = json!({"error": why}).to_string();
    let mut response = json_response(status, Bytes::from(body));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    }
    response
}

fn json_response(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
