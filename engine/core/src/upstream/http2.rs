//! One HTTP/2 connection per endpoint and thread, shared by all its requests.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::StatusCode;
use tokio::sync::Mutex;

use super::Target;
use super::connect::{Alpn, ConnectionPermit, connect};
use super::pool::{IDLE_TIME, Key};
use crate::error::{Error, Reason};
use crate::fields::Name;
use crate::head::{Length, RequestHead, ResponseHead};
use crate::http1::HEAD_MAX;
use crate::http2::keepalive::KeepAlive;
use crate::http2::{CONNECTION_WINDOW, STREAM_SEND_MAX, STREAM_WINDOW, Stream, heads};
use crate::timer::{Deadline, micros, now_us};
use crate::worker::Worker;

/// Time between pings while requests are open.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Time between looks whether the settings of a new connection have come.
const SETTINGS_LOOK: Duration = Duration::from_millis(5);

type Slot = Rc<Mutex<Held>>;

/// What is held for one endpoint.
#[derive(Debug, Default)]
struct Held {
    shared: Option<Shared>,
    /// How the last attempt to connect failed, and when: who waited for it shares its end, or
    /// all would wait for one connection after the other.
    failed: Option<(u64, Reason, String)>,
}

#[derive(Debug)]
struct Shared {
    sender: SendRequest<Bytes>,
    life: Rc<Life>,
    expires_us: Option<u64>,
    used_us: u64,
}

/// What a connection's task and its requests know of each other.
#[derive(Debug)]
struct Life {
    /// When it was opened.
    since_us: u64,
    closed: Cell<bool>,
    streams: Cell<u32>,
}

/// Counts a stream while it is open.
#[derive(Debug)]
struct Counted(Rc<Life>);

impl Counted {
    fn begin(life: &Rc<Life>) -> Counted {
        life.streams.set(life.streams.get() + 1);
        Counted(Rc::clone(life))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

/// The HTTP/2 connections of a thread.
#[derive(Debug, Default)]
pub struct Connections(RefCell<HashMap<Key, Slot, ahash::RandomState>>);

impl Connections {
    fn slot(&self, key: Key) -> Slot {
        Rc::clone(self.0.borrow_mut().entry(key).or_default())
    }

    /// Forget connections that are closed, or that no request was sent on for [`IDLE_TIME`]:
    /// such a one ends with its last stream.
    pub fn sweep(&self) {
        let oldest = now_us().saturating_sub(micros(IDLE_TIME));
        self.0.borrow_mut().retain(|_, slot| {
            slot.try_lock().map_or(true, |held| {
                held.shared
                    .as_ref()
                    .is_some_and(|shared| !shared.life.closed.get() && shared.used_us > oldest)
            })
        });
    }
}

/// A request on a stream of its own.
#[derive(Debug)]
pub struct OnStream {
    response: ResponseFuture,
    switch: Option<Box<heads::Switch>>,
    _counted: Counted,
    /// What goes and comes.
    pub stream: Stream,
}

/// Begin a request on the connection to `target`, opening it if need be.
///
/// # Errors
/// As [`connect`], or that the request did not leave.
pub async fn begin(
    worker: &Rc<Worker>,
    target: &Target,
    head: &RequestHead,
    switch: Option<&[u8]>,
) -> Result<OnStream, Error> {
    let slot = worker.http2.slot(Key::of(target));
    loop {
        let (sender, life, fresh) = sender(worker, target, &slot).await?;
        let mut sender = match sender.ready().await {
            Ok(sender) => sender,
            // The peer has said that it leaves, or is gone: its streams may go on for long.
            Err(_) if !fresh => {
                life.closed.set(true);
                continue;
            }
            Err(error) => return Err(Error::new(Reason::Unsent, error.to_string())),
        };
        if switch.is_some() {
            may_switch(&sender, &life, target).await?;
        }
        let request = heads::to_request(head, switch, &target.address.to_string());
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
                    _counted: Counted::begin(&life),
                    stream,
                });
            }
            Err(error) if fresh || error.is_reset() => return Err(lost(&error)),
            Err(_) => life.closed.set(true),
        }
    }
}

/// Wait until the peer has said that it takes an extended CONNECT; a new connection has yet to
/// hear of it (RFC 8441 §3).
async fn may_switch(
    sender: &SendRequest<Bytes>,
    life: &Life,
    target: &Target,
) -> Result<(), Error> {
    let end_us = life.since_us + micros(target.connect_timeout);
    while !sender.is_extended_connect_protocol_enabled() {
        if now_us() >= end_us {
            let detail = "a service on HTTP/2 that cannot switch protocols";
            return Err(Error::new(Reason::BadRequest, detail));
        }
        Deadline::after(SETTINGS_LOOK).await;
    }
    Ok(())
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
            return Poll::Ready(Ok(heads::response(&interim, true)));
        }
        let response = ready!(Pin::new(&mut self.response).poll(cx)).map_err(|e| lost(&e))?;
        if response.status().is_informational() {
            return bad("a last response that is none");
        }
        let (parts, recv) = response.into_parts();
        let ended = recv.is_end_stream();
        let head = heads::response(&http::Response::from_parts(parts, ()), ended);
        self.stream.receive(recv);
        if head.fields.all(Name::ContentLength).nth(1).is_some() {
            return bad("more than one length");
        }
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

/// The sender of the slot's connection; `true`: it was opened just now.
async fn sender(
    worker: &Rc<Worker>,
    target: &Target,
    slot: &Slot,
) -> Result<(SendRequest<Bytes>, Rc<Life>, bool), Error> {
    let asked_us = now_us();
    let mut held = slot.lock().await;
    if let Some(shared) = &mut held.shared
        && !shared.life.closed.get()
        && shared.expires_us.is_none_or(|end| asked_us < end)
    {
        shared.used_us = asked_us;
        return Ok((shared.sender.clone(), Rc::clone(&shared.life), false));
    }
    if let Some((failed_us, reason, detail)) = &held.failed
        && *failed_us > asked_us
    {
        return Err(Error::new(*reason, detail.clone()));
    }
    held.shared = None;
    match open(worker, target).await {
        Ok(shared) => {
            let (sender, life) = (shared.sender.clone(), Rc::clone(&shared.life));
            *held = Held {
                shared: Some(shared),
                failed: None,
            };
            Ok((sender, life, true))
        }
        Err(error) => {
            held.failed = Some((now_us(), error.reason, error.detail.clone()));
            Err(error)
        }
    }
}

/// A new connection, driven by a task of its own.
async fn open(worker: &Rc<Worker>, target: &Target) -> Result<Shared, Error> {
    let permit = match &target.limits {
        Some((service, limits)) => Some(ConnectionPermit::take(service, limits)?),
        None => None,
    };
    let connected = connect(worker, target, Alpn::Http2).await?;
    let (sender, mut connection) = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_MAX as u32)
        .max_send_buffer_size(STREAM_SEND_MAX)
        .enable_push(false)
        .handshake(connected.stream)
        .await
        .map_err(|error| Error::new(Reason::ConnectFailed, error.to_string()))?;
    let life = Rc::new(Life {
        since_us: now_us(),
        closed: Cell::new(false),
        streams: Cell::new(0),
    });
    let lives = Rc::clone(&life);
    worker.spawn(async move {
        let mut alive = KeepAlive::new(connection.ping_pong(), PING_INTERVAL);
        // Each stream learns of the connection's end by itself.
        std::future::poll_fn(|cx| {
            if Pin::new(&mut connection).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            alive.poll(cx, lives.streams.get() > 0)
        })
        .await;
        lives.closed.set(true);
        drop(permit);
    });
    Ok(Shared {
        sender,
        life,
        expires_us: connected.expires_us,
        used_us: now_us(),
    })
}
