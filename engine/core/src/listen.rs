//! Listeners and what becomes of an accepted connection: bytes, HTTP/1.1 or HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::accept::{Accepted, authenticate};
use crate::discover::{self, Entrance};
use crate::error::{Error, Reason};
use crate::inbound::{self, App, Caller};
use crate::intercept::{self, Way};
use crate::outbound;
use crate::plan::service::Service;
use crate::record::Protocol;
use crate::respond::{Asked, respond};
use crate::tcp;
use crate::timer::{CoarseTimer, Deadline, now_s, within};
use crate::upstream::body::ResponseBody;
use crate::upstream::http1::BUFFER_MAX;
use crate::upstream::http2::LocalExecutor;
use crate::upstream::stream::Stream;
use crate::worker::Worker;

/// Most open connections of a sidecar; further ones are closed at once.
pub const CONNECTIONS_MAX: i64 = 16_384;
/// Longest time for a head to arrive, and for an idle connection to live.
pub const HEAD_TIME: Duration = Duration::from_secs(60);
/// Longest time for the first bytes, or a handshake.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Pause after an accept failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Most streams of an HTTP/2 connection at once: as many as requests to a service by default.
const STREAMS_MAX: u32 = 1024;
/// Most bytes of a stream that wait for a slow client.
const STREAM_SEND_MAX: usize = 64 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// How the client preface of HTTP/2 begins (RFC 9113 §3.4), and no method does.
const PREFACE: &[u8] = b"PRI";

/// What a request is answered with.
type Answer = Result<Response<ResponseBody>, std::convert::Infallible>;

/// What a listener is for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// The HTTP proxy of the application.
    Proxy,
    /// A local address that stands for a service.
    Service(Arc<Service>, u16),
    /// A port of the application, for other sidecars.
    Inbound(App),
    /// What the kernel leads here although it was meant for somebody else.
    Intercepted(Way),
}

/// Bind `address` once per worker thread; the kernel spreads connections over them.
///
/// # Errors
/// The address is in use or may not be bound; the message names it.
pub fn bind(address: SocketAddr, workers: usize) -> Result<Vec<std::net::TcpListener>, String> {
    let mut bound = Vec::with_capacity(workers);
    let mut exact = address;
    for _ in 0..workers {
        let listener = bind_one(exact, workers > 1)
            .map_err(|error| format!("cannot listen on {exact}: {error}"))?;
        exact = listener
            .local_addr()
            .map_err(|error| format!("{exact}: {error}"))?;
        bound.push(listener);
    }
    Ok(bound)
}

fn bind_one(address: SocketAddr, share: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(SocketProtocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accept until the sidecar closes.
pub async fn serve(worker: Rc<Worker>, purpose: Purpose, listener: std::net::TcpListener) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    let closes = match purpose {
        Purpose::Inbound(_) | Purpose::Intercepted(Way::In) => Closing::Inbound,
        Purpose::Proxy | Purpose::Service(..) | Purpose::Intercepted(_) => Closing::All,
    };
    let mut closing = worker.shared.closing.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed(&mut closing, closes) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                if worker.shared.metrics.connections.load(Relaxed) < CONNECTIONS_MAX {
                    let open = Open::count(&worker, closes);
                    tokio::task::spawn_local(connection(open, purpose.clone(), stream));
                }
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// How far a sidecar has closed. What comes in ends first: to answer what is open, the
/// application may have to call others until the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closing {
    /// It is open.
    Nothing,
    /// Connections of other sidecars end.
    Inbound,
    /// Those of the application, too.
    All,
}

/// Counts a connection, or what it became after a switch of protocols, while it is open.
#[derive(Debug)]
pub struct Open {
    worker: Rc<Worker>,
    closes: Closing,
}

impl Open {
    /// Count one that ends when the sidecar has closed as far as `closes`.
    pub fn count(worker: &Rc<Worker>, closes: Closing) -> Open {
        worker.shared.metrics.connections.fetch_add(1, Relaxed);
        if closes == Closing::Inbound {
            worker.shared.inbound_connections.fetch_add(1, Relaxed);
        }
        Open {
            worker: Rc::clone(worker),
            closes,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let shared = &self.worker.shared;
        shared.metrics.connections.fetch_sub(1, Relaxed);
        if self.closes == Closing::Inbound {
            shared.inbound_connections.fetch_sub(1, Relaxed);
        }
    }
}

/// When the sidecar has closed as far as `closes`; at once, if it is gone.
pub async fn closed(closing: &mut watch::Receiver<Closing>, closes: Closing) {
    let _closed = closing.wait_for(|closing| *closing >= closes).await;
}

async fn connection(open: Open, purpose: Purpose, stream: TcpStream) {
    let worker = &open.worker;
    // Without it small answers wait for acknowledgements; a socket that refuses is broken anyway.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    match purpose {
        Purpose::Proxy => plain_http(worker, &Entrance::Proxy, stream).await,
        Purpose::Service(service, port) => serve_service(worker, (service, port), stream).await,
        Purpose::Inbound(app) => serve_inbound(worker, app, stream).await,
        Purpose::Intercepted(way) => intercept::serve(worker, way, stream).await,
    }
}

/// A connection of the application to a port of a service.
pub async fn serve_service(worker: &Rc<Worker>, to: (Arc<Service>, u16), stream: TcpStream) {
    let (service, port) = to;
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let plan = discover::plan(worker, &service).await.ok();
    match plan.and_then(|plan| plan.port(port).map(|port| port.protocol)) {
        Some(Protocol::Tcp) => Box::pin(tcp::outbound(worker, &service, port, stream)).await,
        _ => plain_http(worker, &Entrance::service(service, port, local), stream).await,
    }
}

/// HTTP of the application: version 2 if the client begins with its preface.
async fn plain_http(worker: &Rc<Worker>, entrance: &Entrance, stream: TcpStream) {
    match within(HEAD_TIME, Box::pin(peek_preface(&stream))).await {
        Some(Ok(true)) => Box::pin(outbound_http2(worker, entrance, stream)).await,
        Some(Ok(false)) => Box::pin(outbound_http1(worker, entrance, stream)).await,
        _ => {}
    }
}

/// Whether the first bytes are the preface of HTTP/2. An error also when nothing comes.
async fn peek_preface(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[..seen] != PREFACE[..seen] {
            return Ok(false);
        }
        if seen == PREFACE.len() {
            return Ok(true);
        }
        // The rest of three bytes is on its way; readiness would be reported at once again.
        Deadline::after(Duration::from_millis(1)).await;
    }
}

async fn outbound_http1<S>(worker: &Rc<Worker>, entrance: &Entrance, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handle = |request: Request<Incoming>| -> Pin<Box<dyn Future<Output = Answer>>> {
        // Boxed, so that an idle connection does not hold the room that a request needs.
        let worker = Rc::clone(worker);
        if request.method() == Method::CONNECT {
            return Box::pin(async move { Ok(connect(&worker, request).await) });
        }
        Box::pin(outbound::handle(worker, entrance.clone(), request))
    };
    drive_http1(worker, stream, handle, Closing::All, std::future::pending()).await;
}

async fn outbound_http2<S>(worker: &Rc<Worker>, entrance: &Entrance, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (handler, entrance) = (Rc::clone(worker), entrance.clone());
    let handle = move |request: Request<Incoming>| {
        outbound::handle(Rc::clone(&handler), entrance.clone(), request)
    };
    drive_http2(worker, stream, handle, Closing::All, std::future::pending()).await;
}

/// CONNECT to a service: the tunnel carries what the service's port speaks.
async fn connect(worker: &Rc<Worker>, mut request: Request<Incoming>) -> Response<ResponseBody> {
    let asked = Asked::of(&request);
    let found = async {
        let authority = request
            .uri()
            .authority()
            .map(|authority| authority.as_str().to_owned());
        let authority =
            authority.ok_or_else(|| Error::new(Reason::BadRequest, "CONNECT names no host"))?;
        let (service, port) = discover::by_host(worker, &authority)?;
        service.last_used_s.store(now_s(), Relaxed);
        let plan = discover::plan(worker, &service).await?;
        let protocol = discover::port(&service, &plan, port)?.protocol;
        Ok((service, port, protocol))
    };
    match found.await {
        Err(error) => respond(&error, asked, worker.shared.settings.reason_header),
        Ok((service, port, protocol)) => {
            let upgraded = hyper::upgrade::on(&mut request);
            let open = Open::count(worker, Closing::All);
            tokio::task::spawn_local(async move {
                let worker = &open.worker;
                let Ok(upgraded) = upgraded.await else { return };
                let stream = TokioIo::new(upgraded);
                if protocol == Protocol::Tcp {
                    tcp::outbound(worker, &service, port, stream).await;
                } else {
                    tunnelled_http(worker, service, port, stream).await;
                }
            });
            Response::new(ResponseBody::full(bytes::Bytes::new()))
        }
    }
}

async fn tunnelled_http<S>(worker: &Rc<Worker>, service: Arc<Service>, port: u16, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut first = [0; PREFACE.len()];
    let read = within(HANDSHAKE_TIME, Box::pin(stream.read_exact(&mut first))).await;
    if !matches!(read, Some(Ok(_))) {
        return;
    }
    // No address stands for the service here: its Host is what the application wrote.
    let entrance = Entrance::service(service, port, SocketAddr::from(([0, 0, 0, 0], 0)));
    let stream = Rewound {
        first,
        given: 0,
        stream,
    };
    if first == PREFACE {
        outbound_http2(worker, &entrance, stream).await;
    } else {
        outbound_http1(worker, &entrance, stream).await;
    }
}

/// A connection of another sidecar, or a plain one where the workload lets it in.
pub async fn serve_inbound(worker: &Rc<Worker>, app: App, stream: TcpStream) {
    // Boxed: what a handshake needs is not kept while the connection lives.
    match Box::pin(authenticate(worker, app, stream)).await {
        Some(Accepted {
            stream,
            caller,
            expiry,
        }) => {
            let expiry = async move {
                match expiry {
                    Some(expiry) => expiry.await,
                    None => std::future::pending().await,
                }
            };
            serve_app(worker, app, caller, stream, expiry).await;
        }
        None => {
            worker
                .shared
                .metrics
                .refused_connections
                .fetch_add(1, Relaxed);
        }
    }
}

async fn serve_app(
    worker: &Rc<Worker>,
    app: App,
    caller: Rc<Caller>,
    stream: Stream,
    expiry: impl Future<Output = ()>,
) {
    match app.protocol {
        // Bytes cannot be asked to end: such a connection lives on as it was authenticated.
        Protocol::Tcp => Box::pin(tcp::inbound(worker, app, &caller, stream)).await,
        Protocol::Http => {
            let handle = |request: Request<Incoming>| {
                Box::pin(inbound::handle(
                    Rc::clone(worker),
                    app,
                    Rc::clone(&caller),
                    request,
                ))
            };
            Box::pin(drive_http1(
                worker,
                stream,
                handle,
                Closing::Inbound,
                expiry,
            ))
            .await;
        }
        Protocol::Http2 | Protocol::Grpc => {
            let handler = Rc::clone(worker);
            let handle = move |request: Request<Incoming>| {
                inbound::handle(Rc::clone(&handler), app, Rc::clone(&caller), request)
            };
            Box::pin(drive_http2(
                worker,
                stream,
                handle,
                Closing::Inbound,
                expiry,
            ))
            .await;
        }
    }
}

/// Serve HTTP/1.1 until the client leaves; after `expiry`, or when the sidecar closes as far
/// as `closes`, the request at hand is the last.
async fn drive_http1<S, F, R>(
    worker: &Rc<Worker>,
    stream: S,
    handle: F,
    closes: Closing,
    expiry: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Answer>,
{
    let connection = http1::Builder::new()
        .timer(CoarseTimer)
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(BUFFER_MAX)
        .writev(false)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service_fn(handle))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let mut closing = worker.shared.closing.subscribe();
    tokio::select! {
        biased;
        // What the client did wrong was answered already.
        _ended = &mut connection => return,
        () = expiry => {}
        () = closed(&mut closing, closes) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ended = connection.await;
}

/// As [`drive_http1`], for HTTP/2.
async fn drive_http2<S, F, R>(
    worker: &Rc<Worker>,
    stream: S,
    handle: F,
    closes: Closing,
    expiry: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    F: Fn(Request<Incoming>) -> R + 'static,
    R: Future<Output = Answer> + 'static,
{
    let connection = http2::Builder::new(LocalExecutor)
        .timer(CoarseTimer)
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buf_size(STREAM_SEND_MAX)
        .max_header_list_size(u32::try_from(BUFFER_MAX).unwrap_or(u32::MAX))
        .auto_date_header(false)
        .keep_alive_interval(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), service_fn(handle));
    let mut connection = std::pin::pin!(connection);
    let mut closing = worker.shared.closing.subscribe();
    tokio::select! {
        biased;
        _ended = &mut connection => return,
        () = expiry => {}
        () = closed(&mut closing, closes) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ended = connection.await;
}

/// A stream whose first bytes were read already.
struct Rewound<S> {
    first: [u8; PREFACE.len()],
    given: usize,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.given < self.first.len() {
            let count = buffer.remaining().min(self.first.len() - self.given);
            buffer.put_slice(&self.first[self.given..self.given + count]);
            self.given += count;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
