//! The port: accepting connections, and their handshakes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::converse;
use super::state::{State, Trust};

/// How long accepting rests after an error, most likely too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accept connections until told to stop, then wait for those that are open.
pub(super) async fn serve(state: Arc<State>, listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(state.limits.connections));
    let handshakes = Arc::new(Semaphore::new(state.limits.handshakes));
    let mut stopping = state.stopping.subscribe();
    tokio::select! {
        () = accept(&state, &listener, &connections, &handshakes) => {}
        _ = stopping.wait_for(Option::is_some) => {}
    }
    drop(listener);
    let all = u32::try_from(state.limits.connections).unwrap_or(u32::MAX);
    // An error here only says that some did not finish in time; they are dropped.
    let grace = stopping.borrow().unwrap_or_default();
    let _ = timeout(grace, connections.acquire_many(all)).await;
}

async fn accept(
    state: &Arc<State>,
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
    handshakes: &Arc<Semaphore>,
) {
    let mut trust = state.trust.subscribe();
    if trust.wait_for(Option::is_some).await.is_err() {
        return;
    }
    loop {
        let handshake = Arc::clone(handshakes).acquire_owned().await;
        let handshake = handshake.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let trust = trust.borrow().clone();
        let Trust {
            config, generation, ..
        } = trust.expect("an identity is never taken back");
        let counters = &state.counters;
        counters.accepted.fetch_add(1, Ordering::Relaxed);
        let Ok(connection) = Arc::clone(connections).try_acquire_owned() else {
            counters.refused_connections.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let state = Arc::clone(state);
        tokio::task::spawn_local(async move {
            let counters = &state.counters;
            let _counted = Counted::new(&counters.connections);
            match shake_hands(&state, config, stream, handshake).await {
                Some(stream) => converse(Arc::clone(&state), stream, generation).await,
                None => {
                    counters.failed_handshakes.fetch_add(1, Ordering::Relaxed);
                }
            }
            drop(connection);
        });
    }
}

async fn shake_hands(
    state: &State,
    config: Arc<ServerConfig>,
    stream: TcpStream,
    place: OwnedSemaphorePermit,
) -> Option<TlsStream<TcpStream>> {
    let _counted = Counted::new(&state.counters.handshakes);
    stream.set_nodelay(true).ok()?;
    let accepted = TlsAcceptor::from(config).accept(stream);
    let stream = timeout(state.limits.handshake_wait, accepted).await;
    drop(place);
    stream.ok()?.ok()
}

/// Counts something as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
