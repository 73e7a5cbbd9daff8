//! One connection: what it is served with, and how long it may live.

use std::cell::{Cell, OnceCell};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use super::requests::{Client, answer};
use super::state::{State, Trust};
use crate::timer::until_time;
use crate::tls::verified_peer;

/// Requests at once on one connection: a stream, a renewal, and some to spare.
const STREAMS_MAX: u32 = 8;

/// Bytes of the headers of a request; ours have a hundred.
const HEADER_BYTES_MAX: u32 = 8 * 1024;

/// What a peer may send ahead, per request and per connection. Frames are put together outside
/// the window, so it bounds memory and not the size of a report.
const WINDOW_BYTES: u32 = 64 * 1024;

/// Resets a peer may cause before its connection is closed (rapid reset, CVE-2023-44487).
const RESETS_MAX: usize = 20;

/// Serve one connection until it ends or has to end.
///
/// `generation` is that of the roots that vouched for the peer.
pub(super) async fn converse(state: Arc<State>, stream: TlsStream<TcpStream>, generation: u64) {
    let tls = stream.get_ref().1;
    let peer = if tls.peer_certificates().is_some() {
        match verified_peer(tls, SystemTime::now()) {
            Ok(peer) => Some(peer),
            Err(_) => return,
        }
    } else {
        None
    };
    let limits = state.limits.clone();
    let client = Rc::new(Client {
        state,
        peer,
        stream: OnceCell::new(),
        closing: Notify::new(),
        requests: Cell::new(0),
    });
    let service = {
        let client = Rc::clone(&client);
        service_fn(move |request| answer(Rc::clone(&client), request))
    };
    let mut connection = pin!(
        http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .keep_alive_interval(limits.ping_interval)
            .keep_alive_timeout(limits.ping_wait)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_local_error_reset_streams(RESETS_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    let reason = tokio::select! {
        _ = connection.as_mut() => return,
        reason = overdue(&client, generation) => reason,
    };
    if let Some(stream) = client.stream.get() {
        stream.end(reason);
    }
    connection.as_mut().graceful_shutdown();
    // However it ends now, it is closed.
    let _ = timeout(limits.goodbye_wait, connection).await;
}

/// Wait until a connection has to end. Returns why.
async fn overdue(client: &Client, generation: u64) -> &'static str {
    let mut stopping = client.state.stopping.subscribe();
    let mut trust = client.state.trust.subscribe();
    let is_newer = |trust: &Option<Trust>| {
        let newest = trust.as_ref().map(|trust| trust.generation);
        newest.is_some_and(|newest| newest > generation)
    };
    tokio::select! {
        () = client.closing.notified() => "the stream has ended",
        _ = stopping.wait_for(Option::is_some) => "the control plane is stopping",
        _ = trust.wait_for(is_newer) => "a root was taken away; connect again",
        () = expiry(client) => "the certificate has expired",
        () = idleness(client) => "the connection is idle",
    }
}

/// Wait until a connection without a certificate is too old, or the certificate is.
async fn expiry(client: &Client) {
    match &client.peer {
        Some(peer) => until_time(peer.not_after).await,
        None => sleep(client.state.limits.unauthenticated_life).await,
    }
}

async fn idleness(client: &Client) {
    loop {
        let requests = client.requests.get();
        sleep(client.state.limits.idle).await;
        if client.requests.get() == requests && client.stream.get().is_none() {
            return;
        }
    }
}

/// Runs hyper's inner tasks on the hub's own thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
