//! The control plane's port: every sidecar's record stream ends here.
//!
//! Python decides, the hub carries. One thread runs the port: it terminates mTLS, keeps the
//! subscriptions and writes records. Python's threads call [`Hub`]: `publish` hands over a record,
//! which is encoded once and put into the slot of each subscriber ([`outbox`]); what happens at
//! the port comes back as events ([`events`]), in order.
//!
//! - [`book`]: who subscribes to what, and what is held
//! - [`outbox`]: what waits to be written to one peer, a newest-wins slot per name
//! - [`events`]: the bounded queue to Python
//! - [`server`]: who is let in; [`connection`]: how long a connection lives
//! - [`requests`], [`stream`]: what it may ask for
//! - [`limits`]: every bound

mod book;
mod connection;
mod events;
mod limits;
mod outbox;
mod requests;
mod server;
mod state;
mod stream;
mod wire;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

pub use events::Event;
pub use limits::Limits;

use crate::tls::{ClientAuth, Identity, TlsError, server_config};
use state::{Reply, State};

/// Connections that wait in the kernel to be accepted, when a whole mesh reconnects at once.
const BACKLOG: i32 = 4096;

/// Something a peer is told besides records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Start sending requests that fit a filter.
    Tap,
    /// Stop.
    Untap,
    /// Say what would happen to a described request.
    Resolve,
}

/// The control plane's port. Usable from any thread. Dropped, it stops at once.
pub struct Hub {
    state: Arc<State>,
    address: SocketAddr,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Hub {
    /// Bind the port and start its thread. Nobody is let in before [`Hub::set_identity`].
    ///
    /// # Errors
    /// The address is not one, or cannot be bound.
    pub fn bind(listen: &str, limits: Limits) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("hub address {listen:?}: {error}");
        let address: SocketAddr = listen
            .parse()
            .map_err(|_| format!("hub address {listen:?}: must be an IP address and a port"))?;
        let listener = listen_on(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let state = Arc::new(State::new(limits));
        let served = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("tulle-hub".to_owned())
            .spawn(move || run(&runtime, served, listener))
            .map_err(failed)?;
        Ok(Self {
            state,
            address,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Where the port is bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Present this certificate, and trust these roots, from the next connection on.
    ///
    /// Open connections stay, unless a root is taken away: then all are told goodbye, and those
    /// the remaining roots vouch for come again.
    ///
    /// # Errors
    /// The PEM texts do not make an identity.
    pub fn set_identity(&self, chain: &str, key: &str, roots: &str) -> Result<(), String> {
        let failed = |error: TlsError| error.to_string();
        let identity = Identity::from_pem(chain, key, &[roots]).map_err(failed)?;
        let config = server_config(&identity, ClientAuth::Optional, &[b"h2"]).map_err(failed)?;
        self.state.set_trust(config, identity.roots());
        Ok(())
    }

    /// Give every subscriber of a name this version. Without subscribers nothing is kept.
    ///
    /// # Errors
    /// The record does not fit into a frame.
    pub fn publish(&self, name: &str, version: &str, data: &[u8]) -> Result<(), String> {
        let frame = wire::record(name, version, data)?;
        let published = &self.state.counters.published;
        published.fetch_add(1, Ordering::Relaxed);
        self.state.book().publish(name, version, frame);
        Ok(())
    }

    /// Tell every subscriber of a name that there is no such record.
    pub fn withdraw(&self, name: &str) {
        self.state.book().withdraw(name);
    }

    /// Drop the bytes of a record without telling anybody; the next subscriber is asked for.
    pub fn forget(&self, name: &str) {
        self.state.book().forget(name);
    }

    /// The next event; `None` after the timeout, or when the hub has stopped and all were taken.
    pub fn next_event(&self, timeout: Duration) -> Option<Event> {
        self.state.events.pop(timeout)
    }

    /// Answer a join, a renewal or a last report. False when it does not wait any more.
    pub fn reply(&self, request: u64, status: u16, body: Vec<u8>) -> bool {
        let body = Bytes::from(body);
        self.state.reply(request, Reply { status, body })
    }

    /// Send a command to a peer. False when it is gone or does not read.
    ///
    /// # Errors
    /// The body does not fit into a frame.
    pub fn send(&self, peer: u64, command: Command, body: &[u8]) -> Result<bool, String> {
        let frame = wire::command(command, body)?;
        let book = self.state.book();
        Ok(book
            .outbox(peer)
            .is_some_and(|outbox| outbox.command(frame)))
    }

    /// Say goodbye to a peer and close its connection. False when it is gone.
    pub fn disconnect(&self, peer: u64, reason: &str) -> bool {
        self.state.disconnect(peer, reason)
    }

    /// Counters and sizes, as a JSON object.
    pub fn stats(&self) -> Vec<u8> {
        self.state.stats().to_string().into_bytes()
    }

    /// Say goodbye to all peers, close the port and wait for its thread.
    pub fn stop(&self) {
        self.stop_within(self.state.limits.goodbye_wait);
    }

    fn stop_within(&self, grace: Duration) {
        self.state.stopping.send_replace(Some(grace));
        let thread = self.thread.lock();
        let thread = thread.unwrap_or_else(PoisonError::into_inner).take();
        // A panic of the thread was printed by itself; there is nothing left to stop.
        let _ = thread.map(JoinHandle::join);
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop_within(Duration::ZERO);
    }
}

fn listen_on(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn run(runtime: &Runtime, state: Arc<State>, listener: std::net::TcpListener) {
    let events = Arc::clone(&state);
    LocalSet::new().block_on(runtime, async move {
        let listener = TcpListener::from_std(listener).expect("the listener does not block");
        server::serve(state, listener).await;
    });
    events.events.close();
}
