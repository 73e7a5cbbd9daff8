//! The way of a request from another sidecar to the application, step by step.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::error::{Error, Reason};
use crate::observe::Observation;
use crate::observe::metrics::Direction;
use crate::outbound::{give_back, normalize};
use crate::record::{Action, MtlsMode, Protocol};
use crate::respond::{Asked, respond};
use crate::settings::InboundSettings;
use crate::steps::authorize::{Call, authorize};
use crate::steps::{headers, trace};
use crate::tls::SpiffeId;
use crate::upgrade;
use crate::upstream::body::{BodySource, Guards, ResponseBody};
use crate::upstream::{self, Sent, Target};
use crate::worker::Worker;

/// Longest time to connect to the application on this machine.
const APP_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A port of the application.
#[derive(Clone, Copy, Debug)]
pub struct App {
    /// Unique id, for pools.
    pub id: u64,
    /// The port as policies call it.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it listens.
    pub address: SocketAddr,
    /// In whose name it is called; `None`: in the sidecar's own.
    pub source: Option<IpAddr>,
}

impl App {
    /// The declared port number `index`.
    pub fn declared(index: usize, port: &InboundSettings) -> App {
        App {
            // Endpoints count from 1 upwards, applications from the end downwards.
            id: u64::MAX - index as u64,
            port: port.port,
            protocol: port.protocol,
            address: port.app,
            source: None,
        }
    }

    /// The same, called at `address` in the name of `source`: what is connected for one client is
    /// never used for another.
    pub fn called_by(self, source: IpAddr, address: SocketAddr) -> App {
        let mut hasher = DefaultHasher::new();
        (self.id, source, address).hash(&mut hasher);
        App {
            // With the highest bit it is none of an endpoint.
            id: hasher.finish() | 1 << 63,
            source: Some(source),
            address,
            ..self
        }
    }

    /// The application as a target: plain, and never limited by the mesh.
    pub fn target(&self) -> Target {
        Target {
            id: self.id,
            address: self.address,
            identity: None,
            http2: matches!(self.protocol, Protocol::Http2 | Protocol::Grpc),
            connect_timeout: APP_CONNECT_TIMEOUT,
            limits: None,
            source: self.source,
        }
    }
}

/// Who is calling, as the handshake of the connection proved.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The peer; `None`: plaintext, where it is let in.
    pub id: Option<SpiffeId>,
    /// The id of its name in metrics.
    pub name_id: u32,
    /// The id of its identity in metrics.
    pub identity_id: u32,
}

/// Answer one request for the application.
///
/// # Errors
/// Never: every error becomes a response here.
pub async fn handle(
    worker: Rc<Worker>,
    app: App,
    caller: Rc<Caller>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let asked = Asked::of(&request);
    let mut seen = Observation::begin(&worker, Direction::Inbound, &request);
    seen.key.protocol = app.protocol;
    seen.key.peer = caller.name_id;
    seen.key.peer_identity = caller.identity_id;
    seen.key.mtls = caller.id.is_some();
    Ok(
        match carry(&worker, app, &caller, request, &mut seen).await {
            Ok(sent) => finish(&worker, sent, seen).await,
            Err(error) => {
                seen.answered(crate::respond::status(error.reason), Some(error.reason));
                // The calling sidecar needs the reason, and hides it from its application if asked.
                let show_reason = caller.id.is_some() || worker.shared.settings.reason_header;
                let response = respond(&error, asked, show_reason);
                seen.look_for_grpc_status(response.headers());
                response
            }
        },
    )
}

/// The steps in order.
async fn carry(
    worker: &Rc<Worker>,
    app: App,
    caller: &Caller,
    mut request: Request<Incoming>,
    seen: &mut Observation,
) -> Result<Sent, Error> {
    normalize(&mut request)?;
    if !worker.shared.has_inbound.load(Relaxed) {
        // Nobody decided against this caller: another replica may serve it.
        return Err(Error::new(Reason::AppUnreachable, "no policy is known yet"));
    }
    let plan = worker.shared.inbound.load();
    if caller.id.is_none() && plan.mtls(app.port) == MtlsMode::Strict {
        // The connection was opened while plaintext was let in.
        return Err(Error::new(Reason::Denied, "only mutual TLS is let in"));
    }
    let verdict = authorize(
        &plan,
        &Call {
            peer: caller.id.as_ref(),
            http: Some((request.method().as_str(), request.uri().path())),
            port: app.port,
        },
    );
    drop(plan);
    seen.policy = verdict.policy;
    if verdict.action == Action::Deny {
        let by = seen.policy.as_deref().map(|name| format!("by {name}"));
        return Err(Error::new(
            Reason::Denied,
            by.unwrap_or_else(|| "no policy allows it".into()),
        ));
    }
    headers::strip_own(request.headers_mut());
    trace::ensure(request.headers_mut());
    seen.traced(request.headers());

    let upgrade = upgrade::asked(&request);
    let client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    seen.tries = 1;
    let target = app.target();
    if let (Some(protocol), Some(client)) = (upgrade, client) {
        let response = Box::pin(upgrade::carry(worker, &target, parts, protocol, client)).await;
        return response
            .map(|response| Sent {
                response,
                connection: None,
            })
            .map_err(unreachable);
    }
    let (source, sent_bytes) = BodySource::new(body);
    seen.request_bytes = sent_bytes;
    let body = source.next().ok_or_else(|| Error::new(Reason::Reset, ""))?;
    upstream::send(worker, &target, Request::from_parts(parts, body))
        .await
        .map_err(|error| match source.is_broken() {
            true => Error::new(Reason::ClientGone, "the request's body broke off"),
            false => unreachable(error),
        })
}

/// What never reached the application may be sent to another replica.
fn unreachable(error: Error) -> Error {
    match error.reason {
        Reason::ConnectFailed | Reason::Unsent => Error::new(Reason::AppUnreachable, error.detail),
        _ => error,
    }
}

/// Make the application's response fit for the caller.
async fn finish(worker: &Rc<Worker>, sent: Sent, mut seen: Observation) -> Response<ResponseBody> {
    let (mut parts, body) = sent.response.into_parts();
    seen.answered(parts.status, None);
    parts.version = Version::HTTP_11;
    seen.look_for_grpc_status(&parts.headers);
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        headers::strip_hop_by_hop(&mut parts.headers);
    }
    headers::strip_own(&mut parts.headers);
    if hyper::body::Body::is_end_stream(&body) {
        give_back(worker, sent.connection).await;
        drop(seen);
        return Response::from_parts(parts, ResponseBody::full(Bytes::new()));
    }
    let body = ResponseBody::stream(body, sent.connection, worker, seen, None, Guards::default());
    Response::from_parts(parts, body)
}
