//! The way of a request from another sidecar to the application, step by step.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::Version;
use tokio::net::TcpStream;

use crate::clock::{Clock, End};
use crate::detect::{self, SILENCE_TIME, Spoken};
use crate::downstream::{Downstream, State};
use crate::error::{Error, Reason};
use crate::head::RequestHead;
use crate::observe::Observation;
use crate::observe::metrics::Direction;
use crate::outbound::answer_error;
use crate::record::{Action, MtlsMode, Protocol};
use crate::relay::relay;
use crate::settings::InboundSettings;
use crate::steps::authorize::{Call, authorize};
use crate::steps::{framing, headers, trace};
use crate::timer::{now_us, within};
use crate::tls::SpiffeId;
use crate::tries::{Answered, exchange};
use crate::upload::Upload;
use crate::upstream::Target;
use crate::worker::Worker;

/// Longest time to connect to the application on this machine.
pub const APP_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A port of the application.
#[derive(Clone, Copy, Debug)]
pub struct App {
    /// Unique id, for pools.
    pub id: u64,
    /// The port as policies call it.
    pub port: u16,
    /// What it speaks; on a port that is not declared, in what does not come as bytes.
    pub protocol: Protocol,
    /// Whether it is known without a look at a connection.
    pub declared: bool,
    /// Where it listens.
    pub address: SocketAddr,
    /// Plain connections to it begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// In whose name it is called; `None`: in the sidecar's own.
    pub source: Option<IpAddr>,
}

impl App {
    /// Whether a plain connection to it carries bytes: as declared, or as it begins.
    pub async fn takes_bytes(&self, peer: &TcpStream) -> bool {
        if self.declared {
            return self.protocol == Protocol::Tcp;
        }
        let mut first = [0; 1];
        if within(SILENCE_TIME, Box::pin(peer.peek(&mut first)))
            .await
            .is_none()
        {
            return true;
        }
        let spoken = Box::pin(detect::look(peer)).await;
        !matches!(spoken, Ok(Spoken::Http1 | Spoken::Http2))
    }

    /// The same for a client that speaks HTTP/2: where nobody declared a protocol, the application
    /// is spoken to as its client speaks.
    pub fn in_http2(self) -> App {
        App {
            protocol: self.protocol.spoken_in(Version::HTTP_2, self.declared),
            ..self
        }
    }

    /// The declared port number `index`.
    pub fn declared(index: usize, port: &InboundSettings) -> App {
        App {
            // Endpoints count from 1 upwards, applications from the end downwards.
            id: u64::MAX - index as u64,
            port: port.port,
            protocol: port.protocol.or_http(),
            declared: port.protocol != Protocol::Auto,
            address: port.app,
            proxy_protocol: port.proxy_protocol,
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

    /// The application as a target: plain, limited by nothing but the files that `worker` has for
    /// what comes in.
    pub fn target(&self, worker: &Worker) -> Target {
        Target {
            id: self.id,
            address: self.address,
            identity: None,
            http2: matches!(self.protocol, Protocol::Http2 | Protocol::Grpc),
            connect_timeout: APP_CONNECT_TIMEOUT,
            limits: None,
            source: self.source,
            files_end: worker.shared.inbound_end(worker.shared.inbound()),
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

/// Begin to record a request of `caller`.
pub fn observe(
    worker: &Rc<Worker>,
    app: App,
    caller: &Caller,
    head: Option<&RequestHead>,
) -> Observation {
    let mut seen = Observation::begin(worker, Direction::Inbound, head);
    seen.key.protocol = app.protocol;
    seen.key.peer = caller.name_id;
    seen.key.peer_identity = caller.identity_id;
    seen.key.mtls = caller.id.is_some();
    seen
}

/// Answer one request for the application.
pub async fn handle(
    worker: &Rc<Worker>,
    app: App,
    caller: &Caller,
    mut client: Downstream<'_>,
    mut head: RequestHead,
) -> State {
    let mut seen = observe(worker, app, caller, Some(&head));
    let grpc = head.fields.is_grpc();
    let mut upload = Upload::new(head.length, false);
    upload.begin();
    let carried = carry(
        worker,
        app,
        caller,
        &mut client,
        &mut head,
        &mut upload,
        &mut seen,
    )
    .await;
    match carried {
        Ok(mut answered) => {
            seen.answered(answered.head.status, None);
            seen.look_for_grpc_status(&answered.head.fields);
            headers::strip_own(&mut answered.head.fields);
            let relayed = relay(worker, &mut client, answered, &mut upload, None, &mut seen).await;
            if let Err(error) = relayed {
                seen.key.reason = Some(error.reason);
            }
        }
        Err(error) => {
            seen.request_bytes += upload.sent();
            // The calling sidecar needs the reason, and hides it from its application if asked.
            let show_reason = caller.id.is_some() || worker.shared.settings.reason_header;
            answer_error(&mut client, &error, grpc, show_reason, &mut seen).await;
        }
    }
    client.state()
}

/// The steps in order.
async fn carry(
    worker: &Rc<Worker>,
    app: App,
    caller: &Caller,
    client: &mut Downstream<'_>,
    head: &mut RequestHead,
    upload: &mut Upload,
    seen: &mut Observation,
) -> Result<Answered, Error> {
    framing::check(head)?;
    may_enter(worker, app, caller, head, seen)?;
    headers::strip_own(&mut head.fields);
    trace::ensure(&mut head.fields);
    seen.traced(&head.fields);
    headers::note_switch(head);
    headers::strip_hop_by_hop(&mut head.fields);
    seen.tries = 1;
    let clock = Clock::new(now_us(), 0, End::never());
    exchange(worker, &app.target(worker), head, client, upload, clock)
        .await
        .map_err(unreachable)
}

/// Whether the workload's policies let the request in.
fn may_enter(
    worker: &Rc<Worker>,
    app: App,
    caller: &Caller,
    head: &RequestHead,
    seen: &mut Observation,
) -> Result<(), Error> {
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
            http: Some((head.method.as_str(), head.path())),
            port: app.port,
        },
    );
    seen.policy = verdict.policy;
    if verdict.action == Action::Deny {
        let by = seen.policy.as_deref().map(|name| format!("by {name}"));
        return Err(Error::new(
            Reason::Denied,
            by.unwrap_or_else(|| "no policy allows it".into()),
        ));
    }
    Ok(())
}

/// What never reached the application may be sent to another replica.
fn unreachable(error: Error) -> Error {
    match error.reason {
        Reason::ConnectFailed | Reason::Unsent => Error::new(Reason::AppUnreachable, error.detail),
        _ => error,
    }
}
