//! HTTP on an accepted connection: which version it speaks, then request after request.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::detect::PREFACE;
use crate::discover::{self, Entrance};
use crate::downstream::{Downstream, State};
use crate::error::{Error, Reason};
use crate::fields::Name;
use crate::head::{Length, RequestHead, ResponseHead};
use crate::http1::parse::{self, Framed};
use crate::http1::{Connection, HEAD_MAX, encode};
use crate::http2::keepalive::{Idle, KeepAlive, PING_TIMEOUT};
use crate::http2::{self, CONNECTION_WINDOW, STREAM_SEND_MAX, STREAM_WINDOW, STREAMS_MAX, heads};
use crate::inbound::{self, App, Caller};
use crate::join::Side;
use crate::listen::{Closing, closed};
use crate::observe::Observation;
use crate::observe::metrics::Direction;
use crate::outbound;
use crate::record::Protocol;
use crate::respond::respond;
use crate::side::Broken;
use crate::timer::{Deadline, micros, now_s, now_us, within};
use crate::upstream::stream::{Heard, Rewound};
use crate::worker::Worker;
use crate::{hbone, tcp};

/// Longest time for a head to arrive once it has begun.
pub const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a connection lives between two requests; longer than a client's pool keeps it.
pub const IDLE_TIME: Duration = Duration::from_secs(60);
/// The same in HTTP/2, whose clients keep a connection for long and expect to be told first.
pub const IDLE_TIME_HTTP2: Duration = Duration::from_secs(600);
/// How much of a body that nobody wants is read to keep the connection.
pub const DRAIN_MAX: usize = 256 * 1024;
/// And how long.
pub const DRAIN_TIME: Duration = Duration::from_secs(1);
/// Time between pings to a client with open streams.
pub const PING_INTERVAL: Duration = Duration::from_secs(60);

/// Where requests of a connection go.
#[derive(Clone, Debug)]
pub enum Way {
    /// From the application to a service.
    Outbound(Entrance),
    /// From a caller to the application.
    Inbound(App, Rc<Caller>),
}

impl Way {
    /// How far the sidecar has closed when these connections end.
    fn closes(&self) -> Closing {
        match self {
            Way::Outbound(_) => Closing::All,
            Way::Inbound(..) => Closing::Inbound,
        }
    }

    /// Begin to record a request that is not let in; `None`: it has no head that can be read.
    fn observe(&self, worker: &Rc<Worker>, head: Option<&RequestHead>) -> Observation {
        match self {
            Way::Outbound(_) => Observation::begin(worker, Direction::Outbound, head),
            Way::Inbound(app, caller) => inbound::observe(worker, *app, caller, head),
        }
    }

    async fn handle(
        &self,
        worker: &Rc<Worker>,
        client: Downstream<'_>,
        head: RequestHead,
    ) -> State {
        match self {
            Way::Outbound(entrance) => outbound::handle(worker, entrance, client, head).await,
            Way::Inbound(app, caller) => inbound::handle(worker, *app, caller, client, head).await,
        }
    }
}

/// A client that is to be served. Whoever finds out that it speaks HTTP hands it on, so that nothing
/// of what that took is held while the connection lives.
#[derive(Debug)]
pub struct Client {
    way: Way,
    connection: Connection,
    /// When the request at hand becomes the last, microseconds of [`now_us`].
    expires_us: Option<u64>,
    /// Whether it may still turn out to speak HTTP/2.
    undecided: bool,
}

impl Client {
    /// At the other end of `connection`, with the version agreed on.
    pub fn new(way: Way, connection: Connection, expires_us: Option<u64>) -> Box<Client> {
        Box::new(Client {
            way,
            connection,
            expires_us,
            undecided: false,
        })
    }

    /// At the other end of `connection`, of the version that it begins with.
    pub fn undecided(way: Way, connection: Connection) -> Box<Client> {
        let mut client = Client::new(way, connection, None);
        client.undecided = true;
        client
    }

    /// Whether no further request is to be waited for.
    fn is_last(&self, worker: &Worker) -> bool {
        *worker.shared.closing.borrow() >= self.way.closes()
            || self.expires_us.is_some_and(|end| now_us() >= end)
    }
}

/// The version that the client's first bytes are of; `None`: it left, or sends none.
async fn version(worker: &Worker, connection: &mut Connection) -> Option<http::Version> {
    let mut deadline = Deadline::after(IDLE_TIME);
    let mut is_preface = false;
    std::future::poll_fn(|cx| {
        let begun = connection.poll_until(cx, |input| {
            let shorter = input.len().min(PREFACE.len());
            is_preface = input[..shorter] == PREFACE[..shorter];
            Ok::<_, Broken>(!is_preface || shorter == PREFACE.len())
        });
        match begun {
            Poll::Ready(Ok(true)) if is_preface => Poll::Ready(Some(http::Version::HTTP_2)),
            Poll::Ready(Ok(true)) => Poll::Ready(Some(http::Version::HTTP_11)),
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending if *worker.shared.closing.borrow() == Closing::All => Poll::Ready(None),
            Poll::Pending => Pin::new(&mut deadline).poll(cx).map(|()| None),
        }
    })
    .await
}

/// Serve HTTP until the client leaves; when it expires, or the sidecar closes, the request at hand
/// is the last.
pub async fn client(worker: &Rc<Worker>, mut client: Box<Client>) {
    loop {
        if client.undecided {
            match version(worker, &mut client.connection).await {
                Some(http::Version::HTTP_2) => return Box::pin(begun_http2(worker, client)).await,
                Some(_) => client.undecided = false,
                None => return,
            }
        }
        let came = next_head(worker, &mut client).await;
        if matches!(came, Ok(None)) {
            return;
        }
        // Boxed, so that an idle connection does not hold the room that a request needs.
        let Some(next) = Box::pin(answer(worker, client, came)).await else {
            return;
        };
        client = next;
    }
}

/// Answer a request, or what is none; the client of the next one is handed back.
async fn answer(
    worker: &Rc<Worker>,
    mut client: Box<Client>,
    came: Result<Option<Framed<RequestHead>>, Error>,
) -> Option<Box<Client>> {
    let connection = &mut client.connection;
    let Framed {
        head,
        body,
        persistent,
        ..
    } = match came {
        Ok(framed) => framed?,
        Err(error) => {
            let seen = client.way.observe(worker, None);
            Box::pin(refuse(connection, &error, seen)).await;
            return None;
        }
    };
    connection.expect_body(body);
    if head.method == Method::CONNECT
        && let Way::Outbound(Entrance::Proxy) = &client.way
    {
        return Box::pin(tunnel(worker, client, head)).await;
    }
    let last = client.is_last(worker) || worker.shared.leaving.load(Relaxed);
    let asked = encode::Asked {
        head: head.method == Method::HEAD,
        old: head.version == http::Version::HTTP_10,
        persistent: persistent && !last,
        expects: head.length != Length::None && head.fields.has(Name::Expect),
    };
    let asker = Downstream::on_connection(&mut client.connection, asked);
    let state = client.way.handle(worker, asker, head).await;
    let carries_on = carries_on(&mut client.connection, state, persistent).await;
    carries_on.then_some(client)
}

/// The next head; `None`: the connection is over, or should be.
///
/// # Errors
/// What is wrong with the head.
async fn next_head(
    worker: &Worker,
    client: &mut Client,
) -> Result<Option<Framed<RequestHead>>, Error> {
    let mut waits: Option<(bool, Deadline)> = None;
    std::future::poll_fn(|cx| {
        match client.connection.poll_head(cx, parse::request) {
            // What breaks before a head is whole needs no answer.
            Poll::Ready(Err(error)) if error.reason == Reason::ClientGone => {
                return Poll::Ready(Ok(None));
            }
            Poll::Ready(head) => return Poll::Ready(head),
            Poll::Pending => {}
        }
        let begun = client.connection.has_input();
        if !begun && client.is_last(worker) {
            return Poll::Ready(Ok(None));
        }
        let (_, deadline) = match &mut waits {
            Some(waits) if waits.0 == begun => waits,
            other => other.insert((begun, deadline(begun, client.expires_us))),
        };
        ready!(Pin::new(deadline).poll(cx));
        Poll::Ready(match begun {
            true => Err(Error::new(Reason::ClientTimeout, "the head took too long")),
            false => Ok(None),
        })
    })
    .await
}

fn deadline(begun: bool, expires_us: Option<u64>) -> Deadline {
    let limit = if begun { HEAD_TIME } else { IDLE_TIME };
    let end_us = now_us() + micros(limit);
    Deadline::at_us(match expires_us {
        Some(expires_us) if !begun => end_us.min(expires_us),
        _ => end_us,
    })
}

/// Whether another request may follow on the connection; `persistent`: for its client it may.
async fn carries_on(connection: &mut Connection, state: State, persistent: bool) -> bool {
    let State::Answered { kept } = state else {
        return false;
    };
    if !kept {
        // From who asked for the end, and got all of its answer, nothing more comes.
        let is_over = !persistent && connection.is_read() && connection.is_quiet();
        let most = if is_over { 0 } else { DRAIN_MAX };
        let _late = within(DRAIN_TIME, Box::pin(connection.linger(most))).await;
        return false;
    }
    if connection.is_read() {
        return true;
    }
    // The answer came before the end of a body that nobody wants.
    let drained = within(DRAIN_TIME, Box::pin(drain(connection))).await;
    if drained != Some(true) {
        // What it still sends would be met by a reset, which may take the answer with it.
        let _late = within(DRAIN_TIME, Box::pin(connection.linger(DRAIN_MAX))).await;
    }
    drained == Some(true)
}

/// Read the rest of a body, up to a bound; `false`: it is longer, or broken.
async fn drain(connection: &mut Connection) -> bool {
    let mut left = DRAIN_MAX;
    std::future::poll_fn(|cx| {
        loop {
            match ready!(connection.poll_fill(cx)) {
                Ok(true) if left > 0 => {
                    let count = connection.data().len();
                    connection.consume(count);
                    left = left.saturating_sub(count);
                }
                Ok(true) | Err(_) => return Poll::Ready(false),
                Ok(false) => return Poll::Ready(true),
            }
        }
    })
    .await
}

/// Answer what is no request, and end the connection.
async fn refuse(connection: &mut Connection, error: &Error, mut seen: Observation) {
    let (mut head, text) = respond(error, false, seen.shows_reason());
    seen.answered(head.status, Some(error.reason));
    drop(seen);
    head.length = Length::Exact(text.len() as u64);
    head.fields
        .append(b"content-length", text.len().to_string().as_bytes());
    let asked = encode::Asked {
        head: false,
        old: false,
        persistent: false,
        expects: false,
    };
    encode::response(connection.out(), &head, asked);
    connection.out().extend_from_slice(text.as_bytes());
    let _late = within(DRAIN_TIME, Box::pin(connection.linger(DRAIN_MAX))).await;
}

/// CONNECT to a service: the tunnel carries what the service's port speaks. HTTP in it is served
/// as if it came by an address that stands for the service.
async fn tunnel(
    worker: &Rc<Worker>,
    client: Box<Client>,
    head: RequestHead,
) -> Option<Box<Client>> {
    let mut connection = client.connection;
    let authority = head.authority().unwrap_or_default();
    let found = async {
        let (service, port) = discover::by_host(worker, authority)?;
        service.last_used_s.store(now_s(), Relaxed);
        let plan = discover::plan(worker, &service).await?;
        let spoken = discover::port(&service, &plan, port)?;
        // Who asks for a tunnel to what nobody declared gets one of bytes.
        let is_bytes = spoken.protocol == Protocol::Tcp || !spoken.declared;
        Ok((service, port, is_bytes))
    };
    match Box::pin(found).await {
        Err(error) => {
            let seen = client.way.observe(worker, Some(&head));
            refuse(&mut connection, &error, seen).await;
            None
        }
        Ok((service, port, is_bytes)) => {
            let head = ResponseHead::new(http::StatusCode::OK, Length::None);
            encode::interim(connection.out(), &head, None);
            let flushed = std::future::poll_fn(|cx| connection.poll_flush(cx, false));
            flushed.await.ok()?;
            let (stream, read) = connection.into_parts();
            if is_bytes {
                let client = Side::Other(Box::new(Rewound::new(stream, read)));
                Box::pin(tcp::outbound(worker, &service, port, client)).await;
                return None;
            }
            // No address stands for the service here: its Host is what the application wrote.
            let local = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
            let way = Way::Outbound(Entrance::service(worker, service, port, local));
            Some(Client::undecided(way, Connection::resumed(stream, read)))
        }
    }
}

/// Serve HTTP/2 to a client that has begun with it.
async fn begun_http2(worker: &Rc<Worker>, client: Box<Client>) {
    let Client {
        way, connection, ..
    } = *client;
    let (stream, read) = connection.into_parts();
    let stream = Rewound::new(stream, read);
    let way = match way {
        Way::Inbound(app, caller) => Way::Inbound(app.in_http2(), caller),
        Way::Outbound(_) => way,
    };
    http2(worker, way, stream, std::future::pending()).await;
}

/// Serve HTTP/2: after `expiry`, or when the sidecar closes, no stream is added.
pub async fn http2(
    worker: &Rc<Worker>,
    way: Way,
    stream: Rewound,
    expiry: impl Future<Output = ()>,
) {
    let port = stream.local_port();
    let heard = Heard::default();
    let handshake = h2::server::Builder::new()
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buffer_size(STREAM_SEND_MAX)
        .max_header_list_size(HEAD_MAX as u32)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .enable_connect_protocol()
        .handshake(heard.from(stream));
    let Some(Ok(connection)) = within(HEAD_TIME, Box::pin(handshake)).await else {
        return;
    };
    let patience = Patience {
        heard,
        ping: PING_INTERVAL,
        idle: IDLE_TIME_HTTP2,
    };
    streams(worker, way, connection, port, patience, expiry).await;
}

/// How long a connection of HTTP/2 may be silent.
#[derive(Debug)]
pub struct Patience {
    /// Whether its client was heard from.
    pub heard: Heard,
    /// Time between pings while it has streams.
    pub ping: Duration,
    /// Longest time without a stream.
    pub idle: Duration,
}

/// Serve the streams of a connection whose client reached `port`, until it leaves; it is told to
/// when it was idle for too long, after `expiry`, or when the sidecar closes.
pub async fn streams(
    worker: &Rc<Worker>,
    way: Way,
    mut connection: h2::server::Connection<impl AsyncRead + AsyncWrite + Unpin, Bytes>,
    port: Option<u16>,
    patience: Patience,
    expiry: impl Future<Output = ()>,
) {
    let mut alive = KeepAlive::new(connection.ping_pong(), patience.heard, patience.ping);
    let mut closing = worker.shared.closing.subscribe();
    let closes = way.closes();
    let mut over = std::pin::pin!(async {
        tokio::select! {
            () = expiry => {}
            () = closed(&mut closing, closes) => {}
        }
    });
    let mut ending = false;
    let mut idle = Idle::new(patience.idle);
    let way = Rc::new(way);
    loop {
        let accepted = std::future::poll_fn(|cx: &mut Context<'_>| {
            let busy = connection.has_streams();
            if !ending && (idle.poll(cx, busy).is_ready() || over.as_mut().poll(cx).is_ready()) {
                ending = true;
                connection.graceful_shutdown();
                idle = Idle::new(PING_TIMEOUT);
            }
            if let Poll::Ready(accepted) = connection.poll_accept(cx) {
                return Poll::Ready(accepted);
            }
            // Who is told to leave and does not has gone already.
            if ending && idle.poll(cx, busy).is_ready() {
                return Poll::Ready(None);
            }
            alive.poll(cx, busy).map(|()| None)
        });
        // What the client did wrong was answered already.
        let Some(Ok((request, respond))) = accepted.await else {
            return;
        };
        // Boxed, since a task is moved several times before it runs and when it ends.
        worker.spawn(Box::pin(on_stream(
            Rc::clone(worker),
            Rc::clone(&way),
            port,
            request,
            respond,
        )));
    }
}

/// Serve one stream, a request or a tunnel; `port`: the one that the client reached.
pub async fn on_stream(
    worker: Rc<Worker>,
    way: Rc<Way>,
    port: Option<u16>,
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    if let (&Way::Inbound(app, ref caller), Some(port)) = (&*way, port)
        && hbone::is_asked(app, caller, &request)
    {
        let asked = hbone::Asked { app, port, caller };
        return Box::pin(asked.answer(&worker, request, respond)).await;
    }
    let ended = request.body().is_end_stream();
    let Ok(head) = heads::request(&request, ended) else {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        return;
    };
    let mut stream = http2::Stream::default();
    stream.receive(request.into_body());
    let client = Downstream::on_stream(respond, stream, head.method == Method::HEAD);
    way.handle(&worker, client, head).await;
}
