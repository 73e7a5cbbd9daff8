//! TCP between sidecars: each connection is a stream of HTTP/2, opened by CONNECT, over mTLS.
//!
//! This is the called side, and what both sides agree on. The calling side keeps its connections
//! in `upstream/tunnels.rs`; `join.rs` carries the bytes.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{HeaderValue, Method, Request, Response};

use crate::error::{Error, Reason};
use crate::inbound::{App, Caller};
use crate::join::{IDLE_TIME, Side, Tunnel, join};
use crate::listen::{Closing, HANDSHAKE_TIME, Open};
use crate::record::Protocol;
use crate::respond::{REASON_HEADER, status};
use crate::serve::{self, Patience, Way};
use crate::timer::within;
use crate::upstream::stream::{Heard, Rewound, Stream};
use crate::worker::Worker;
use crate::{http1, tcp};

/// Most tunnels that a caller opens on one connection.
pub const STREAMS_MAX: usize = 64;
/// Most that a called sidecar lets in: a caller may count one as closed before the other side.
const STREAMS_SERVED: u32 = 2 * STREAMS_MAX as u32;
/// What one tunnel may send ahead of its reader, bytes: whole frames.
pub const STREAM_WINDOW: u32 = 4 * FRAME;
/// What all tunnels of a connection may: a window for each, or some that nobody reads would stop the
/// others.
pub const CONNECTION_WINDOW: u32 = STREAMS_MAX as u32 * STREAM_WINDOW;
/// Largest frame, bytes: with its head it fills four TLS records, as much as `rustls` encrypts at
/// once.
pub const FRAME: u32 = 64 * 1024 - 9;
/// Most bytes of a tunnel that wait to be encrypted.
pub const SEND_BUFFER: usize = 2 * FRAME as usize;
/// What small frames that wait cost together at most, at 256 bytes each less what they hold: an
/// application that writes single bytes to one that does not read must not end the connection of
/// the others.
pub const SMALL_FRAMES: usize = 32 * 1024 * 1024;
/// Largest head: a CONNECT, or its answer.
pub const HEAD_MAX: u32 = 4 * 1024;
/// A connection without a tunnel is closed after this long; its caller does so before.
pub const UNUSED_TIME: Duration = Duration::from_secs(75);
/// Time between pings.
pub const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Serve the tunnels of one connection until its caller leaves, and requests where the port takes
/// any; after `expiry`, or when the sidecar closes, no new one is let in, and those that are open go
/// on.
pub async fn serve(
    worker: &Rc<Worker>,
    app: App,
    caller: Rc<Caller>,
    stream: Stream,
    expiry: impl Future<Output = ()>,
) {
    let Some(port) = stream.local_port() else {
        return;
    };
    let head_max = match app.protocol {
        Protocol::Tcp => HEAD_MAX,
        _ => http1::HEAD_MAX as u32,
    };
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_SERVED)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAMES)
        .max_header_list_size(head_max)
        .enable_connect_protocol();
    let heard = Heard::default();
    let stream = Rewound::new(stream, Vec::new());
    let handshake = Box::pin(builder.handshake::<_, Bytes>(heard.from(stream)));
    let Some(Ok(connection)) = within(HANDSHAKE_TIME, handshake).await else {
        return;
    };
    let way = Way::Inbound(app.in_http2(), caller);
    let patience = Patience {
        heard,
        ping: PING_INTERVAL,
        idle: UNUSED_TIME,
    };
    serve::streams(worker, way, connection, Some(port), patience, expiry).await;
}

/// Whether a stream of another sidecar asks for a tunnel to `app`, or for what is none there: with a
/// protocol a CONNECT is a request (RFC 8441).
pub fn is_asked(app: App, caller: &Caller, request: &Request<RecvStream>) -> bool {
    let bare = request.method() == Method::CONNECT
        && request.extensions().get::<h2::ext::Protocol>().is_none();
    caller.id.is_some() && (bare || app.protocol == Protocol::Tcp)
}

/// Where a CONNECT came in.
pub struct Asked<'a> {
    /// The port of the application.
    pub app: App,
    /// The port that the caller reached.
    pub port: u16,
    /// Who is calling.
    pub caller: &'a Caller,
}

impl Asked<'_> {
    /// Answer one CONNECT, and carry what follows.
    pub async fn answer(
        self,
        worker: &Rc<Worker>,
        request: Request<RecvStream>,
        mut answer: SendResponse<Bytes>,
    ) {
        let _open = Open::count(worker, Closing::Inbound);
        let checked = self.check(worker, &request);
        let mut response = Response::new(());
        match tcp::admit(worker, self.app, self.caller, checked).await {
            Ok((app, seen)) => {
                if let Ok(send) = answer.send_response(response, false) {
                    let receive = request.into_body();
                    let peer = Side::Tunnel(Tunnel { send, receive });
                    join(peer.into(), Side::Tcp(app).into(), seen, IDLE_TIME).await;
                }
            }
            Err(reason) => {
                *response.status_mut() = status(reason);
                let text = HeaderValue::from_static(reason.as_str());
                response.headers_mut().insert(REASON_HEADER, text);
                // The caller has left if it cannot be told.
                let _left = answer.send_response(response, true);
            }
        }
    }

    /// Whether this is a CONNECT to our own port that there is room for.
    fn check(&self, worker: &Rc<Worker>, request: &Request<RecvStream>) -> Result<(), Error> {
        if request.method() != Method::CONNECT {
            return Err(Error::new(Reason::BadRequest, "only CONNECT is known here"));
        }
        if request.uri().port_u16() != Some(self.port) {
            let detail = format!("{} is not served here", request.uri());
            return Err(Error::new(Reason::UnknownPort, detail));
        }
        // The tunnel itself is counted already.
        let shared = &worker.shared;
        if shared.inbound() > shared.inbound_max()
            || shared.metrics.connections.load(Relaxed) > shared.connections_max()
        {
            return Err(Error::new(Reason::PendingLimit, "too many connections"));
        }
        if !worker.shared.has_inbound.load(Relaxed) {
            // Nobody decided against this caller: another replica may serve it.
            return Err(Error::new(Reason::AppUnreachable, "no policy is known yet"));
        }
        Ok(())
    }
}
