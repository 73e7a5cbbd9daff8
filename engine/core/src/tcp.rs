//! Connections that carry bytes: routed, balanced, authorized and counted as a whole.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Method;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

use crate::discover;
use crate::error::{Error, Reason};
use crate::fields::Fields;
use crate::head::RequestHead;
use crate::inbound::{App, Caller};
use crate::observe::Observation;
use crate::observe::metrics::{Direction, SeriesKey};
use crate::plan::endpoints::InFlight;
use crate::plan::service::{BackendPlan, PortPlan, Service};
use crate::record::{Action, Protocol, Traffic};
use crate::steps::authorize::{Call, authorize};
use crate::steps::limit::try_take;
use crate::steps::{balance, outlier, route};
use crate::timer::now_us;
use crate::upstream::Target;
use crate::upstream::connect::{Alpn, Connected, ConnectionPermit, connect};
use crate::upstream::stream::Stream;
use crate::worker::Worker;

/// Bytes buffered in each direction of a connection: all that a slow reader can make us hold.
pub const BUFFER: usize = 16 * 1024;
/// Most endpoints tried for one connection.
const TRIES_MAX: usize = 3;

/// Carry a connection of the application to `service`.
pub async fn outbound<S>(worker: &Rc<Worker>, service: &Arc<Service>, port: u16, client: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut key = SeriesKey::new(Direction::Outbound, Protocol::Tcp);
    key.service = service.name_id;
    let reached = reach(worker, service, port, &mut key).await;
    key.reason = reached.as_ref().err().map(|error| error.reason);
    let seen = Observation::connection(worker, key, None);
    if let Ok(reached) = reached {
        copy(client, reached.stream, seen).await;
    }
}

/// A connection to an endpoint and what is held while it lasts.
struct Reached {
    stream: Stream,
    _permit: ConnectionPermit,
    _in_flight: InFlight,
}

async fn reach(
    worker: &Rc<Worker>,
    service: &Arc<Service>,
    port_number: u16,
    key: &mut SeriesKey,
) -> Result<Reached, Error> {
    let plan = discover::plan(worker, service).await?;
    let port: &PortPlan = discover::port(service, &plan, port_number)?;
    let head = RequestHead::described(Method::CONNECT, "", Fields::default());
    let rule = route::route(port, &head)?.rule;
    key.route = rule.name_id;
    let backend = route::backend(rule)?;
    let backend_plan = discover::plan(worker, &backend.service).await?;
    if backend.endpoints().is_none() {
        discover::endpoints(worker, &backend.service).await;
    }
    dial(worker, backend, &backend_plan.traffic, key).await
}

/// Connect to an endpoint of the backend; to another one when that fails.
async fn dial(
    worker: &Rc<Worker>,
    backend: &BackendPlan,
    traffic: &Traffic,
    key: &mut SeriesKey,
) -> Result<Reached, Error> {
    let endpoints = backend.endpoints().unwrap_or_default();
    let load = &backend.service.load;
    let mut tried = Vec::new();
    let mut failure = Error::new(Reason::NoEndpoint, backend.service.key.as_str());
    for _ in 0..TRIES_MAX {
        let picked = balance::pick(
            &endpoints,
            traffic.load_balancer,
            &load.turn,
            &tried,
            now_us(),
        );
        let Some(endpoint) = picked.filter(|endpoint| !tried.contains(&endpoint.id)) else {
            break;
        };
        tried.push(endpoint.id);
        key.peer = endpoint.name_id;
        key.peer_identity = endpoint.identity_id;
        key.mtls = endpoint.identity.is_some();
        let Some(address) = endpoint.address(backend.port) else {
            continue;
        };
        if !try_take(&load.connections, traffic.limits.connections) {
            return Err(Error::new(Reason::PendingLimit, "too many connections"));
        }
        let permit = ConnectionPermit(Arc::clone(&backend.service));
        let target = Target {
            id: endpoint.id,
            address,
            identity: endpoint.identity.clone(),
            http2: false,
            connect_timeout: Duration::from_millis(traffic.connect_timeout_ms),
            limits: None,
            source: None,
        };
        let started = now_us();
        let connected = connect(worker, &target, Alpn::Tcp).await;
        let (now, failed) = (now_us(), connected.is_err());
        outlier::observe(endpoint, failed, traffic.outlier.as_ref(), &endpoints, now);
        match connected {
            Ok(Connected { stream, .. }) => {
                endpoint.state.observe(now - started, now);
                let in_flight = InFlight::begin(endpoint);
                return Ok(Reached {
                    stream,
                    _permit: permit,
                    _in_flight: in_flight,
                });
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Carry a connection of another sidecar to the application.
pub async fn inbound<S>(worker: &Rc<Worker>, app: App, caller: &Caller, peer: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut key = SeriesKey::new(Direction::Inbound, Protocol::Tcp);
    key.peer = caller.name_id;
    key.peer_identity = caller.identity_id;
    key.mtls = caller.id.is_some();
    let call = Call {
        peer: caller.id.as_ref(),
        http: None,
        port: app.port,
    };
    let verdict = authorize(&worker.shared.inbound.load(), &call);
    let connected = match verdict.action {
        Action::Deny => Err(Error::new(Reason::Denied, "")),
        Action::Allow => connect(worker, &app.target(), Alpn::Tcp).await,
    };
    key.reason = connected.as_ref().err().map(|error| error.reason);
    let seen = Observation::connection(worker, key, verdict.policy);
    if let Ok(app) = connected {
        copy(peer, app.stream, seen).await;
    }
}

/// Copy both ways until both sides have ended, or either broke.
pub async fn copy<A>(mut near: A, far: Stream, seen: Observation)
where
    A: AsyncRead + AsyncWrite + Unpin,
{
    let mut far = Counted { stream: far, seen };
    // A broken connection is an ordinary end.
    let _ended = copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER).await;
}

/// The called side: what is written to it is the request, what is read the response.
struct Counted {
    stream: Stream,
    seen: Observation,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let read = (buffer.filled().len() - before) as u64;
        self.seen.carried(0, read);
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buffer);
        if let Poll::Ready(Ok(written)) = &result {
            let written = *written as u64;
            self.seen.carried(written, 0);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
