//! One HTTP/2 connection per endpoint and thread, shared by all its requests.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::sync::Mutex;

use super::body::RequestBody;
use super::connect::{Alpn, ConnectionPermit, connect};
use super::http1::describe;
use super::pool::{IDLE_TIME, Key};
use super::{Target, http1};
use crate::error::{Error, Reason};
use crate::timer::{CoarseTimer, micros, now_us};
use crate::worker::Worker;

/// Flow-control window of a stream, bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Flow-control window of a connection: several streams, so that one stalled stream does not
/// stop the others.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// A peer that does not answer a ping for this long is gone.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between pings while requests are open.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Runs hyper's tasks on the thread they belong to.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F> Executor<F> for LocalExecutor
where
    F: std::future::Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

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
    sender: SendRequest<RequestBody>,
    expires_us: Option<u64>,
    used_us: u64,
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
                    .is_some_and(|shared| !shared.sender.is_closed() && shared.used_us > oldest)
            })
        });
    }
}

/// Send a request on the connection to `target`, opening it if need be.
///
/// # Errors
/// As [`connect`], or why there is no response.
pub async fn send(
    worker: &Rc<Worker>,
    target: &Target,
    mut request: Request<RequestBody>,
) -> Result<Response<Incoming>, Error> {
    let slot = worker.http2.slot(Key::of(target));
    loop {
        let (mut sender, fresh) = sender(worker, target, &slot).await?;
        let unsent = |detail: String| Error::new(Reason::Unsent, detail);
        if let Err(error) = sender.ready().await {
            if fresh {
                return Err(unsent(describe(&error)));
            }
            continue;
        }
        match sender.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(mut failure) => match failure.take_message() {
                Some(back) if !fresh => request = back,
                Some(_) => return Err(unsent(describe(&failure.into_error()))),
                None => return Err(lost(&failure.into_error())),
            },
        }
    }
}

/// A stream that ended without a response. `REFUSED_STREAM` says that nothing was done with it
/// (RFC 9113 §8.7).
fn lost(error: &hyper::Error) -> Error {
    let refused = std::error::Error::source(error)
        .and_then(|cause| cause.downcast_ref::<h2::Error>())
        .is_some_and(|cause| cause.reason() == Some(h2::Reason::REFUSED_STREAM));
    let reason = if refused {
        Reason::Unsent
    } else {
        Reason::Reset
    };
    Error::new(reason, describe(error))
}

/// The sender of the slot's connection; `true`: it was opened just now.
async fn sender(
    worker: &Rc<Worker>,
    target: &Target,
    slot: &Slot,
) -> Result<(SendRequest<RequestBody>, bool), Error> {
    let asked_us = now_us();
    let mut held = slot.lock().await;
    if let Some(shared) = &mut held.shared
        && !shared.sender.is_closed()
        && shared.expires_us.is_none_or(|end| asked_us < end)
    {
        shared.used_us = asked_us;
        return Ok((shared.sender.clone(), false));
    }
    if let Some((failed_us, reason, detail)) = &held.failed
        && *failed_us > asked_us
    {
        return Err(Error::new(*reason, detail.clone()));
    }
    held.shared = None;
    match open(worker, target).await {
        Ok(shared) => {
            let sender = shared.sender.clone();
            *held = Held {
                shared: Some(shared),
                failed: None,
            };
            Ok((sender, true))
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
    let (sender, connection) = Builder::new(LocalExecutor)
        .timer(CoarseTimer)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(http1::BUFFER_MAX).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(connected.stream))
        .await
        .map_err(|error| Error::new(Reason::ConnectFailed, describe(&error)))?;
    tokio::task::spawn_local(async move {
        // Each stream learns of the connection's end by itself.
        let _ended = connection.await;
        drop(permit);
    });
    Ok(Shared {
        sender,
        expires_us: connected.expires_us,
        used_us: now_us(),
    })
}
