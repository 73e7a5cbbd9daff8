//! The calling side of `hbone.rs`: the connections of a thread that tunnels are opened on.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{Method, Request, Response, Version};
use tokio::sync::Mutex;

use super::Target;
use super::connect::{Alpn, connect_now, in_time};
use super::pool::{IDLE_TIME, Key};
use super::stream::{Heard, Rewound};
use crate::error::{Error, Reason};
use crate::hbone::{
    CONNECTION_WINDOW, FRAME, HEAD_MAX, PING_INTERVAL, SEND_BUFFER, SMALL_FRAMES, STREAM_WINDOW,
    STREAMS_MAX,
};
use crate::http2::keepalive::KeepAlive;
use crate::join::Tunnel;
use crate::respond::REASON_HEADER;
use crate::timer::{micros, now_us};
use crate::worker::Worker;

/// Most connections of a thread to one endpoint: with all their tunnels as many as a sidecar has
/// connections at all.
pub const CARRIERS_MAX: usize = 256;
/// What a called sidecar may say against a tunnel; it is believed in nothing else.
const REFUSALS: [Reason; 5] = [
    Reason::BadRequest,
    Reason::UnknownPort,
    Reason::Denied,
    Reason::PendingLimit,
    Reason::AppUnreachable,
];

/// The connections of a thread, by endpoint.
#[derive(Debug, Default)]
pub struct Tunnels(RefCell<HashMap<Key, Slot, ahash::RandomState>>);

type Slot = Rc<Mutex<Held>>;

/// What is held for one endpoint.
#[derive(Debug, Default)]
struct Held {
    carriers: Vec<Rc<Carrier>>,
    /// How the last attempt to connect failed, and when: who waited for it shares its end.
    failed: Option<(u64, Reason, String)>,
}

/// A connection.
#[derive(Debug)]
struct Carrier {
    sender: SendRequest<Bytes>,
    /// Open tunnels.
    tunnels: Cell<usize>,
    /// When a tunnel was last opened or closed.
    used_us: Cell<u64>,
    expires_us: Option<u64>,
    /// No tunnel can be opened any more.
    ended: Cell<bool>,
}

/// A place on a connection; given back when dropped.
#[derive(Debug)]
pub struct Lease(Rc<Carrier>);

impl Lease {
    fn take(carrier: &Rc<Carrier>) -> Lease {
        carrier.tunnels.set(carrier.tunnels.get() + 1);
        Lease(Rc::clone(carrier))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.tunnels.set(self.0.tunnels.get() - 1);
        self.0.used_us.set(now_us());
    }
}

impl Carrier {
    fn is_usable(&self, now_us: u64) -> bool {
        !self.ended.get() && self.expires_us.is_none_or(|end| now_us < end)
    }
}

impl Tunnels {
    fn slot(&self, key: Key) -> Slot {
        Rc::clone(self.0.borrow_mut().entry(key).or_default())
    }

    /// Let go of connections that ended, ran out, or carried no tunnel for [`IDLE_TIME`]. One
    /// that nobody holds says goodbye and closes with its last tunnel.
    pub fn sweep(&self) {
        let now = now_us();
        let oldest = now.saturating_sub(micros(IDLE_TIME));
        self.0.borrow_mut().retain(|_, slot| {
            slot.try_lock().map_or(true, |mut held| {
                held.carriers.retain(|carrier| {
                    let idle = carrier.tunnels.get() == 0 && carrier.used_us.get() <= oldest;
                    carrier.is_usable(now) && !idle
                });
                !held.carriers.is_empty()
            })
        });
    }
}

/// Open a tunnel to `target`, on a connection that is open already if there is room.
///
/// # Errors
/// As [`super::connect::connect`], or what the called sidecar says against it.
pub async fn open(worker: &Rc<Worker>, target: &Target) -> Result<(Tunnel, Lease), Error> {
    let tunnel = Box::pin(async {
        let slot = worker.tunnels.slot(Key::of(target));
        loop {
            let (lease, fresh) = lease(worker, target, &slot).await?;
            match ask(&lease.0.sender, target).await {
                Ok(tunnel) => return Ok((tunnel, lease)),
                // The peer closed it meanwhile. Nothing was sent to the application.
                Err(error) if error.reason == Reason::Unsent => {
                    lease.0.ended.set(true);
                    if fresh {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    });
    in_time(target, tunnel).await
}

/// A place on a connection to `target`; `true`: it was opened just now.
async fn lease(worker: &Rc<Worker>, target: &Target, slot: &Slot) -> Result<(Lease, bool), Error> {
    let asked_us = now_us();
    let mut held = slot.lock().await;
    let has_room =
        |carrier: &&Rc<Carrier>| carrier.is_usable(asked_us) && carrier.tunnels.get() < STREAMS_MAX;
    if let Some(carrier) = held.carriers.iter().find(has_room) {
        return Ok((Lease::take(carrier), false));
    }
    if let Some((failed_us, reason, detail)) = &held.failed
        && *failed_us > asked_us
    {
        return Err(Error::new(*reason, detail.clone()));
    }
    held.carriers.retain(|carrier| carrier.is_usable(asked_us));
    if held.carriers.len() >= CARRIERS_MAX {
        let detail = format!(
            "all {CARRIERS_MAX} connections to {} are full",
            target.address
        );
        return Err(Error::new(Reason::PendingLimit, detail));
    }
    match connect(worker, target).await {
        Ok(carrier) => {
            held.failed = None;
            let lease = Lease::take(&carrier);
            held.carriers.push(carrier);
            Ok((lease, true))
        }
        Err(error) => {
            held.failed = Some((now_us(), error.reason, error.detail.clone()));
            Err(error)
        }
    }
}

/// A new connection, driven by a task of its own.
async fn connect(worker: &Rc<Worker>, target: &Target) -> Result<Rc<Carrier>, Error> {
    let connected = connect_now(worker, target, Alpn::Http2).await?;
    let heard = Heard::default();
    let (sender, mut connection) = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAMES)
        .max_header_list_size(HEAD_MAX)
        .enable_push(false)
        .handshake(heard.from(Rewound::new(connected.stream, Vec::new())))
        .await
        .map_err(|error| Error::new(Reason::ConnectFailed, error.to_string()))?;
    let carrier = Rc::new(Carrier {
        sender,
        tunnels: Cell::new(0),
        used_us: Cell::new(now_us()),
        expires_us: connected.expires_us,
        ended: Cell::new(false),
    });
    let mut alive = KeepAlive::new(connection.ping_pong(), heard, PING_INTERVAL);
    // Not held by its own task, or it would never be let go of.
    let driven = Rc::downgrade(&carrier);
    worker.spawn(async move {
        // Each tunnel learns of the end by itself.
        poll_fn(|cx| {
            if Pin::new(&mut connection).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            // Also without tunnels: the next one must not wait for a peer that has gone.
            alive.poll(cx, true)
        })
        .await;
        if let Some(carrier) = driven.upgrade() {
            carrier.ended.set(true);
        }
    });
    Ok(carrier)
}

/// Ask for a tunnel on a connection.
async fn ask(sender: &SendRequest<Bytes>, target: &Target) -> Result<Tunnel, Error> {
    let unsent = |error: h2::Error| Error::new(Reason::Unsent, error.to_string());
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(target.address.to_string())
        .version(Version::HTTP_2)
        .body(())
        .map_err(|error| Error::new(Reason::BadRequest, error.to_string()))?;
    let mut sender = sender.clone();
    poll_fn(|cx| sender.poll_ready(cx)).await.map_err(unsent)?;
    let (answer, send) = sender.send_request(request, false).map_err(unsent)?;
    let response = answer.await.map_err(|error| match error.reason() {
        // The application took the connection and broke it before the answer was on its way.
        Some(h2::Reason::CONNECT_ERROR) => Error::new(Reason::Reset, error.to_string()),
        _ => unsent(error),
    })?;
    if !response.status().is_success() {
        return Err(refusal(&response, target));
    }
    let receive = response.into_body();
    Ok(Tunnel { send, receive })
}

fn refusal<B>(response: &Response<B>, target: &Target) -> Error {
    let said = response.headers().get(REASON_HEADER);
    let reason = REFUSALS
        .into_iter()
        .find(|reason| said.is_some_and(|said| said.as_bytes() == reason.as_str().as_bytes()))
        .unwrap_or(Reason::BadResponse);
    let detail = format!("{} answered {}", target.address, response.status());
    Error::new(reason, detail)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::timer::tests::on_local;
    use crate::waits::{Mesh, target};

    #[test]
    fn an_endpoint_has_so_many_connections_and_a_tunnel_that_finds_all_full_is_refused() {
        on_local(async {
            let mesh = Mesh::start(|_| {}).await;
            let to = target(SocketAddr::from(([127, 0, 0, 1], 1)), None);
            let (near, far) = tokio::io::duplex(1024);
            let (sender, _connection) = h2::client::handshake(near).await.expect("HTTP/2");
            let full = || {
                Rc::new(Carrier {
                    sender: sender.clone(),
                    tunnels: Cell::new(STREAMS_MAX),
                    used_us: Cell::new(now_us()),
                    expires_us: None,
                    ended: Cell::new(false),
                })
            };
            let slot = mesh.worker.tunnels.slot(Key::of(&to));
            let refused = async || lease(&mesh.worker, &to, &slot).await.expect_err("none");
            slot.lock().await.carriers = (1..CARRIERS_MAX).map(|_| full()).collect();
            // Nobody is there to connect to.
            assert_eq!(refused().await.reason, Reason::ConnectFailed);
            slot.lock().await.carriers.push(full());
            assert_eq!(refused().await.reason, Reason::PendingLimit);
            slot.lock().await.carriers[7].tunnels.set(STREAMS_MAX - 1);
            let (_lease, is_new) = lease(&mesh.worker, &to, &slot).await.expect("a place");
            assert!(!is_new);
            assert_eq!(refused().await.reason, Reason::PendingLimit);
            drop(far);
        });
    }
}
