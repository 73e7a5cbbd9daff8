//! Connections that carry bytes: routed, balanced, authorized and counted as a whole.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::detect::{self, SILENCE_TIME, Spoken};
use crate::discover;
use crate::error::{Error, Reason, RetrySafety, Source};
use crate::inbound::{App, Caller};
use crate::join::{End, IDLE_TIME, Side, join};
use crate::listen::HANDSHAKE_TIME;
use crate::observe::Observation;
use crate::observe::metrics::{Direction, SeriesKey};
use crate::plan::endpoints::InFlight;
use crate::plan::service::{BackendPlan, PortPlan, RulePlan, Service, TablePlan};
use crate::proxy_protocol::{self, Told};
use crate::record::{Action, Protocol, Traffic};
use crate::serve;
use crate::steps::authorize::{Call, authorize};
use crate::steps::limit::try_take;
use crate::steps::{balance, outlier, route};
use crate::timer::{now_us, within};
use crate::tls::hello::{Hello, UNRECOGNIZED_NAME, client_hello};
use crate::upstream::Target;
use crate::upstream::connect::{ConnectionPermit, connect_plain};
use crate::upstream::tunnels::{self, Lease};
use crate::worker::Worker;

/// Most endpoints tried for one connection.
const TRIES_MAX: usize = 3;

/// Carry a connection of the application to `service`.
pub async fn outbound(worker: &Rc<Worker>, service: &Arc<Service>, port: u16, client: Side) {
    let mut client = End::from(client);
    let mut key = SeriesKey::new(Direction::Outbound, Protocol::Tcp);
    key.service = service.name_id;
    let reached = reach(worker, service, port, &mut client, &mut key).await;
    key.reason = reached.as_ref().err().map(|error| error.reason);
    let seen = Observation::connection(worker, key, None);
    match reached {
        Ok(reached) => carry(client, reached, seen).await,
        Err(error) if error.reason == Reason::Reset => client.abort(),
        Err(error) if error.reason == Reason::NoRoute => {
            // The client is closed whether it hears why or not.
            let _told = client.write(Bytes::from_static(&UNRECOGNIZED_NAME)).await;
        }
        Err(_) => {}
    }
}

/// Carry a client that speaks no HTTP; one that does is handed back.
pub async fn take_bytes(
    worker: &Rc<Worker>,
    service: &Arc<Service>,
    port: u16,
    client: TcpStream,
) -> Option<TcpStream> {
    let plan = discover::plan(worker, service).await.ok();
    let spoken = plan.and_then(|plan| plan.port(port).map(|port| (port.protocol, port.declared)));
    match spoken {
        Some((Protocol::Tcp, _)) => outbound(worker, service, port, Side::Tcp(client)).await,
        Some((_, false)) => return undeclared(worker, service, port, client).await,
        _ => return Some(client),
    }
    None
}

/// Find out what `client` speaks on a port that nobody declared. HTTP is handed back; all else is
/// carried as bytes. While the client is silent the server may begin: nobody waits for the other.
async fn undeclared(
    worker: &Rc<Worker>,
    service: &Arc<Service>,
    port: u16,
    client: TcpStream,
) -> Option<TcpStream> {
    match within(SILENCE_TIME, Box::pin(detect::look(&client))).await {
        Some(Ok(Spoken::Http1 | Spoken::Http2)) => return Some(client),
        Some(Ok(Spoken::Bytes)) => outbound(worker, service, port, Side::Tcp(client)).await,
        Some(Err(_)) => {}
        None => return server_first(worker, service, port, client).await,
    }
    None
}

/// As [`undeclared`], with a client that has said nothing so far.
async fn server_first(
    worker: &Rc<Worker>,
    service: &Arc<Service>,
    port: u16,
    client: TcpStream,
) -> Option<TcpStream> {
    let mut key = SeriesKey::new(Direction::Outbound, Protocol::Tcp);
    key.service = service.name_id;
    let mut client = End::from(Side::Tcp(client));
    let mut reached = reach(worker, service, port, &mut client, &mut key).await;
    let spoke = match &mut reached {
        // Why there is nobody can be said to HTTP alone.
        Err(_) => within(serve::IDLE_TIME, Box::pin(is_http(&client))).await,
        Ok(reached) => {
            let idle = reached.idle;
            let first = Box::pin(async {
                tokio::select! {
                    is_http = is_http(&client) => is_http,
                    _spoke = reached.server.read_ahead() => false,
                }
            });
            match idle.is_zero() {
                true => Some(first.await),
                false => within(idle, first).await,
            }
        }
    };
    if spoke == Some(true) {
        return client.into_socket();
    }
    key.reason = reached.as_ref().err().map(|error| error.reason);
    let seen = Observation::connection(worker, key, None);
    if let (Ok(reached), Some(_)) = (reached, spoke) {
        carry(client, reached, seen).await;
    }
    None
}

async fn is_http(client: &End) -> bool {
    match client.socket() {
        Some(socket) => detect::look(socket)
            .await
            .is_ok_and(|it| it != Spoken::Bytes),
        None => false,
    }
}

/// A connection to an endpoint and what is held while it lasts.
struct Reached {
    server: End,
    address: SocketAddr,
    /// How long it may carry nothing; zero: for ever.
    idle: Duration,
    _lease: Option<Lease>,
    _permit: ConnectionPermit,
    _in_flight: InFlight,
}

async fn reach(
    worker: &Rc<Worker>,
    service: &Arc<Service>,
    port_number: u16,
    client: &mut End,
    key: &mut SeriesKey,
) -> Result<Reached, Error> {
    let plan = discover::plan(worker, service).await?;
    let port: &PortPlan = discover::port(service, &plan, port_number)?;
    let name = match &port.table {
        Some(TablePlan { names: Some(_), .. }) => server_name(client).await?,
        _ => None,
    };
    let rule = rule(service, port, name.as_deref())?;
    key.route = rule.name_id;
    let backend = route::backend(rule)?;
    let backend_plan = discover::plan(worker, &backend.service).await?;
    if backend.endpoints().is_none() {
        discover::endpoints(worker, &backend.service).await;
    }
    let traffic = &backend_plan.traffic;
    let mut reached = dial(worker, backend, traffic, key).await?;
    if traffic.proxy_protocol {
        let source = client.socket().and_then(|socket| socket.peer_addr().ok());
        let header = proxy_protocol::header(source, reached.address);
        let sent = reached.server.write(header.into()).await;
        sent.map_err(|error| Error::new(Reason::Reset, error.to_string()))?;
    }
    Ok(reached)
}

async fn carry(client: End, reached: Reached, seen: Observation) {
    join(client, reached.server, seen, reached.idle).await;
}

/// The rule in force for a connection; `name` is what a client of TLS asks for.
///
/// # Errors
/// [`Reason::NoRoute`] when none of the routes by name is for it, [`Reason::NoBackend`] when a
/// TCPRoute has no rule.
pub fn rule<'a>(
    service: &Service,
    port: &'a PortPlan,
    name: Option<&str>,
) -> Result<&'a Arc<RulePlan>, Error> {
    match port.table.as_ref().map(|table| (table, &table.names)) {
        Some((table, Some(names))) => route::by_server_name(table, names, name),
        Some((table, None)) if port.declared => {
            let rule = table.entries.first().map(|(_, rule)| &table.rules[*rule]);
            rule.ok_or_else(|| {
                Error::new(Reason::NoBackend, format!("no route of {}", service.key))
            })
        }
        // Routes of HTTP are not for bytes.
        _ => Ok(&port.direct),
    }
}

/// The name that the client asks for in its first message, which is kept.
pub(crate) async fn server_name(client: &mut End) -> Result<Option<String>, Error> {
    let read = Box::pin(async {
        loop {
            match client_hello(client.ahead()) {
                Hello::Whole(name) => return Ok(name),
                Hello::Invalid => return Err(Error::new(Reason::BadRequest, "no TLS comes")),
                Hello::Partial => {}
            }
            if !client.read_ahead().await.is_ok_and(|more| more) {
                return Err(Error::new(Reason::ClientGone, "the client left"));
            }
        }
    });
    within(HANDSHAKE_TIME, read)
        .await
        .unwrap_or_else(|| Err(Error::new(Reason::BadRequest, "no TLS came in time")))
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
            files_end: i32::MAX,
        };
        let started = now_us();
        let connected = reach_endpoint(worker, &target).await;
        let (now, failed) = (now_us(), connected.as_ref().is_err_and(is_endpoints_fault));
        outlier::observe(endpoint, failed, traffic.outlier.as_ref(), &endpoints, now);
        match connected {
            Ok((side, lease)) => {
                endpoint.state.observe(now - started, now);
                return Ok(Reached {
                    server: side.into(),
                    address,
                    idle: Duration::from_millis(traffic.idle_timeout_ms),
                    _lease: lease,
                    _permit: permit,
                    _in_flight: InFlight::begin(endpoint),
                });
            }
            Err(error) if error.reason.retry() == RetrySafety::Always => failure = error,
            Err(error) => return Err(error),
        }
    }
    Err(failure)
}

/// A connection in plaintext, or a tunnel where the endpoint has a sidecar.
async fn reach_endpoint(
    worker: &Rc<Worker>,
    target: &Target,
) -> Result<(Side, Option<Lease>), Error> {
    if target.identity.is_none() {
        return Ok((Side::Tcp(connect_plain(target).await?), None));
    }
    let (tunnel, lease) = tunnels::open(worker, target).await?;
    Ok((Side::Tunnel(tunnel), Some(lease)))
}

/// Whether an error speaks against the endpoint, and not against the caller.
fn is_endpoints_fault(error: &Error) -> bool {
    error.reason.source() == Source::Upstream
}

/// Carry a plain connection of another workload to the application.
/// What it told of itself is told to the application.
pub async fn inbound(
    worker: &Rc<Worker>,
    app: App,
    (caller, told): (&Caller, Option<Told>),
    peer: TcpStream,
) {
    let Ok((app, seen)) = admit(worker, app, caller, Ok(())).await else {
        return;
    };
    let mut app = End::from(Side::Tcp(app));
    let header = told.map(Told::header).unwrap_or_default();
    if app.write(header.into()).await.is_ok() {
        join(Side::Tcp(peer).into(), app, seen, IDLE_TIME).await;
    }
}

/// A connection to the application for `caller`, if policies let it in and nothing was found
/// against it before.
///
/// # Errors
/// Why it is refused; that is recorded already.
pub async fn admit(
    worker: &Rc<Worker>,
    app: App,
    caller: &Caller,
    checked: Result<(), Error>,
) -> Result<(TcpStream, Observation), Reason> {
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
    let connected = match (checked, verdict.action) {
        (Err(error), _) => Err(error.reason),
        (Ok(()), Action::Deny) => Err(Reason::Denied),
        (Ok(()), Action::Allow) => connect_plain(&app.target(worker))
            .await
            .map_err(|_| Reason::AppUnreachable),
    };
    key.reason = connected.as_ref().err().copied();
    let seen = Observation::connection(worker, key, verdict.policy);
    Ok((connected?, seen))
}
