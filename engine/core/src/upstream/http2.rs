//! The HTTP/2 connections of a thread: one per endpoint is shared by all its requests, and a further
//! one is opened when its streams are used up.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::StatusCode;
use tokio::sync::Notify;

use super::Target;
use super::connect::{Alpn, ConnectionPermit, PendingPermit, connect};
use super::pool::{IDLE_TIME, Key};
use super::stream::{Heard, Rewound};
use crate::error::{Error, Reason};
use crate::head::{Length, RequestHead, ResponseHead};
use crate::http1::HEAD_MAX;
use crate::http2::keepalive::KeepAlive;
use crate::http2::{CONNECTION_WINDOW, STREAM_SEND_MAX, STREAM_WINDOW, STREAMS_MAX, Stream, heads};
use crate::timer::{micros, now_us, until, within};
use crate::worker::Worker;

/// Most connections of a thread to one endpoint: a peer that takes few streams at once has several.
pub const CONNECTIONS_MAX: usize = 16;
/// How many streams a connection takes until its peer has said it: more than any can say.
const UNSETTLED: usize = usize::MAX - 1;
/// Time between pings while requests are open.
pub const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long the first stream waits for them: ahead of settings that let none begin it would be kept
/// back for ever. A peer that is slow to say them gets it nevertheless.
pub const SETTINGS_TIME: Duration = Duration::from_millis(100);

/// The connections of a thread to one endpoint.
#[derive(Debug, Default)]
struct Slot {
    connections: RefCell<Vec<Rc<Connection>>>,
    /// One is being opened: they are opened one after the other.
    opening: Cell<bool>,
    /// How the last attempt to connect failed, and when: who waited for it shares its end, or
    /// all would wait for one connection after the other.
    failed: RefCell<Option<(u64, Reason, String)>>,
    freed: Rc<Notify>,
}

/// What its task and its requests know of a connection.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Bytes>,
    /// When it was opened.
    since_us: u64,
    expires_us: Option<u64>,
    /// When a stream last began or ended.
    used_us: Cell<u64>,
    closed: Cell<bool>,
    streams: Cell<usize>,
    /// Most streams at once, as the peer has said; `None`: it has said nothing yet.
    streams_max: Cell<Option<usize>>,
    /// Whether the peer has said that it takes an extended CONNECT.
    switches: Cell<bool>,
    /// Tells who waits for it that the peer has said either, or closed.
    settled: Notify,
    /// Tells those who wait for a stream to the endpoint.
    freed: Rc<Notify>,
}

impl Connection {
    fn is_usable(&self, now_us: u64) -> bool {
        !self.closed.get() && self.expires_us.is_none_or(|end| now_us < end)
    }

    fn has_room(&self) -> bool {
        self.streams.get() < self.streams_max.get().unwrap_or(1)
    }

    /// Wait for the peer's settings, at most as long as the first stream does.
    async fn settle(&self) {
        let settled = self.settled.notified();
        if self.streams_max.get().is_none() && !self.closed.get() {
            let _late = within(SETTINGS_TIME, pin!(settled)).await;
        }
    }

    /// The peer has said that it takes no more streams.
    fn is_left(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.sender.clone().poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    fn learn(&self, announced: usize) {
        let most = (announced != UNSETTLED).then(|| announced.min(STREAMS_MAX as usize));
        // It cannot be taken back (RFC 8441 §3).
        let switches = self.switches.get() || self.sender.is_extended_connect_protocol_enabled();
        let before = (
            self.streams_max.replace(most),
            self.switches.replace(switches),
        );
        if before != (most, switches) {
            self.settled.notify_waiters();
            self.freed.notify_waiters();
        }
    }

    fn close(&self) {
        self.closed.set(true);
        self.settled.notify_waiters();
        self.freed.notify_waiters();
    }
}

/// A stream on a connection; given back when dropped.
#[derive(Debug)]
struct Lease(Rc<Connection>);

impl Lease {
    fn take(connection: &Rc<Connection>) -> Lease {
        connection.streams.set(connection.streams.get() + 1);
        connection.used_us.set(now_us());
        Lease(Rc::clone(connection))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.used_us.set(now_us());
        self.0.freed.notify_one();
    }
}

/// What a look at an endpoint's connections finds.
enum Look {
    Room(Lease),
    /// A connection is being opened, or its peer has yet to say how many streams it takes.
    Soon,
    /// All are full, and there may be a further one.
    Few,
    /// All are full.
    Full,
}

impl Slot {
    fn look(&self) -> Look {
        let now = now_us();
        let mut connections = self.connections.borrow_mut();
        let has_room = |one: &&Rc<Connection>| one.is_usable(now) && one.has_room();
        if let Some(connection) = connections.iter().find(has_room) {
            return Look::Room(Lease::take(connection));
        }
        connections.retain(|one| one.is_usable(now) && !one.is_left());
        let is_new = |one: &Rc<Connection>| one.streams_max.get().is_none();
        if self.opening.get() || connections.iter().any(is_new) {
            Look::Soon
        } else if connections.len() < CONNECTIONS_MAX {
            Look::Few
        } else {
            Look::Full
        }
    }
}

/// The HTTP/2 connections of a thread.
#[derive(Debug, Default)]
pub struct Connections(RefCell<HashMap<Key, Rc<Slot>, ahash::RandomState>>);

impl Connections {
    fn slot(&self, key: Key) -> Rc<Slot> {
        Rc::clone(self.0.borrow_mut().entry(key).or_default())
    }

    /// Forget connections that are closed or ran out, which end with their last stream, and those
    /// that had none for [`IDLE_TIME`].
    pub fn sweep(&self) {
        let now = now_us();
        let oldest = now.saturating_sub(micros(IDLE_TIME));
        self.0.borrow_mut().retain(|_, slot| {
            let mut connections = slot.connections.borrow_mut();
            connections.retain(|one| {
                let is_used = one.streams.get() > 0 || one.used_us.get() > oldest;
                one.is_usable(now) && is_used
            });
            !connections.is_empty() || Rc::strong_count(slot) > 1
        });
    }
}

/// A request on a stream of its own.
#[derive(Debug)]
pub struct OnStream {
    response: ResponseFuture,
    switch: Option<Box<heads::Switch>>,
    _lease: Lease,
    /// What goes and comes.
    pub stream: Stream,
}

/// Begin a request on a connection to `target`, opening one if need be.
///
/// # Errors
/// As [`connect`], that no stream became free, or that the request did not leave.
pub async fn begin(
    worker: &Rc<Worker>,
    target: &Target,
    head: &RequestHead,
    switch: Option<&[u8]>,
) -> Result<OnStream, Error> {
    let slot = worker.http2.slot(Key::of(target));
    loop {
        let (lease, fresh) = lease(worker, target, &slot).await?;
        let mut sender = match lease.0.sender.clone().ready().await {
            Ok(sender) => sender,
            // The peer has said that it leaves, or is gone: its streams may go on for long.
            Err(_) if !fresh => {
                lease.0.close();
                continue;
            }
            Err(error) => return Err(Error::new(Reason::Unsent, error.to_string())),
        };
        if switch.is_some() {
            may_switch(&lease.0, target).await?;
        }
        let request = heads::to_request(head, switch, target.address)?;
        let ended = head.length == Length::None && switch.is_none();
        match sender.send_request(request, ended) {
            Ok((response, send)) => {
                let mut stream = Stream::default();
                if !ended {
                    stream.send_to(send);
                }
                return Ok(OnStream {
                    response,
                    switch: heads::Switch::of(head).map(Box::new),
                    _lease: lease,
                    stream,
                });
            }
            Err(error) if fresh || error.is_reset() => return Err(lost(&error)),
            Err(_) => lease.0.close(),
        }
    }
}

/// Wait until the peer has said that it takes an extended CONNECT; a new connection has yet to
/// hear of it (RFC 8441 §3).
async fn may_switch(connection: &Connection, target: &Target) -> Result<(), Error> {
    let end_us = connection
        .since_us
        .saturating_add(micros(target.connect_timeout));
    let said = pin!(async {
        while !connection.switches.get() && !connection.closed.get() {
            connection.settled.notified().await;
        }
    });
    until(end_us, said).await.ok_or_else(|| {
        let detail = "a service on HTTP/2 that cannot switch protocols";
        Error::new(Reason::BadRequest, detail)
    })
}

impl OnStream {
    /// Wait for the next head, interim ones included.
    ///
    /// # Errors
    /// [`Reason::Unsent`], [`Reason::Reset`] or [`Reason::BadResponse`].
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Error>> {
        let bad = |detail| Poll::Ready(Err(Error::new(Reason::BadResponse, detail)));
        if let Poll::Ready(Some(Ok(interim))) = self.response.poll_informational(cx) {
            if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
                return bad("a switch, which HTTP/2 has not"); // RFC 9113 §8.6
            }
            return Poll::Ready(heads::response(&interim, true));
        }
        let response = ready!(Pin::new(&mut self.response).poll(cx)).map_err(|e| lost(&e))?;
        if response.status().is_informational() {
            return bad("a last response that is none");
        }
        let (parts, recv) = response.into_parts();
        let ended = recv.is_end_stream();
        let head = heads::response(&http::Response::from_parts(parts, ()), ended)?;
        self.stream.receive(recv);
        Poll::Ready(Ok(match &self.switch {
            Some(switch) if head.status.is_success() => switch.made(head),
            _ => head,
        }))
    }
}

/// A stream that ended without a response. `REFUSED_STREAM`, and a GOAWAY that leaves it out, say
/// that nothing was done with it (RFC 9113 §6.8 and §8.7).
fn lost(error: &h2::Error) -> Error {
    let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let reason = if error.is_remote() && (refused || error.is_go_away()) {
        Reason::Unsent
    } else {
        Reason::Reset
    };
    Error::new(reason, error.to_string())
}

/// Where a request gets a stream.
enum Place<'a> {
    Open(Lease),
    New(Opening<'a>, Option<ConnectionPermit>),
}

/// Held by who opens a connection.
struct Opening<'a>(&'a Slot);

impl<'a> Opening<'a> {
    fn begin(slot: &'a Slot) -> Opening<'a> {
        slot.opening.set(true);
        Opening(slot)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(false);
        self.0.freed.notify_waiters();
    }
}

/// A stream to `target`; `true`: its connection was opened just now.
async fn lease(worker: &Rc<Worker>, target: &Target, slot: &Slot) -> Result<(Lease, bool), Error> {
    if let Look::Room(lease) = slot.look() {
        return Ok((lease, false));
    }
    let found = within(target.connect_timeout, Box::pin(place(target, slot))).await;
    let (opening, permit) = match found {
        Some(Ok(Place::Open(lease))) => return Ok((lease, false)),
        Some(Ok(Place::New(opening, permit))) => (opening, permit),
        Some(Err(error)) => return Err(error),
        None => {
            let (at, limit) = (target.address, target.connect_timeout.as_millis());
            // Where none is open, it was the first that did not open in time.
            return Err(if slot.connections.borrow().is_empty() {
                let detail = format!("no connection to {at} within {limit} ms");
                Error::new(Reason::ConnectFailed, detail)
            } else {
                let detail = format!("no stream to {at} became free within {limit} ms");
                Error::new(Reason::PendingLimit, detail)
            });
        }
    };
    let opened = open(worker, target, permit, &slot.freed).await;
    let failed = opened.as_ref().err();
    *opening.0.failed.borrow_mut() =
        failed.map(|error| (now_us(), error.reason, error.detail.clone()));
    let lease = Lease::take(&opened?);
    let connection = Rc::clone(&lease.0);
    slot.connections.borrow_mut().push(Rc::clone(&connection));
    // Others use it, or open a further one, should the client leave meanwhile.
    drop(opening);
    connection.settle().await;
    let most = connection.streams_max.get();
    if most.is_some_and(|most| connection.streams.get() > most) {
        let detail = format!("{} takes no stream", target.address);
        return Err(Error::new(Reason::PendingLimit, detail));
    }
    Ok((lease, true))
}

/// Wait for a stream, or until a further connection may be opened. Where the service's limits do
/// not let it, one of at most `limits.pending` waits for a stream.
async fn place<'a>(target: &Target, slot: &'a Slot) -> Result<Place<'a>, Error> {
    let asked_us = now_us();
    let (mut permit, mut pending) = (None, None);
    loop {
        let mut freed = pin!(slot.freed.notified());
        // Registered before the look around: whoever frees a stream tells those he knows of.
        freed.as_mut().enable();
        let look = slot.look();
        let (is_soon, is_few) = (matches!(look, Look::Soon), matches!(look, Look::Few));
        match look {
            Look::Room(lease) => return Ok(Place::Open(lease)),
            Look::Few => {
                if let Some((failed_us, reason, detail)) = &*slot.failed.borrow()
                    && *failed_us > asked_us
                {
                    return Err(Error::new(*reason, detail.clone()));
                }
                let taken = permit.take().map_or_else(|| permitted(target), Ok);
                match taken {
                    Ok(permit) => return Ok(Place::New(Opening::begin(slot), permit)),
                    Err(error) if slot.connections.borrow().is_empty() => return Err(error),
                    Err(_) => {}
                }
            }
            Look::Soon | Look::Full => permit = None,
        }
        if let (Some((service, limits)), false, None) = (&target.limits, is_soon, &pending) {
            pending = Some(PendingPermit::take(service, limits)?);
        }
        tokio::select! {
            () = freed => {}
            // Who could not use a place leaves it to others.
            () = place_freed(target), if is_few => permit = permitted(target).ok(),
        }
    }
}

/// When a place among the service's connections came free.
async fn place_freed(target: &Target) {
    match &target.limits {
        Some((service, _)) => service.load.freed.notified().await,
        None => std::future::pending().await,
    }
}

/// A place among the service's connections, where it counts them.
fn permitted(target: &Target) -> Result<Option<ConnectionPermit>, Error> {
    let limits = target.limits.as_ref();
    limits
        .map(|(service, limits)| ConnectionPermit::take(service, limits))
        .transpose()
}

/// A new connection, driven by a task of its own.
async fn open(
    worker: &Rc<Worker>,
    target: &Target,
    permit: Option<ConnectionPermit>,
    freed: &Rc<Notify>,
) -> Result<Rc<Connection>, Error> {
    let connected = connect(worker, target, Alpn::Http2).await?;
    let heard = Heard::default();
    let (sender, mut driven) = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(UNSETTLED)
        .max_header_list_size(HEAD_MAX as u32)
        .max_send_buffer_size(STREAM_SEND_MAX)
        .enable_push(false)
        .handshake(heard.from(Rewound::new(connected.stream, Vec::new())))
        .await
        .map_err(|error| Error::new(Reason::ConnectFailed, error.to_string()))?;
    let connection = Rc::new(Connection {
        sender,
        since_us: now_us(),
        expires_us: connected.expires_us,
        used_us: Cell::new(now_us()),
        closed: Cell::new(false),
        streams: Cell::new(0),
        streams_max: Cell::new(None),
        switches: Cell::new(false),
        settled: Notify::new(),
        freed: Rc::clone(freed),
    });
    // Not held by its own task, or it would never be let go of.
    let known = Rc::downgrade(&connection);
    worker.spawn(async move {
        let mut alive = KeepAlive::new(driven.ping_pong(), heard, PING_INTERVAL);
        // Each stream learns of the connection's end by itself.
        std::future::poll_fn(|cx| {
            if Pin::new(&mut driven).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let known = known.upgrade();
            if let Some(connection) = &known {
                connection.learn(driven.max_concurrent_send_streams());
            }
            // One that nobody holds says goodbye, which a peer that is gone does not read.
            alive.poll(cx, known.is_none_or(|one| one.streams.get() > 0))
        })
        .await;
        if let Some(connection) = known.upgrade() {
            connection.close();
        }
        drop(permit);
    });
    Ok(connection)
}
